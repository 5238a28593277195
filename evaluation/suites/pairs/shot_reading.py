"""Reads a shot's camera movement and its length from what changes between its start and its end frame.

The recogniser reads who and what the start frame shows; the world's renderer then draws the end frames that this shot
would have with every movement, or every length, and the one that is nearest to the generated end frame is what was
read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ....pocket.bank import to_tensor
from ....pocket.render import render
from ....pocket.world import FPS, MOVEMENTS, Actor, Layout, Look, ShotSpec
from .stories import LENGTHS, ToldStory

__all__ = ["ShotReading", "read_shots"]

TELLABLE = 0.004
"""Mean difference of two drawn end frames (0…1) below which nobody could tell them apart."""


@dataclass(frozen=True)
class ShotReading:
    """Whether a shot's end frame is what its text asks for; None where several answers look alike.

    Attributes:
        movement: nearest to the end frame of the movement that was asked for.
        length: nearest to that of the length that was asked for.
    """

    movement: bool | None
    length: bool | None


def read_shots(stories: Sequence[ToldStory], ends: Tensor, read: Mapping[str, Tensor]) -> list[list[ShotReading]]:
    """Read every shot.

    Args:
        stories: what was asked for.
        ends: `[N, P, 3, H, W]`, the end frames.
        read: the recogniser's classes of the start frames, `[N, P, 2]` or `[N, P]`.
    """
    return [
        [
            _read(_as_read(shot, {head: values[n, p] for head, values in read.items()}), length, ends[n, p])
            for p, (shot, length) in enumerate(zip(story.truth.shots, story.lengths, strict=True))
        ]
        for n, story in enumerate(stories)
    ]


def _as_read(shot: ShotSpec, read: Mapping[str, Tensor]) -> ShotSpec:
    """The shot as its start frame shows it; who stands where is what was asked for."""

    def value(head: str, side: int | None = None) -> int:
        return int(read[head] if side is None else read[head][side])

    actors = tuple(
        Actor(
            actor.name,
            Look(*(value(head, actor.side) for head in ("colour", "shape", "accessory"))),
            actor.side,
            value("action", actor.side),
        )
        for actor in shot.actors
    )
    layout = Layout(*(value(head) for head in ("place", "sky", "first", "second")))
    return replace(shot, layout=layout, actors=actors, scale=value("scale"))


def _read(shot: ShotSpec, length: int, end: Tensor) -> ShotReading:
    last = (length - 1) / FPS
    moved = [render(replace(shot, movement=movement), last)[0] for movement in range(len(MOVEMENTS))]
    timed = [moved[shot.movement] if n == length else render(shot, (n - 1) / FPS)[0] for n in LENGTHS]
    return ShotReading(_nearest(moved, shot.movement, end), _nearest(timed, LENGTHS.index(length), end))


def _nearest(drawn: Sequence[np.ndarray], asked: int, end: Tensor) -> bool | None:
    """Whether the picture that was asked for is the nearest of those drawn; None where another looks the same."""
    pictures = to_tensor(np.stack(drawn))
    apart = (pictures - pictures[asked]).abs().mean((1, 2, 3))
    if float(apart[[n for n in range(len(drawn)) if n != asked]].min()) < TELLABLE:
        return None
    distances = (pictures - end.to(pictures)).abs().mean((1, 2, 3))
    return int(torch.argmin(distances)) == asked
