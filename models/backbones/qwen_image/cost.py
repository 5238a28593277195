"""Exact tokens and FLOPs of one forward pass of the Qwen-Image class, for any frames and memory; see `models.cost`.

Source: STAGE §4.1 (start and end frame as one sequence, remembered frames beside them).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ....core.errors import InputError
from ...cost import Config, Cost, count_flops
from ...layouts.pairs import Size
from ...layouts.start_end import Segment, frame_ids
from .headless import PairQwen

__all__ = ["QWEN_IMAGE_EDIT", "count_qwen", "qwen_cost"]

QWEN_IMAGE_EDIT: dict[str, Any] = {
    "patch_size": 2,
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 60,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 3584,
    "axes_dims_rope": (16, 56, 56),
    "zero_cond_t": True,
}
"""QwenImageTransformer2DModel config of Qwen-Image-Edit-2511; older ones have `zero_cond_t` false."""


def qwen_cost(
    config: Config, frames: Sequence[Size], memory: Sequence[Size] = (), *, text: int = 0, batch: int = 1
) -> Cost:
    """Cost of one `forward_segments` of a Qwen-Image-class model.

    Args:
        config: diffusers config of the QwenImageTransformer2DModel.
        frames: (rows, columns) in tokens of every frame that is predicted: two for a pair.
        memory: the same of every remembered frame or tile.
        text: prompt tokens, those of its pictures included.
        batch: rows of the batch.

    Raises:
        InputError: no frames, or a size below 1.
    """
    if not frames:
        raise InputError("frames", "must have at least one frame", 0, "give the frames to compute")
    for size in (*frames, *memory):
        if min(size) < 1:
            raise InputError("frames", "must have sizes of at least 1", size, "correct the size")
    if text < 0:
        raise InputError("text", "must be at least 0", text, "give the number of prompt tokens")
    d = config["num_attention_heads"] * config["attention_head_dim"]
    layers, channels = config["num_layers"], config["in_channels"]
    out = (config.get("out_channels") or channels) * config.get("patch_size", 2) ** 2
    new = sum(math.prod(size) for size in frames)
    image = new + sum(math.prod(size) for size in memory)
    total = image + text
    levels = 2 if memory and config.get("zero_cond_t") else 1
    parts = {
        "embedding": image * channels * d + text * config["joint_attention_dim"] * d,
        "conditioning": levels * (256 * d + d * d),  # 256 sinusoids → d → d for every noise level
        # Six vectors for image (of every noise level) and for text.
        "modulation": layers * (levels + 1) * 6 * d * d,
        # Queries, keys, values, output, and a 4× MLP.
        "linear": layers * total * 12 * d * d,
        "attention": layers * total * total * 2 * d,
        "output": 2 * d * d + new * d * out,
    }
    return Cost(total, 0, {name: 2 * batch * products for name, products in parts.items()})


def count_qwen(model: PairQwen, frames: Sequence[Size], memory: Sequence[Size] = (), *, text: int = 0) -> int:
    """Count one `forward_segments` of a model (best on the meta device), as `qwen_cost` computes it."""
    device, config = model.device, model.config

    def segment(number: int, size: Size, clean: bool) -> Segment:
        tokens = torch.zeros(1, math.prod(size), config.in_channels, device=device)
        return Segment(tokens, frame_ids(size, number), clean)

    segments = [segment(i, size, i >= len(frames)) for i, size in enumerate([*frames, *memory])]
    prompt = torch.zeros(1, text, config.joint_attention_dim, device=device)
    return count_flops(lambda: model.forward_segments(segments, prompt, None, torch.zeros(1, device=device)))
