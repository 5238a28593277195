"""What all stages of one film share, and the seeds they draw from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from ..story.shot import MAX_SEED, Shot
from ..story.storyboard import Caption, Storyboard
from .run_folder import RunFolder

if TYPE_CHECKING:
    from ..models.studio import Studio

__all__ = ["FilmJob", "Progress", "keyframe_file", "stage_generator", "stage_seed"]


class Progress(Protocol):
    """Called as work goes on: `done` of `total` solver steps of a stage (`keyframes`, `video`) or shots (`film`)."""

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None: ...


@dataclass
class FilmJob:
    """One film being made.

    Attributes:
        story: the whole storyboard.
        captions: one caption per shot of it.
        chosen: positions of the shots to render, in film order.
        studio: the models.
        studio_hash: what identifies the studio's settings and weights.
        run: the open run folder.
        progress, say: where progress and lines for people go.
    """

    story: Storyboard
    captions: list[Caption]
    chosen: list[int]
    studio: Studio
    studio_hash: str
    run: RunFolder
    progress: Progress
    say: Callable[[str], None]

    @property
    def remembered(self) -> list[int]:
        """Positions of the shots whose keyframes are needed: the chosen ones and, as their memory, all before them.

        A shot rendered alone therefore looks as it does in the whole film.
        """
        return list(range(self.chosen[-1] + 1))


def keyframe_file(shot: Shot, index: int) -> str:
    """Name of keyframe `index` of `shot` in the run folder."""
    return f"keyframes/{shot.id}_{index:02d}.png"


def stage_seed(shot: Shot, take: int, stage: str) -> int:
    """The seed of one stage of a shot: from the shot's own seed (or id), the take and the stage, and from nothing else.

    So it does not matter which shots are rendered, in what order, or how often a run was broken off.
    """
    text = f"{shot.noise_seed()}:{take}:{stage}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") & MAX_SEED


def stage_generator(seed: int) -> torch.Generator:
    """A generator on the CPU, whose numbers are the same for every device."""
    return torch.Generator("cpu").manual_seed(seed)
