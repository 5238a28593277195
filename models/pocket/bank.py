"""A bank of rendered pocket pictures and clips in memory, so that training does not wait for the renderer."""

from __future__ import annotations

import numpy as np
import torch

from .render import render, render_clip
from .world import ShotSpec, generator, make_story


def random_shots(count: int, split: str, seed: int, shots_per_story: int = 4) -> list[ShotSpec]:
    """Shots of consecutive stories of a split, starting at story `seed`."""
    out: list[ShotSpec] = []
    story = seed
    while len(out) < count:
        out.extend(make_story(story, shots_per_story, split).shots)
        story += 1
    return out[:count]


def picture_bank(count: int, split: str, seed: int = 0) -> np.ndarray:
    """uint8 [count, 80, 160, 3]; each shot at a random time within two seconds."""
    rng = generator(split, seed)
    return np.stack([render(s, float(rng.uniform(0, 2)))[0] for s in random_shots(count, split, seed)])


def clip_bank(count: int, frames: int, split: str, seed: int = 0) -> np.ndarray:
    """uint8 [count, frames, 80, 160, 3]; clips start at a random time within the first second."""
    rng = generator(split, seed)
    shots = random_shots(count, split, seed + 10_000_000)
    return np.stack([render_clip(s, frames, start=float(rng.uniform(0, 1)))[0] for s in shots])


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [..., H, W, 3] to float32 [..., 3, H, W] in 0…1."""
    return torch.from_numpy(pictures.copy()).movedim(-1, -3).float() / 255
