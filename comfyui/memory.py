"""From GoldenMem Context's inputs (all of them lists) to a memory, its picture and its size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import node_helpers
import numpy as np
import torch
from torch import Tensor

from ..core.errors import InputError
from ..media.memory_layout import draw_empty, draw_layout
from ..memory.frame_memory import FrameMemory, MemoryFrame
from ..memory.golden_mem import GoldenMem
from ..models.encoders.prompt_text import from_prompt
from .frame_encoders import ComfyEncoders
from .images import frames_of, only

__all__ = ["layout_of", "memory_of", "token_count", "with_references"]

_MANY = 99
"""Places that are drawn of a memory without a bound."""

_DRAWN = 800
"""Pixels that the memory's picture is wide: a node shows it at half of that, and its words must be read there."""


def memory_of(
    vae: list[Any],
    frames: Any,
    retrieval: list[str],
    groups: list[int],
    images: list[int],
    first_tier: list[int],
    query: list[str],
    captions: list[str],
    clip: list[Any] | None = None,
    clip_vision: list[Any] | None = None,
    retrieval_clip: list[Any] | None = None,
    storyboard: list[Any] | None = None,
    level: list[Any] | None = None,
) -> FrameMemory[ComfyEncoders]:
    """The memory that the node's inputs describe; each is a list, as the node takes lists of frames and captions.

    Raises:
        InputError: frames of several sizes, too few captions, or a model that the retrieval needs.
    """
    given = frames_of(frames, "frames")
    prompts, queries, following = _captions(captions, only(storyboard), only(clip), len(given))
    encoders = ComfyEncoders(only(vae), only(clip), only(clip_vision), only(retrieval_clip))
    encoders.check(only(retrieval))
    return FrameMemory(
        encoders,
        GoldenMem(only(groups), only(images), only(first_tier), only(level) or "pixel"),
        only(retrieval),
        from_prompt(only(query) or "").strip() or following,
        tuple(MemoryFrame(image[None], queries[i], prompts[i], f"frame {i + 1}") for i, image in enumerate(given)),
    )


def _captions(captions: list[str], storyboard: Any, clip: Any, count: int) -> tuple[list[str], list[str], str]:
    """Prompt (as `clip` reads it) and query of `count` frames, and the query of the frame after them."""
    given = [from_prompt(line.strip()) for text in captions for line in text.splitlines() if line.strip()]
    if given:
        if len(given) < count:
            fix = "write one caption per line, oldest first, or none"
            raise InputError("captions", f"must be {count}, one for each frame", len(given), fix)
        return given[:count], given[:count], given[count] if len(given) > count else ""
    if storyboard is None:
        return [""] * count, [""] * count, ""
    from .story import keyframe_captions, keyframe_prompts

    queries, prompts = [caption.query for caption in keyframe_captions(storyboard)], keyframe_prompts(storyboard, clip)
    if len(queries) < count:
        fix = "give at most one frame for each keyframe of the film, or write captions"
        raise InputError("frames", f"must be at most {len(queries)}, the storyboard's keyframes", count, fix)
    return prompts[:count], queries[:count], queries[count] if len(queries) > count else ""


def layout_of(memory: FrameMemory[ComfyEncoders]) -> Tensor:
    """IMAGE `[1, H, W, 3]`: the memory drawn to scale (Captain Cinema Fig. 3)."""
    if memory.frames:
        # A query may come later, from the sampler; until then the order in time stands for it.
        known = memory if memory.query else replace(memory, retrieval="recency")
        recalled = known.recall()
        picture = draw_layout(
            [rank.slot for rank in recalled],
            memory.size_tokens,
            [rank.frame.image[0] for rank in recalled],
            labels=[rank.frame.label for rank in recalled],
            width=_DRAWN,
        )
    else:
        size = (50, 80)  # no frame has said its size
        picture = draw_empty(memory.packing.plan(memory.packing.capacity or _MANY, size), size, width=_DRAWN)
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]


def token_count(memory: FrameMemory[ComfyEncoders]) -> int:
    """Image tokens of all remembered frames."""
    if not memory.frames:
        return 0
    return sum(slot.tokens for slot in memory.packing.plan(len(memory.frames), memory.size_tokens))


def with_references(
    conditioning: list[Any], memory: FrameMemory[ComfyEncoders], query: str = ""
) -> tuple[list[Any], int]:
    """A CONDITIONING with the remembered frames as reference latents, the most relevant first, and how many they are.

    References that it has already stay in front.
    """
    recalled = memory.recall([from_prompt(query).strip()])
    latents = [frame.latent for frame in memory.context(recalled, [None] * len(recalled))]
    if not latents:
        return conditioning, 0
    if memory.encoders.vae.latent_dim == 3:  # Qwen-Image reads latents as its VAE, a video VAE, gives them
        latents = [latent[:, :, None] for latent in latents]
    values = {"reference_latents": latents}
    return node_helpers.conditioning_set_values(conditioning, values, append=True), len(latents)
