"""Start and end frames: what a memory of earlier shots costs a denoising step, and how the cost grows with the film.

A pair has 2·N image tokens, N of one frame; a canvas of one frame's area adds N, the published references 2·N and more.
At 1024×576 a step beside a full canvas takes 1.6 times the FLOPs of one without memory, beside a pyramid of references
2.6 times. What stays within 1.25 is a canvas of 0.35 of the frame's area, or a pyramid that begins at 0.15 of it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..evaluation.metrics.cost import Call, peak_bytes, seconds, unit
from ..memory.golden_mem import Size
from ..memory.memory_pack import MemoryPack
from ..models.backbones.qwen_image.cost import QWEN_IMAGE_EDIT, qwen_cost
from ..models.backbones.qwen_image.headless import PairQwen
from ..models.encoders.text_cond import TextCond
from ..models.layouts.start_end import Segment, SegmentModel
from ..sampling.noise import seeded
from ..sampling.pairs import PairSettings, memory_segments, sample_pair
from .table import Row, row

if TYPE_CHECKING:
    from ..models.studio import Studio

__all__ = ["PACKS", "PairBench", "run_pairs"]

PACKS: Mapping[str, MemoryPack] = {
    "canvas of 0.35 frames": MemoryPack(area=0.35),
    "canvas of one frame": MemoryPack(),
    "pyramid from 0.15 frames": MemoryPack("references", pyramid=True, area=0.15),
    "pyramid of references": MemoryPack("references", pyramid=True),
    "references, uncompressed": MemoryPack("references"),
}
REMEMBERED, SHOTS, STEPS = 8, 24, 2
SMALL, LARGE = (5, 10), (10, 20)
"""Frames of 80×160 px, the pocket studio's, and of 160×320 px, where fixed costs weigh less, as at full size."""
FULL, FULL_TEXT = (36, 64), 300
"""1024×576 px; a caption of some 120 tokens and a picture of 180."""
TEXT = 48

_RANDOM: dict[str, Any] = {
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 8,
    "attention_head_dim": 40,
    "num_attention_heads": 4,
    "joint_attention_dim": 128,
    "axes_dims_rope": (8, 16, 16),
    "zero_cond_t": True,
}
"""A small model of the class, for studios without one."""


class PairBench:
    """One set of weights behind our sampler, with fixed random inputs.

    Args:
        model: makes pairs; None makes a small random one.
        size: (rows, cols) of a frame in tokens.
    """

    def __init__(self, model: SegmentModel | None = None, size: Size = SMALL) -> None:
        self.model = _random_model() if model is None else model
        self.size = size
        self.channels = self.model.config.in_channels // 4
        states = torch.randn(1, TEXT, self.model.config.joint_attention_dim, generator=seeded(0))
        self.text = TextCond(states, torch.ones(1, TEXT, dtype=torch.bool))

    def memory(self, pack: MemoryPack | None, frames: int) -> list[Segment]:
        """So many random earlier frames in a pack."""
        if pack is None:
            return []
        generator, (rows, cols) = seeded(1), self.size
        latents = [torch.randn(1, self.channels, 2 * rows, 2 * cols, generator=generator) for _ in range(frames)]
        packed = pack.pack(latents, self.size)
        return memory_segments(packed, pack, self.size, device=self.model.device, dtype=self.model.dtype)

    def pair(self, pack: MemoryPack | None = None, frames: int = REMEMBERED, steps: int = STEPS) -> Call:
        """A call that samples one pair beside the last of so many frames."""
        memory, shape = self.memory(pack, frames), (self.channels, 2 * self.size[0], 2 * self.size[1])
        settings = PairSettings(steps=steps)
        return lambda: sample_pair(self.model, self.text, shape, memory, settings, seeded(2))

    def cost(self, pack: MemoryPack | None, frames: int = REMEMBERED) -> int:
        """FLOPs of one step of it."""
        return step_flops(self.model.config, self.size, pack, frames, TEXT)


def step_flops(config: Any, size: Size, pack: MemoryPack | None, frames: int, text: int) -> int:
    """FLOPs of one step of a pair beside so many earlier frames in a pack; no pack is no memory."""
    sizes = [] if pack is None else [tile.size for tile in pack.tiles(frames, size)]
    return qwen_cost(config, [size, size], sizes, text=text).flops


def run_pairs(studio: Studio | None = None, repeats: int = 9) -> list[Row]:
    """What memory costs a step, counted and timed in one run, and whether a long film makes it dearer.

    Args:
        studio: whose pair model to time; None, or one without, makes a small random one.
        repeats: timed rounds.

    Returns:
        Rows of what, ours, reference, ratio.
    """
    model = None if studio is None or studio.config.pair is None else studio.pair
    bench = PairBench(model)
    return [
        *_full_rows(),
        *_step_rows(bench, repeats),
        *_step_rows(PairBench(bench.model, LARGE), repeats),
        *_story_rows(bench, repeats),
    ]


def _full_rows() -> list[Row]:
    """TFLOPs of a step of Qwen-Image-Edit at 1024×576, by packing."""
    count = functools.partial(step_flops, QWEN_IMAGE_EDIT, FULL, frames=REMEMBERED, text=FULL_TEXT)
    alone = count(pack=None)
    return [
        row(
            f"TFLOP a step, Qwen-Image-Edit, 1024×576, {REMEMBERED} remembered frames, {name}; reference: no memory",
            count(pack=pack) / 1e12,
            alone / 1e12,
        )
        for name, pack in PACKS.items()
    ]


def _step_rows(bench: PairBench, repeats: int) -> list[Row]:
    """GFLOPs and time of a step beside `REMEMBERED` frames, against none; all timed by turns."""
    calls = {"none": bench.pair(), **{name: bench.pair(pack) for name, pack in PACKS.items()}}
    taken = seconds(calls, repeats, device=bench.model.device)
    rows: list[Row] = []
    for name, pack in PACKS.items():
        size = f"frames of {bench.size[0]}×{bench.size[1]} tokens"
        what = f"{size}, {REMEMBERED} remembered, {name}; reference: no memory"
        rows.append(row(f"GFLOP a step, {what}", bench.cost(pack) / 1e9, bench.cost(None) / 1e9))
        rows.append(row(f"{unit(bench.model.device)} a step, {what}", taken[name] / STEPS, taken["none"] / STEPS))
    return rows


def _story_rows(bench: PairBench, repeats: int) -> list[Row]:
    """Tokens, time and peak memory of the pair of the last of `SHOTS` shots against that of the fifth."""
    rows: list[Row] = []
    for name, pack in list(PACKS.items())[:-1]:
        last, fifth = 2 * (SHOTS - 1), 2 * 4
        what = f"the pair of shot {SHOTS}, {name}; reference: shot 5"
        rows.append(row(f"memory tokens, {what}", pack.tokens(last, bench.size), pack.tokens(fifth, bench.size)))
        full = f"memory tokens at 1024×576, {what}"
        rows.append(row(full, pack.tokens(last, FULL), pack.tokens(fifth, FULL)))
        calls = {"last": bench.pair(pack, last), "fifth": bench.pair(pack, fifth)}
        taken = seconds(calls, repeats, device=bench.model.device)
        rows.append(row(f"{unit(bench.model.device)}, {STEPS} steps, {what}", taken["last"], taken["fifth"]))
        peaks = [peak_bytes(call, bench.model.device) / 2**20 for call in calls.values()]
        rows.append(row(f"peak MiB above the weights, {what}", *peaks))
    return rows


def _random_model() -> PairQwen:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PairQwen(**_RANDOM).eval()
