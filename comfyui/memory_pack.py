"""From the Memory Pack's inputs (all of them lists) to STAGE's memory of earlier frames, its picture and its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..media.pack_layout import draw_pack
from ..memory.frame_memory import FrameMemory, MemoryFrame, Recalled
from ..memory.golden_mem import Size
from ..memory.memory_pack import MemoryPack
from ..models.encoders.prompt_text import from_prompt
from .frame_encoders import ComfyEncoders
from .images import frames_of, only

__all__ = ["memory_picture", "pack_of", "pack_picture", "pack_tokens"]

_UNKNOWN = (36, 64)
"""Tokens of a frame of 1024×576, where no frame has said its size."""

_DRAWN = 800
"""Pixels that the picture is wide: a node shows it at half of that, and its words must be read there."""


def pack_of(
    vae: list[Any],
    frames: Any,
    rank_by: list[str],
    packing: list[str],
    pyramid: list[bool],
    aspect: list[str],
    level: list[str],
    limit: list[int],
    area: list[float],
    query: list[str] | None = None,
    clip_vision: list[Any] | None = None,
    retrieval_clip: list[Any] | None = None,
) -> FrameMemory[ComfyEncoders]:
    """The memory that the node's inputs describe; each is a list, as the node takes lists of frames.

    Raises:
        InputError: frames of several sizes, or a model that the ranking needs.
    """
    given = frames_of(frames, "frames")
    encoders = ComfyEncoders(only(vae), None, only(clip_vision), only(retrieval_clip))
    encoders.check(only(rank_by))
    pack = MemoryPack(only(packing), only(pyramid), only(aspect), only(level), only(limit) or None, only(area))
    return FrameMemory(
        encoders,
        pack,
        only(rank_by),
        from_prompt(only(query) or "").strip(),
        tuple(MemoryFrame(image[None], label=f"frame {i + 1}") for i, image in enumerate(given)),
    )


def memory_picture(memory: FrameMemory[ComfyEncoders]) -> Tensor:
    """IMAGE `[1, H, W, 3]` of what the next shot remembers, as far as it can be ranked: a query may come later."""
    known = memory if memory.query or memory.retrieval != "clip" else replace(memory, retrieval="recency")
    return pack_picture(memory.packing, known.recall(), len(memory.frames), memory.size_tokens)


def pack_picture(pack: Any, recalled: Sequence[Recalled], count: int, grid: Size) -> Tensor:
    """IMAGE `[1, H, W, 3]`: a pack drawn to scale (STAGE Fig. 3a).

    Args:
        pack: a `MemoryPack`.
        recalled: what a shot remembers.
        count: earlier frames there are.
        grid: (rows, columns) of a frame's tokens; (0, 0) where no frame has said its size.
    """
    picture = draw_pack(
        pack,
        count,
        grid if all(grid) else _UNKNOWN,
        [rank.frame.image[0] for rank in recalled],
        labels=[rank.frame.label for rank in recalled],
        width=_DRAWN,
    )
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]


def pack_tokens(memory: FrameMemory[ComfyEncoders]) -> int:
    """Image tokens that the remembered frames take: the sizes of a pack do not depend on the ranking."""
    if not memory.frames:
        return 0
    return sum(place.tokens for place in memory.packing.plan(len(memory.frames), memory.size_tokens))
