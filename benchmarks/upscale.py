"""Super-resolution: what attention to near latents and keyframes saves against attention of all to all.

A clip of 121 frames at 1920×1080 is 31 latents of 34×60 tokens in Wan 2.2 5B: 63,240 tokens, and self-attention is
seven tenths of a step. FLOPs are those of the whole model at that size. The clock runs on one block of its class with
random weights, a quarter as wide on frames of half the height and width: a quarter of the tokens at a quarter of the
width keep attention's share of the work, and fit a CPU.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ..evaluation.metrics.cost import Call, peak_bytes, seconds, unit
from ..models.backbones.wan.cost import WAN, wan_cost
from ..models.backbones.wan.headless import DirectorWan
from ..models.layouts.chunks import VideoPlan
from ..models.layouts.neighbourhood import Neighbourhood, neighbourhood
from .table import Row, row

__all__ = ["FULL_HD", "NEAR", "block_call", "run_upscale"]

FULL_HD, NEAR, TEXT = (31, 68, 120), 4, 512
"""Latents of 121 frames of 1088×1920 px; neighbours on each side; tokens of the prompt."""
KEYFRAMES = {"no keyframes": (), "1 keyframe": (0,), "3 keyframes": (0, 15, 30)}
_MODEL = WAN["wan2.2-ti2v-5b"]
_SHRINK = 4
_BLOCK = {
    **_MODEL,
    **{"num_layers": 1, "num_attention_heads": _MODEL["num_attention_heads"] // _SHRINK},
    "ffn_dim": _MODEL["ffn_dim"] // _SHRINK,
}
_SMALL = (FULL_HD[0], FULL_HD[1] // 2, FULL_HD[2] // 2)


def run_upscale(repeats: int = 3) -> list[Row]:
    """FLOPs at full size, and time and memory of a block, each against full attention in the same run.

    Args:
        repeats: timed rounds.

    Returns:
        Rows of what, ours, reference, ratio.
    """
    rows = []
    for name, given in KEYFRAMES.items():
        near = _near(given)
        ours, full = (wan_cost(_MODEL, FULL_HD, timesteps=FULL_HD[0], near=kind) for kind in (near, None))
        what = f"Wan 2.2 5B, 31 latents of 1088×1920, {NEAR} near on each side, {name}; reference: full attention"
        rows.append(row(f"TFLOP a step, {what}", ours.flops / 1e12, full.flops / 1e12))
        rows.append(row(f"TFLOP of attention a step, {what}", ours.attention / 1e12, full.attention / 1e12))
    near = _near(KEYFRAMES["3 keyframes"])
    calls: dict[str, Call] = {"near": block_call(near), "full": block_call(None)}
    label = "one block, a quarter as wide, 31 latents of 544×960, 3 keyframes; reference: full attention"
    taken = seconds(calls, repeats)
    rows.append(row(f"{unit('cpu')}, {label}", taken["near"], taken["full"]))
    peaks = {key: peak_bytes(call) / 2**20 for key, call in calls.items()}
    rows.append(row(f"peak MiB above the weights, {label}", peaks["near"], peaks["full"]))
    return rows


def block_call(near: Neighbourhood | None, latent: tuple[int, int, int] = _SMALL) -> Call:
    """A call of one block of the class with random weights.

    Args:
        near: who attends to whom; None: all to all.
        latent: frames, height and width of the latent.
    """
    model, frames = _model(), latent[0]
    z = torch.zeros(1, _MODEL["in_channels"], *latent)
    text = torch.zeros(1, TEXT, _MODEL["text_dim"])
    t, index = torch.ones(1, frames), torch.arange(frames, dtype=torch.float64)

    @torch.no_grad()
    def call() -> Tensor:
        return model.forward_chunks(z, t, text, index, near)

    return call


@functools.cache
def _model() -> DirectorWan:
    config: dict[str, Any] = _BLOCK
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DirectorWan(**config).eval()


def _near(given: tuple[int, ...]) -> Neighbourhood | None:
    latents = FULL_HD[0]
    return neighbourhood(VideoPlan("multi_chunk", [latents], list(given), 4 * latents - 3), NEAR)
