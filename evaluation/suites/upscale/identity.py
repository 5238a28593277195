"""Identity of large frames: how far a character is from itself, measured by how far strangers are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ....pocket.bank import to_tensor
from ....pocket.recogniser import Recogniser
from ....pocket.render import render
from ....pocket.world import ACCESSORIES, COLOURS, FPS, SHAPES, Actor, Look, ShotSpec
from .sources import SCALE, SourceClip

__all__ = ["LargeFrames", "strangers"]

STRANGERS = 3
"""Others in a character's place; so many share neither shape nor accessory with it, nor with each other."""

_FRAMES = 4
"""Frames of a clip that strangers are drawn in: their distance is a mean, and the same for all variants."""


class LargeFrames:
    """What the recogniser makes of characters in frames of full size, which are not reduced to its own.

    Reduced, a frame is as good as the small one that it was made of, however it was made. And the recogniser was
    trained to read blurred pictures: what it reads hardly tells, but its features do, at every place of the character.
    Near 1 their cosine tells little, either, for it grows with the square of what is wrong; the distance of features of
    unit length, √(2 − 2 cos), grows with it.

    Args:
        recogniser: whose features are taken.
    """

    def __init__(self, recogniser: Recogniser) -> None:
        self._recogniser = recogniser
        self._known: tuple[SourceClip, float | None] | None = None

    @torch.no_grad()
    def __call__(self, clip: SourceClip, made: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """`(likeness, identity)` of a clip's measured frames, `[T, 3, H, W]` in 0…1; None where nobody stands.

        `likeness` is the mean cosine with the true frames' features where characters are, `identity` 1 less the mean
        distance over that of strangers: 1 for the truth, 0 for somebody else in the character's place.
        """
        if clip.characters is None:
            return None, None
        found = self._distances(made, clip.truth[clip.measured], clip.characters[clip.measured])
        if not len(found):
            return None, None
        strange = self._strange(clip)
        return 1 - found.square().mean() / 2, 1 - found.mean() / strange if strange else None

    def _distances(self, one: Tensor, other: Tensor, mask: Tensor) -> Tensor:
        """Of both frames' features of unit length, wherever the mask covers most of a feature's cell: `[N]`."""
        made, true = (F.normalize(self._recogniser.features(frames * 2 - 1), dim=1) for frames in (one, other))
        covered = F.adaptive_avg_pool2d(mask[:, None].float(), (made.shape[-2], made.shape[-1]))[:, 0] > 0.5
        return (made - true).double().square().sum(1).sqrt()[covered]

    def _strange(self, clip: SourceClip) -> float | None:
        """Mean distance of strangers from a clip's characters, where these stand; None where nobody is known."""
        if clip.shot is None or clip.characters is None:
            return None
        if self._known is None or self._known[0] is not clip:
            at = clip.measured[:: -(-len(clip.measured) // _FRAMES)]
            true, mask = clip.truth[at], clip.characters[at]
            found = [self._distances(other, true, mask) for other in strangers(clip.shot, at)]
            self._known = clip, float(torch.cat(found).mean()) if len(found[0]) else None
        return self._known[1]


def strangers(shot: ShotSpec, frames: Sequence[int]) -> list[Tensor]:
    """Frames of a shot, `[T, 3, H, W]` in 0…1, drawn with others in the places of its characters, `STRANGERS` times."""
    shots = [replace(shot, actors=tuple(_other(actor, k) for actor in shot.actors)) for k in range(1, STRANGERS + 1)]
    return [torch.cat([to_tensor(render(other, t / FPS, SCALE)[0][None]) for t in frames]) for other in shots]


def _other(actor: Actor, k: int) -> Actor:
    """Stranger k: does the same, and looks different in every respect."""
    own = actor.look
    every = ((own.colour, COLOURS), (own.shape, SHAPES), (own.accessory, ACCESSORIES))
    return replace(actor, look=Look(*((value + k) % len(classes) for value, classes in every)))
