"""A bank of rendered pocket pictures and clips in memory, so that training does not wait for the renderer."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from .render import render, render_clip
from .world import ShotSpec, generator, make_story

Item = TypeVar("Item")
Drawn = TypeVar("Drawn")

_ALONE = 4000
"""So few drawings are done before other processes have started."""


def draw_all(draw: Callable[[Item], Drawn], items: Sequence[Item]) -> list[Drawn]:
    """`draw` of every item, in order; many of them on all cores.

    Both must be picklable: a module's function, or a partial of one.
    """
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if len(items) < _ALONE or workers == 1:
        return [draw(item) for item in items]
    # a fork starts at once, and drawing touches neither threads nor a GPU
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers, context) as pool:
        return list(pool.map(draw, items, chunksize=64))


def random_shots(count: int, split: str, seed: int, shots_per_story: int = 4) -> list[ShotSpec]:
    """Shots of consecutive stories of a split, starting at story `seed`."""
    out: list[ShotSpec] = []
    story = seed
    while len(out) < count:
        out.extend(make_story(story, shots_per_story, split).shots)
        story += 1
    return out[:count]


def picture_bank(count: int, split: str, seed: int = 0, scale: int = 1) -> np.ndarray:
    """uint8 [count, 80 · scale, 160 · scale, 3]; each shot at a random time within two seconds."""
    rng = generator(split, seed)
    shots = random_shots(count, split, seed)
    return np.stack(draw_all(partial(_draw_picture, scale), [(s, float(rng.uniform(0, 2))) for s in shots]))


def _draw_picture(scale: int, moment: tuple[ShotSpec, float]) -> np.ndarray:
    return render(*moment, scale)[0]


def clip_bank(count: int, frames: int, split: str, seed: int = 0, scale: int = 1) -> np.ndarray:
    """uint8 [count, frames, 80 · scale, 160 · scale, 3]; clips start at a random time within the first second."""
    rng = generator(split, seed)
    shots = random_shots(count, split, seed + 10_000_000)
    return np.stack(draw_all(partial(_draw_clip, frames, scale), [(s, float(rng.uniform(0, 1))) for s in shots]))


def _draw_clip(frames: int, scale: int, moment: tuple[ShotSpec, float]) -> np.ndarray:
    shot, start = moment
    return render_clip(shot, frames, start=start, scale=scale)[0]


def to_tensor(pictures: np.ndarray | torch.Tensor) -> torch.Tensor:
    """uint8 [..., H, W, 3] to float32 [..., 3, H, W] in 0…1."""
    pixels = torch.from_numpy(pictures.copy()) if isinstance(pictures, np.ndarray) else pictures
    return pixels.movedim(-1, -3).float() / 255
