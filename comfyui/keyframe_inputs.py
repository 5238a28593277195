"""From the Interleaved Keyframe Sampler's inputs to what `keyframes` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import comfy.sample
import comfy.samplers
from torch import Tensor

from ..core.errors import InputError
from ..models.layouts.pairs import PairSettings
from .checks import texts_of
from .keyframes import KeyframeTask, Sampling

__all__ = ["empty_latent", "sampling_of", "with_queries"]


def sampling_of(inputs: Mapping[str, Any]) -> Sampling:
    """How to sample, by the node's widgets and models."""
    sigmas, noise, high = inputs.get("sigmas"), inputs["context_noise"], inputs.get("context_noise_high") or 0.0
    if sigmas is None:
        schedule = inputs["model"].get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(schedule, inputs["scheduler"], inputs["steps"])
    return Sampling(
        inputs["model"],
        inputs["vae"],
        comfy.samplers.sampler_object(inputs["sampler_name"]),
        sigmas,
        inputs["cfg"],
        PairSettings(inputs["attention"], noise if high <= noise else (noise, high)),
        inputs["window"],
    )


def empty_latent(model: Any, latent: Mapping[str, Any]) -> Tensor:
    """The latent `[1, C, h, w]` whose size the keyframes take, with the model's number of channels.

    Raises:
        InputError: a batch, or a latent that is no picture's.
    """
    samples = latent["samples"]
    if getattr(samples, "is_nested", False) or samples.ndim not in (4, 5):
        raise InputError(
            "latent", "must be the empty latent of one picture", "another kind", "use Empty SD3 Latent Image"
        )
    channels = model.get_model_object("latent_format").latent_channels
    if samples.shape[1] != channels and samples.count_nonzero():  # empty ones get the model's channels
        fix = "use Empty SD3 Latent Image"
        raise InputError("latent", f"must have {channels} channels, as the model", tuple(samples.shape), fix)
    scale = latent.get("downscale_ratio_spacial")
    fitted = comfy.sample.fix_empty_latent_channels(model, samples, scale)
    fitted = fitted[:, :, 0] if fitted.ndim == 5 and fitted.shape[2] == 1 else fitted
    if fitted.ndim != 4 or len(fitted) != 1:
        fix = "set batch_size to 1: a list of prompts makes several keyframes"
        raise InputError("latent", "must be of one picture", tuple(samples.shape), fix)
    return fitted


def with_queries(tasks: Sequence[KeyframeTask], queries: Sequence[str] | None, prompts: int) -> list[KeyframeTask]:
    """The keyframes with the queries that the `queries` input gives, one for each prompt.

    Raises:
        InputError: another number of queries.
    """
    texts = texts_of(queries, "queries")
    if not texts:
        return list(tasks)
    if len(texts) not in (1, prompts):
        raise InputError("queries", f"must be {prompts}, one for each prompt", len(texts), "connect the same list")
    return [replace(task, query=texts[task.prompt] if len(texts) > 1 else texts[0]) for task in tasks]
