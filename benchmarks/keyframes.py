"""Keyframes: our sampler against the stock diffusers pipeline at equal tokens, and FLUX.1-dev's FLOPs at full size."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ..evaluation.metrics.cost import Call, peak_bytes, seconds, unit
from ..memory.golden_mem import GoldenMem, Size
from ..models.backbones.flux.headless import CaptainFlux
from ..models.encoders.text import TextCond
from ..models.layouts.pairs import pack_latent
from ..pocket import configs
from ..sampling.keyframes import ContextFrame, KeyframeSettings, sample_keyframes
from .flops import flops_rows
from .stock import flux_pipeline
from .table import Row, row

if TYPE_CHECKING:
    from ..models.studio import Studio

__all__ = ["KeyframeBench", "run_keyframes"]

TOKENS, LARGE = (5, 10), (10, 20)
"""Frames of 80×160 px, the pocket studio's, and of 160×320 px, where fixed costs weigh less, as at full size."""
STEPS, TEXT, MEMORY = 4, 40, 12


class KeyframeBench:
    """One set of Flux-class weights behind our sampler and behind `FluxPipeline`, with fixed random inputs.

    Args:
        model: the keyframe model; None makes a random one of the pocket studio's architecture.
        size: (height, width) of a frame in tokens.
    """

    def __init__(self, model: CaptainFlux | None = None, size: Size = TOKENS) -> None:
        self.size = size
        self.model = _random_model() if model is None else model
        self.pipeline = flux_pipeline(self.model)
        self.guidance = 3.5 if self.model.config.guidance_embeds else None
        self.generator = torch.Generator().manual_seed(0)
        self.channels = self.model.config.in_channels // 4

    def text(self, tokens: int = TEXT) -> TextCond:
        """A random caption of `tokens` tokens."""
        config = self.model.config
        states = torch.randn(1, tokens, config.joint_attention_dim, generator=self.generator)
        pooled = torch.randn(1, config.pooled_projection_dim, generator=self.generator)
        return TextCond(states, torch.ones(1, tokens, dtype=torch.bool), pooled)

    def memory(self, frames: int, compressed: bool = True, text: int = TEXT) -> list[ContextFrame]:
        """`frames` random earlier frames at their GoldenMem sizes, or all at full size, captions of `text` tokens."""
        memory = GoldenMem(3, -(-frames // 3)) if compressed else GoldenMem.full(frames)
        sizes = [slot.size for slot in memory.plan(frames, self.size)]
        latents = [torch.randn(1, self.channels, 2 * h, 2 * w, generator=self.generator) for h, w in sizes]
        return [ContextFrame(latent, self.text(text)) for latent in latents]

    def ours(self, texts: Sequence[TextCond], context: Sequence[ContextFrame] = (), **settings: Any) -> list[Tensor]:
        """Sample a frame for each text with `sample_keyframes`: latents [1, C, h, w]."""
        shape = (self.channels, 2 * self.size[0], 2 * self.size[1])
        chosen = KeyframeSettings(**{"steps": STEPS, "guidance": self.guidance, **settings})
        seed = torch.Generator().manual_seed(1)
        return sample_keyframes(self.model, texts, shape, context, chosen, seed)

    def stock(self, text: TextCond, rows: int = 1, steps: int = STEPS) -> Tensor:
        """Sample one image with `FluxPipeline`, `rows` frames high: packed latents [1, tokens, 4C]."""
        device, dtype = self.model.device, self.model.dtype
        height, width = 2 * self.size[0] * rows, 2 * self.size[1]
        noise = torch.randn(1, self.channels, height, width, generator=torch.Generator().manual_seed(1))
        out = self.pipeline(
            prompt_embeds=text.tokens.to(device, dtype),
            pooled_prompt_embeds=None if text.pooled is None else text.pooled.to(device, dtype),
            latents=pack_latent(noise).to(device, dtype),
            height=8 * height,
            width=8 * width,
            num_inference_steps=steps,
            guidance_scale=self.guidance or 1.0,
            output_type="latent",
            return_dict=False,
        )
        return out[0]


def run_keyframes(studio: Studio | None = None, repeats: int = 15) -> list[Row]:
    """Compare with FluxPipeline on one set of weights, and count FLUX.1-dev's FLOPs beside the paper's Table 3.

    Args:
        studio: whose keyframe model to time; None makes a random one of the pocket studio's architecture.
        repeats: timed rounds.

    Returns:
        Rows of what, ours, reference, ratio.
    """
    bench = KeyframeBench(None if studio is None else cast(CaptainFlux, studio.keyframe))
    one, four, long = bench.text(), [bench.text() for _ in range(4)], bench.text(4 * TEXT)
    packed, full = bench.memory(MEMORY), bench.memory(MEMORY, compressed=False)
    single = functools.partial(bench.stock, one)
    large = KeyframeBench(bench.model, LARGE)
    cases: list[tuple[str, Call, Call]] = [
        ("one frame; reference: FluxPipeline at equal tokens", lambda: bench.ours([one]), single),
        (
            "one frame of 160×320 px; reference: FluxPipeline at equal tokens",
            lambda: large.ours([one]),
            lambda: large.stock(one),
        ),
        (
            "4 frames jointly; reference: FluxPipeline, one image of as many tokens",
            lambda: bench.ours(four, mode="full"),
            lambda: bench.stock(long, rows=4),
        ),
        (
            f"one frame, {MEMORY} remembered by GoldenMem, cached; reference: FluxPipeline without memory",
            lambda: bench.ours([one], packed),
            single,
        ),
        (
            f"one frame, {MEMORY} remembered by GoldenMem, cached; reference: all at full size, not cached",
            lambda: bench.ours([one], packed),
            lambda: bench.ours([one], full, mode="full"),
        ),
    ]
    rows: list[Row] = []
    for name, ours, reference in cases:
        taken = seconds({"ours": ours, "reference": reference}, repeats, device=bench.model.device)
        rows.append(row(f"{unit(bench.model.device)}, {STEPS} steps, {name}", taken["ours"], taken["reference"]))
        peaks = [peak_bytes(call, bench.model.device) / 2**20 for call in (ours, reference)]
        rows.append(row(f"peak MiB above the weights, {name}", *peaks))
    return rows + flops_rows()


def _random_model() -> CaptainFlux:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CaptainFlux(**configs.KEYFRAME).eval()
