"""How scene and action are weighted (DIPW), by the inputs that its two nodes share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from ..core.errors import InputError
from ..sampling.text2story.prompt_mixing import DIPW, Clock, Scorer
from .mixing_preview import DECODED, preview_scorer

__all__ = ["Weighting"]


@dataclass(frozen=True, eq=False)
class Weighting:
    """The weighting of scene and action.

    Attributes:
        lambda_picture, lambda_previous, lambda_progress: λ of the CLIP score, of the last embedding and of the clock.
        temperature: τ of the softmax.
        score_every: steps from one score to the next.
        start_percent, end_percent: part of the schedule in which images are scored.
        preview: what is scored, see `preview_images`.
        scene_text, action_text: the prompts as CLIP reads them.
        clip, clip_vision: a CLIP pair; without it nothing is scored.
        vae: the model's, for previews that are decoded.
        progress_shift, progress_clock: shift of the clock, and what it counts.
        schedule: sigmas of the whole run, where the sampler is given a part of them.

    Raises:
        InputError: an input is out of range.
    """

    lambda_picture: float = 1.0
    lambda_previous: float = 1.0
    lambda_progress: float = 1.0
    temperature: float = 0.5
    score_every: int = 4
    start_percent: float = 0.0
    end_percent: float = 1.0
    preview: str = "latent_rgb"
    scene_text: str = ""
    action_text: str = ""
    clip: Any = None
    clip_vision: Any = None
    vae: Any = None
    progress_shift: float = 1.0
    schedule: Tensor | None = None
    progress_clock: str = "steps"

    def __post_init__(self) -> None:
        if self.start_percent > self.end_percent:
            rule = f"must not lie beyond end_percent, {self.end_percent:g}"
            fix = "pictures are scored between the two; lambda_picture 0 scores none"
            raise InputError("start_percent", rule, self.start_percent, fix)

    @property
    def settings(self) -> DIPW:
        """The same for the algorithm."""
        lambdas, clock = (self.lambda_picture, self.lambda_previous, self.lambda_progress), self.progress_clock
        return DIPW(
            lambdas, self.temperature, self.score_every, prior_shift=self.progress_shift, prior_clock=cast(Clock, clock)
        )

    def scorer(self, model: Any) -> tuple[Scorer | None, list[Any]]:
        """What scores the images of `model`, if anything does, and the patchers of the models that it needs."""
        if self.clip is None or self.clip_vision is None or not self.lambda_picture:
            return None, []
        texts = self.scene_text, self.action_text
        scorer = preview_scorer(model, self.preview, texts, self.clip, self.clip_vision, self.vae)
        return scorer, [self.clip_vision.patcher] + ([self.vae.patcher] if self.preview in DECODED else [])
