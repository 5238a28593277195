"""Supervised training of start-end pairs, then preferences (STAGE §4.2): one recipe, two objectives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...models.layouts.start_end import PairLayoutName
from ...sampling.noise import noise_like, seeded
from ..graphs import map_tensors
from ..objectives import FlowDPO, FlowInputs, FlowMatching, Objective, PreferenceInputs
from ..processes import Share
from ..recipe import Recipe
from .draws import PairBatch, PairDraws
from .flow import Conditions, PairLearner, PairPredictor, untrained

__all__ = ["PairRecipe", "Preferences", "Times"]


@dataclass(frozen=True)
class Times:
    """Which noise levels are trained: t = s·u / (1 + (s − 1)·u) with u logit-normal.

    Attributes:
        mean, std: of the logits of u.
        shift: s, as in the sampler's schedule; above 1 leans to high noise.
    """

    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """[count] times in 0…1."""
        u = torch.sigmoid(self.mean + self.std * torch.randn(count, generator=generator))
        return self.shift * u / (1 + (self.shift - 1) * u)


@dataclass(frozen=True)
class Preferences:
    """How preferences are learned.

    Attributes:
        beta: how far the model may move away from what it was.
        share_t, share_noise: whether winner and loser have the same time and noise.
    """

    beta: float = 2000.0
    share_t: bool = True
    share_noise: bool = True


class PairRecipe(Recipe[PairBatch, Any]):
    """Start-end pairs through adapters on transformer and text encoder.

    Args:
        name: of the checkpoint.
        data: draws the shots; with losers where there are `preferences`.
        learner: builds the model, the same each time, on its device.
        layout: where the frames stand.
        times: which noise levels are trained.
        preferences: learn these (Eq. 6); None: flow matching (Eq. 4).
    """

    units = ("PairQwenBlock", "Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock")
    keeps_frozen = False
    data: PairDraws

    def __init__(
        self,
        name: str,
        data: PairDraws,
        learner: Callable[[], PairLearner],
        layout: PairLayoutName = "stacked",
        times: Times = Times(),  # noqa: B008
        preferences: Preferences | None = None,
    ) -> None:
        self.name, self.data, self.learner = name, data, learner
        self.times, self.preferences = times, preferences
        predictor = PairPredictor(data.pack, layout)
        self.objective: Objective[Any] = FlowMatching(predictor.from_text)
        if preferences is not None:
            self.objective = FlowDPO(predictor.from_states, untrained, preferences.beta, predictor.encode)

    def build(self) -> PairLearner:
        return self.learner()

    def inputs(self, batch: PairBatch, step: int) -> FlowInputs | PreferenceInputs:
        # Drawn on the CPU: the same numbers on every device.
        device, generator = batch.winner.device, seeded(batch.seed)
        rows = len(batch.winner)

        def times() -> Tensor:
            return self.times.draw(rows, generator).view(rows, 1, 1, 1, 1).to(device)

        def noise() -> Tensor:
            return noise_like(batch.winner.shape, generator).to(device)

        t, first = times(), noise()
        conditions = Conditions(batch.prompts, batch.pictures, batch.memory, batch.there)
        if self.preferences is None:
            return FlowInputs(batch.winner, first, t, torch.ones_like(t), conditions)
        assert batch.loser is not None
        return PreferenceInputs(
            batch.winner,
            batch.loser,
            first,
            t,
            conditions,
            None if self.preferences.share_noise else noise(),
            None if self.preferences.share_t else times(),
        )

    def share(self, inputs: Any, share: Share) -> Any:
        rows = share.rows(len(inputs.noise), "shots")
        told: Conditions = inputs.conditions
        mine = told._replace(
            prompts=told.prompts[rows.start : rows.stop], pictures=told.pictures[rows.start : rows.stop],
            memory=[rows.of(x) for x in told.memory], there=rows.of(told.there),
        )  # fmt: skip
        parts = {k: v for k, v in inputs._asdict().items() if k != "conditions"}
        return type(inputs)(**map_tensors(rows.of, parts), conditions=mine)
