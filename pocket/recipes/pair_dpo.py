"""Recipe: preference alignment of the pocket pair model (STAGE §4.2, second stage), as adapters on both of its models.

The winner is the true pair, the loser two inner frames of the same shot in order (§3): a movement that is not
complete. Shots that hardly move, whose loser looks like the winner, are left out. Ours: where a caption keeps the
colour of a character back, the loser may be the same pair with that character in another colour. The reference is the
pair model as it was trained, its adapters switched off.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...models.layouts.start_end import unpatchify
from ...training.lora import add_lora, without_lora
from ...training.objectives import FlowDPO, FlowInputs, PreferenceInputs
from ...training.processes import Share
from ...training.recipe import Recipe
from .pair_flow import PairInputs, PairStudent, predict
from .pairs import PairBatch, PairDraws, PairRecipe, Shown

__all__ = ["PreferenceDraws", "PreferenceRecipe"]

_SIZE = (10, 20)


@dataclass(frozen=True)
class PreferenceDraws(PairDraws):
    """Shots of stories with histories, of those whose inner frames differ from their outer ones.

    Args:
        least: mean absolute difference, in latent units, that counts as different.
        recoloured: the same pairs with one character in a wrong colour (`encode_recoloured`): losers of the shots
            whose caption keeps a colour back. None: all losers are inner frames.
    """

    least: float = 0.12
    recoloured: Tensor | None = None

    @cached_property
    def moving(self) -> Tensor:
        """Bool [N, P]: winner and loser are told apart."""
        latents = self.tables.latents
        return torch.stack([(row[:, :2].float() - row[:, 2:].float()).abs().mean((1, 2, 3, 4)) for row in latents]) > (
            self.least
        )

    def eligible(self, story: int, shot: int) -> bool:
        return bool(self.moving[story, shot])

    pinned: float = 0.0

    def kind(self, rng: random.Random) -> tuple[bool, str | None, bool, Shown]:
        return *super().kind(rng)[:3], "pair"


class PreferenceRecipe(Recipe[PairBatch, PreferenceInputs]):
    """Flow DPO (Eq. 5–6) on both models' adapters.

    Args:
        data: draws the shots.
        start: weights of the trained student.
        rank: of the adapters.
        beta: how far the policy may move away from the reference.
    """

    name = "pair_dpo"
    data: PreferenceDraws

    def __init__(self, data: PreferenceDraws, start: Mapping[str, Tensor], rank: int = 4, beta: float = 2000.0) -> None:
        self.data, self.rank = data, rank
        self._pairs = PairRecipe(data, start)
        self.objective = FlowDPO(_predict, _reference, beta, _encode)

    def build(self) -> PairStudent:
        model = self._pairs.build()
        model.requires_grad_(False)
        add_lora(model.transformer, "qwen_image", self.rank)
        add_lora(model.qwen, "qwen_vl", self.rank)
        return model

    def inputs(self, batch: PairBatch, step: int) -> PreferenceInputs:
        conditions = self._pairs.inputs(batch, step)
        loser = self._losers(batch)
        t = conditions.t[:, None, None, None, None]
        return PreferenceInputs(conditions.latents, loser, conditions.noise, t, conditions)

    def _losers(self, batch: PairBatch) -> Tensor:
        """[B, 2, 16, h, w]: two inner frames, or the pair with a colour wrong that only the memory tells."""
        _, story, shot = batch.shot.unbind(-1)
        loser = self.data.tables.latents[story, shot][:, 2:].float()
        if self.data.recoloured is None:
            return loser
        side = (batch.hidden > 1).long()  # of two, the one on the right
        wrong = self.data.recoloured[story, shot, side].float()
        return torch.where((batch.hidden > 0)[:, None, None, None, None], wrong, loser)

    def share(self, inputs: PreferenceInputs, share: Share) -> PreferenceInputs:
        rows = share.rows(len(inputs.winner), "shots")
        return inputs._replace(
            winner=rows.of(inputs.winner),
            loser=rows.of(inputs.loser),
            noise=rows.of(inputs.noise),
            t=rows.of(inputs.t),
            conditions=inputs.conditions.rows(rows),
        )


def _encode(model: PairStudent, inputs: PairInputs) -> tuple[PairInputs, Tensor, Tensor]:
    return inputs, *model.encode(inputs)


def _predict(model: PairStudent, noisy: Tensor, flow: FlowInputs) -> Tensor:
    inputs, text, mask = flow.conditions
    tokens = predict(model, inputs, noisy, text, mask)
    return torch.stack([unpatchify(part, _SIZE) for part in tokens.chunk(noisy.shape[1], 1)], 1)


def _reference(model: PairStudent) -> AbstractContextManager[Any]:
    return without_lora(model.transformer, model.qwen)
