"""Context frames as a studio makes them: a story in which every picture is its own, not the renderer's.

In a film the memory holds what was generated, with what went wrong in it. A model that was trained on true memories
takes every fault for the truth and hands it on.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...core.files import atomic_path
from ...memory.golden_mem import resize_context
from ...models.backbones.flux.headless import Pairs
from ...models.layouts.pairs import pack_latent, token_size, unpack_latent
from ..dataset import TIER_PIXELS, StoryLatents

if TYPE_CHECKING:
    from ...models.studio import Studio

__all__ = ["remade"]

_BATCH = 64


@torch.no_grad()
def remade(
    studio: Studio, data: StoryLatents, stories: int, cache: Path | None = None, steps: int = 12, seed: int = 0
) -> StoryLatents:
    """The first `stories` stories as the studio draws them from their own noisy pictures (SDEdit, 2021).

    Every frame is noised to a time between 0.55 and 0.88, where the place still shows through and the characters
    hardly, and made again with a caption that tells all looks: the studio's own work on the right picture.

    Args:
        studio: whose keyframe model draws.
        data: true latents.
        stories: how many to make.
        cache: file that keeps the result.
        steps: of Euler's method from the time to zero.
        seed: of times and noise.
    """
    chosen = data.stories[:stories]
    if cache is not None and cache.exists():
        found = load_file(cache)
        tiers = [found[f"tier{i}"].float() for i in range(len(data.tiers))]
        return replace(data, tiers=tiers, weight=data.weight[:stories], stories=chosen)
    g = torch.Generator().manual_seed(seed)
    captions = [shot.caption([a.name for a in shot.actors]) for story in chosen for shot in story.shots]
    latents = data.tiers[0][:stories].flatten(0, 1)
    parts = []
    for start in range(0, len(latents), _BATCH):
        rows = slice(start, start + _BATCH)
        made = _redraw(studio, latents[rows], captions[rows], steps, g)
        pictures = studio.image_vae.decode_image(made)
        sized = [pictures, *(resize_context(pictures, size) for size in TIER_PIXELS[1:])]
        parts.append([studio.image_vae.encode_image(picture).cpu() for picture in sized])
    tiers = [torch.cat(tier).unflatten(0, (stories, -1)) for tier in zip(*parts, strict=True)]
    if cache is not None:
        with atomic_path(cache) as temporary:
            save_file({f"tier{i}": tier.half().contiguous() for i, tier in enumerate(tiers)}, temporary)
    return replace(data, tiers=tiers, weight=data.weight[:stories], stories=chosen)


def _redraw(studio: Studio, latents: Tensor, captions: list[str], steps: int, g: torch.Generator) -> Tensor:
    """Latents [N, 16, h, w] noised and made again; each row with a time of its own."""
    cond = studio.keyframe_text.encode(captions)
    assert cond.pooled is not None
    size = token_size(latents)
    begin = 0.55 + 0.33 * torch.rand(len(latents), generator=g)
    noise = torch.randn(latents.shape, generator=g)
    wide = begin[:, None, None, None]
    x = pack_latent((1 - wide) * latents + wide * noise)
    for step in range(steps):
        t, following = begin * (1 - step / steps), begin * (1 - (step + 1) / steps)
        pairs = Pairs([x], [size], [cond.tokens], cond.pooled[:, None], t[:, None], masks=[cond.mask], reference=size)
        velocity = studio.keyframe.forward_pairs(pairs, "causal")[0]
        x = x + (following - t)[:, None, None] * velocity
    return unpack_latent(x, size)
