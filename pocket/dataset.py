"""Pocket stories as latents: every frame at every GoldenMem size, with captions, masks and ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..core.files import atomic_path
from ..memory.golden_mem import resize_context
from ..models.encoders.vae import VideoCodec
from .bank import draw_all, to_tensor
from .render import render
from .world import ShotSpec, Story, make_story

#: pixel sizes of the GoldenMem tiers of a pocket frame: 5, 3 and 1 tokens on the short side
TIER_PIXELS = ((80, 160), (48, 96), (16, 32))


@dataclass
class StoryLatents:
    """Latents of N stories × P shots.

    Attributes:
        tiers: per GoldenMem tier a tensor [N, P, 16, h, w], normalised by `mean` and `std`.
        weight: [N, P, 10, 20], share of each latent pixel that shows a character.
        stories: N ground truths of P shots.
        mean, std: per-channel statistics of the raw full-size latents.
    """

    tiers: list[Tensor]
    weight: Tensor
    stories: list[Story]
    mean: Tensor
    std: Tensor

    @property
    def shots(self) -> list[list[ShotSpec]]:
        """N lists of P ground truths."""
        return [list(story.shots) for story in self.stories]


@torch.no_grad()
def encode_stories(
    vae: AutoencoderKLWan,
    stories: int,
    shots: int,
    split: str = "train",
    seed: int = 0,
    cache: Path | None = None,
    codec: VideoCodec | None = None,
    max_places: int = 3,
) -> StoryLatents:
    """Render and encode stories seed…seed+stories−1; with `cache` the tensors are kept in that file.

    With `codec` its own statistics normalise the latents; without, those of the stories encoded here do.
    """
    truth = [make_story(seed + n, shots, split, max_places=max_places) for n in range(stories)]
    if cache is not None and cache.exists():
        with safe_open(cache, framework="pt") as f:
            tensors = {k: f.get_tensor(k).float() for k in f.keys()}  # noqa: SIM118 (not a dict)
        tiers = [tensors[f"tier{i}"] for i in range(len(TIER_PIXELS))]
        return StoryLatents(tiers, tensors["weight"], truth, tensors["mean"], tensors["std"])
    drawn = draw_all(_draw, [shot for story in truth for shot in story.shots])
    pictures = np.stack([picture for picture, _ in drawn])
    raw = [_encode(vae, pictures, size).unflatten(0, (stories, shots)) for size in TIER_PIXELS]
    mean, std = raw[0].mean((0, 1, 3, 4)), raw[0].std((0, 1, 3, 4))
    if codec is not None:
        mean, std = (torch.tensor(codec.model.config[f"latents_{k}"]) for k in ("mean", "std"))
    tiers = [(r - mean[:, None, None]) / std[:, None, None] for r in raw]
    weight = torch.from_numpy(np.stack([share for _, share in drawn])).unflatten(0, (stories, shots))
    if cache is not None:
        with atomic_path(cache) as temporary:
            halves = {f"tier{i}": t.half().contiguous() for i, t in enumerate(tiers)}
            save_file(halves | {"weight": weight.half().contiguous(), "mean": mean, "std": std}, temporary)
    return StoryLatents(tiers, weight, truth, mean, std)


def _draw(shot: ShotSpec) -> tuple[np.ndarray, np.ndarray]:
    """A shot's first frame, and the share of each latent cell that shows a character."""
    picture, mask = render(shot)
    return picture, cell_shares(mask)


def cell_shares(mask: np.ndarray) -> np.ndarray:
    """Masks uint8 [..., 80, 160] to the share of each latent cell, fp32 [..., 10, 20]."""
    cells = mask.reshape(*mask.shape[:-2], 10, 8, 20, 8)
    return cells.mean((-3, -1), dtype=np.float32) / 255


def _encode(vae: AutoencoderKLWan, pictures: np.ndarray, size: tuple[int, int], rows: int = 256) -> Tensor:
    """Raw latents [N, 16, h, w] of pictures at a GoldenMem size, on the CPU."""
    parts = []
    for start in range(0, len(pictures), rows):
        x = to_tensor(pictures[start : start + rows]).to(vae.device)
        small = x if size == TIER_PIXELS[0] else resize_context(x, size)
        parts.append(vae.encode(small[:, :, None] * 2 - 1).latent_dist.mode()[:, :, 0].cpu())
    return torch.cat(parts)
