"""Time and memory of a segment, beside the plain model's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from ....sampling.noise import noise_source
from ....sampling.text2story.segments import Made, PromptPair, StorySampler
from ...metrics.cost import peak_bytes, seconds
from ...suite import Row
from .variants import settings_of

if TYPE_CHECKING:
    from ....sampling.text2story.text_to_video import TextToVideoModel

__all__ = ["COSTS", "segment_cost"]

COSTS = ("seconds", "time_ratio", "memory_ratio")


def segment_cost(
    first: PromptPair,
    second: PromptPair,
    model: TextToVideoModel,
    samplers: Mapping[str, StorySampler],
    repeats: int = 3,
) -> dict[str, Row]:
    """Time and peak memory of a second segment, which knows all parts, beside the plain model's, in one run.

    Args:
        first, second: prompts; the first segment is the plain model's.
        model: makes the segments.
        samplers: what is measured.
        repeats: how often each is timed, after one call to warm up; 1 takes a single call, for segments of minutes.

    Returns:
        By sampler `{"seconds", "time_ratio", "memory_ratio"}`.
    """
    if not samplers:
        return {}
    plain = StorySampler(model, settings_of("plain"))
    before: tuple[PromptPair, Tensor] = (first, plain.segment(first, generator=noise_source(0)).latents)

    def segment(sampler: StorySampler) -> Made:
        return sampler.segment(second, before, noise_source(1), centre=sampler.centre([first, second]))

    calls = {name: partial(segment, sampler) for name, sampler in {**samplers, "reference": plain}.items()}
    device = model.vae.device
    peak: dict[str, int] = {}

    def counted(name: str) -> None:
        peak[name] = peak_bytes(calls[name], device)

    if repeats == 1 and device.type == "cuda":  # the allocator counts at no price, so one call tells both
        taken = seconds({name: partial(counted, name) for name in calls}, 1, 0, device)
    else:
        taken = seconds(calls, repeats, warmup=min(1, repeats - 1), device=device)
        for name in calls:
            counted(name)
    return {
        name: {
            "seconds": taken[name],
            "time_ratio": taken[name] / taken["reference"],
            "memory_ratio": peak[name] / peak["reference"],
        }
        for name in samplers
    }
