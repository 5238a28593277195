"""Full-size models with random weights on one GPU: what a step takes, beside the stock pipelines in the same run.

Weights do not change how long a step takes, so none are downloaded. FLUX.1-dev draws frames of 400×800 px, the size of
Captain Cinema's; Wan 2.2 A14B (one expert) clips of 480×832 px.
"""

from __future__ import annotations

import functools
import gc
import statistics
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from ..core.errors import InputError
from ..evaluation.metrics.cost import clock, peak_bytes
from ..models.backbones.flux.cost import FLUX_DEV
from ..models.backbones.flux.headless import CaptainFlux
from ..models.backbones.wan.cost import WAN
from ..models.backbones.wan.headless import DirectorWan
from ..sampling.flow import flow_sigmas
from ..sampling.video import denoise, plan_video
from ..story.timeline import Timeline
from .flops import FRAME, PAIRS
from .keyframes import KeyframeBench
from .stock import wan_pipeline
from .table import Row, row

__all__ = ["keyframe_rows", "random_model", "video_rows"]

Model = TypeVar("Model", bound=nn.Module)

CAPTION = 64
"""Tokens of a caption; Captain Cinema's captions are a few sentences."""
WAN_A14B = WAN["wan2.2-t2v-a14b"]
WAN_SIZE, WAN_FPS, WAN_TEXT, WAN_SHIFT = (60, 104), 16, 512, 5.0


def keyframe_rows(device: torch.device, config: dict[str, Any] = FLUX_DEV, size: tuple[int, int] = FRAME) -> list[Row]:
    """Milliseconds and memory of a keyframe step with P pairs: all at full size, and GoldenMem with its cache.

    Args:
        device: a CUDA device; FLUX.1-dev takes 24 GB there, 48 pairs at full size some 10 GB more.
        config: architecture, FLUX.1-dev's.
        size: (height, width) of a frame in tokens.

    Returns:
        Rows of what, ours, reference, ratio; the reference is always a step of `FluxPipeline` for a single image.
    """
    model = random_model(CaptainFlux, config, device)
    bench = KeyframeBench(model, size)
    text = bench.text(CAPTION)
    single, _ = _step(lambda steps: bench.stock(text, steps=steps), device)
    alone = peak_bytes(lambda: bench.stock(text, steps=1), device) / 2**30
    rows = []
    for pairs in PAIRS:
        packed = bench.memory(pairs - 1, text=CAPTION) if pairs > 1 else []
        cases: dict[str, Any] = {"GoldenMem + cache": functools.partial(bench.ours, [text], packed)}
        if pairs > 1:
            everyone = [bench.text(CAPTION) for _ in range(pairs)]
            cases["full, jointly"] = functools.partial(bench.ours, everyone, mode="full")
        for name, call in cases.items():
            step, once = _step(lambda steps, call=call: call(steps=steps), device, repeats=1 if "full" in name else 3)
            what = f"FLUX.1-dev, {pairs} pairs, {name}"
            rows.append(row(f"milliseconds a step, {what}; reference: a single image, FluxPipeline", step, single))
            if "cache" in name and pairs > 1:
                rows.append(row(f"milliseconds to fill the cache once, {what}; reference: a step", once, step))
            peak = peak_bytes(functools.partial(call, steps=1), device) / 2**30
            rows.append(row(f"peak GiB above the weights, {what}; reference: a single image", peak, alone))
    return rows


def video_rows(
    device: torch.device, config: dict[str, Any] = WAN_A14B, seconds: float = 5.0, counts: Sequence[int] = (1, 3, 5)
) -> list[Row]:
    """Milliseconds and memory of a video step with some keyframes, and `WanPipeline` at equal tokens.

    Args:
        device: a CUDA device; an expert of Wan 2.2 A14B takes 28 GB there.
        config: architecture.
        seconds: length of the clip.
        counts: numbers of keyframes.

    Returns:
        Rows of what, ours, reference, ratio.
    """
    model = random_model(DirectorWan, config, device)
    pipeline = wan_pipeline(model, WAN_SHIFT)
    text = torch.randn(1, WAN_TEXT, model.config.text_dim).to(device, model.dtype)
    rows = []
    for count in counts:
        timeline = Timeline.plan(WAN_FPS, seconds, [seconds * k / count for k in range(count)])
        plan = plan_video(timeline)
        given = torch.randn(1, config["in_channels"], count, *WAN_SIZE, device=device)

        def ours(steps: int, plan: Any = plan, given: torch.Tensor = given) -> object:
            return denoise(model, text, plan, given, flow_sigmas(steps, WAN_SHIFT))

        def stock(steps: int, latents: int = timeline.latents) -> object:
            return pipeline(
                prompt_embeds=text,
                height=8 * WAN_SIZE[0],
                width=8 * WAN_SIZE[1],
                num_frames=4 * (latents - 1) + 1,
                num_inference_steps=steps,
                guidance_scale=1.0,
                output_type="latent",
                return_dict=False,
            )

        what = (
            f"Wan 2.2 A14B, {timeline.latents} latent frames, {count} keyframes; reference: WanPipeline, equal tokens"
        )
        times = [_step(call, device, repeats=1)[0] for call in (ours, stock)]
        rows.append(row(f"milliseconds a step, {what}", *times))
        peaks = [peak_bytes(functools.partial(call, 1), device) / 2**30 for call in (ours, stock)]
        rows.append(row(f"peak GiB above the weights, {what}", *peaks))
    return rows


def random_model(kind: type[Model], config: dict[str, Any], device: torch.device) -> Model:
    """A model of random bf16 weights, made on the device: nothing passes through the host's memory.

    Raises:
        InputError: the device is no GPU.
    """
    if device.type != "cuda":
        raise InputError("--full-size", "needs a CUDA device", str(device), "run it on a machine with a GPU")
    gc.collect()
    torch.cuda.empty_cache()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = kind(**config)
    finally:
        torch.set_default_dtype(default)
    return model.eval()


def _step(call: Any, device: torch.device, few: int = 1, many: int = 2, repeats: int = 3) -> tuple[float, float]:
    """(milliseconds a step, milliseconds of what is done once): from calls of `few` and of `many` steps."""
    call(few)

    def taken(steps: int) -> float:
        times = []
        for _ in range(repeats):
            start = clock(device)
            call(steps)
            times.append(clock(device) - start)
        return 1000 * statistics.median(times)

    short, long = taken(few), taken(many)
    step = (long - short) / (many - few)
    return step, max(0.0, short - few * step)
