"""Keyframe-conditioned super-resolution: SmartDirector's Director-SR (§3.3).

A flow from the low-resolution latent to the high-resolution one, without noise: z_t = (1−t)·z_HR + t·z_LR and
v = z_LR − z_HR, with t from 1 to 0 (Eq. 5). The low-resolution latent stands where noise stands in Director-Gen;
layout, timesteps and MC-RoPE are Director-Gen's, and keyframes are clean latents that never move. Nothing is
random, and there is no guidance.

Ours, not the paper's: `training_free`, for a model that was trained on noise and knows no bridge, and `near`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.errors import InputError
from ..models.encoders.text_cond import TextCond
from ..models.layouts.chunks import ChunkCodec, ChunkModel, Experts, VideoPlan, pad_text
from ..models.layouts.neighbourhood import neighbourhood
from ..models.layouts.upscale import (
    Canvas,
    Mode,
    UpscalePlan,
    UpscaleSettings,
    decode_upscaled,
    encode_upscale,
    plan_canvas,
    plan_upscale,
    upscale_latents,
)
from .flow import Callback
from .noise import Generators, seeded
from .upscale_schedule import upscale_sigmas
from .video import denoise

__all__ = [
    "Canvas",
    "Mode",
    "UpscalePlan",
    "UpscaleSettings",
    "decode_upscaled",
    "encode_upscale",
    "plan_canvas",
    "plan_upscale",
    "super_resolve",
    "upscale_clip",
    "upscale_latents",
    "upscale_sigmas",
]


@torch.no_grad()
def super_resolve(
    model: ChunkModel | Experts,
    text: TextCond | Tensor,
    plan: VideoPlan,
    z_lr: Tensor,
    clean_latents: Tensor,
    settings: UpscaleSettings = UpscaleSettings(),  # noqa: B008
    *,
    generator: Generators = None,
    callback: Callback | None = None,
) -> Tensor:
    """High-resolution latents of low-resolution ones (SmartDirector §3.3, Eq. 5).

    Args:
        model: the velocity network; two experts only where it is no bridge.
        text: prompt embeds `[1, T, D]`, or with their mask.
        plan: layout of the F latent frames.
        z_lr: `[B, C, F, h', w']`, the clip's latents, already in the large size (`upscale_latents`).
        clean_latents: `[B, C, K, h', w']`, high-resolution latents at `plan.pinned`; they keep every bit.
        settings: steps, schedule, mode, attention.
        generator: of the noise that `training_free` and `start_noise` put on; None: always the same.
        callback: sees every step; raise in it to cancel.

    Returns:
        `[B, C, F, h', w']` fp32.

    Raises:
        InputError: latents that do not fit the plan.
    """
    if z_lr.ndim != 5 or z_lr.shape[2] != plan.latents:
        rule = f"must have the shape [B, C, {plan.latents}, h, w]"
        raise InputError("z_lr", rule, list(z_lr.shape), "encode the clip in this layout")
    wanted = (*z_lr.shape[:2], len(plan.pinned), *z_lr.shape[3:])
    if tuple(clean_latents.shape) != wanted:
        fix = "encode the keyframes in the large size"
        raise InputError("clean_latents", f"must have the shape {list(wanted)}", list(clean_latents.shape), fix)
    tokens = _tokens(text, settings.text_length)
    sigmas = upscale_sigmas(settings)
    level = float(sigmas[0])

    def start(noise: Tensor) -> Tensor:
        z = z_lr.to(noise)
        if settings.mode == "training_free":
            return (1 - level) * z + level * noise
        return z + settings.start_noise * noise if settings.start_noise else z.clone()

    return denoise(
        model,
        tokens.expand(len(z_lr), *tokens.shape[1:]),
        plan,
        clean_latents,
        sigmas,
        generator=seeded(0) if generator is None else generator,
        start=start,
        callback=callback,
        near=neighbourhood(plan, settings.near),
    )


def upscale_clip(
    model: ChunkModel | Experts,
    vae: ChunkCodec,
    text: TextCond | Tensor,
    frames: Tensor,
    keyframes: Mapping[int, Tensor] | None = None,
    size: tuple[int, int] | None = None,
    settings: UpscaleSettings = UpscaleSettings(),  # noqa: B008
    *,
    before: Sequence[Tensor] = (),
    after: Sequence[Tensor] = (),
    latents: Tensor | None = None,
    generator: Generators = None,
    callback: Callback | None = None,
) -> Iterator[Tensor]:
    """Upscale a clip that fits into memory, with or without keyframes; deterministic.

    Args:
        model: the velocity network.
        vae: the VAE that it was trained with.
        text: prompt of the clip, `[1, T, D]`; an empty prompt's will do.
        frames: `[T, 3, h, w]` in 0…1.
        keyframes: frame number → `[3, H, W]` in 0…1.
        size: (H, W) in pixels; by default that of the keyframes, or twice the clip's.
        settings: steps, schedule, mode, attention.
        before, after: high-resolution pictures of the same scene from outside the clip, which it shall see, too.
        latents: the clip's own latents, see `encode_upscale`.
        generator, callback: see `super_resolve`.

    Returns:
        Parts `[t, 3, H, W]` in 0…1, in order of time, together T frames. Keyframes come back as the VAE shows them.

    Raises:
        InputError: pictures, sizes or latents that do not fit together.
    """
    given = dict(sorted((keyframes or {}).items()))
    if frames.ndim != 4 or frames.shape[1] != 3:
        raise InputError("frames", "must have the shape [T, 3, H, W]", list(frames.shape), "give RGB frames")
    pictures = [*before, *given.values(), *after]
    low = (frames.shape[-2], frames.shape[-1])
    if size is None:
        size = (pictures[0].shape[-2], pictures[0].shape[-1]) if pictures else (2 * low[0], 2 * low[1])
    config = (model.high if isinstance(model, Experts) else model).config
    if config.in_channels != vae.latent_channels or config.out_channels != vae.latent_channels:
        rule = f"must take and give the VAE's {vae.latent_channels} channels"
        fix = "use a model and the VAE it was trained on"
        raise InputError("model", rule, f"{config.in_channels} in, {config.out_channels} out", fix)
    _, ph, pw = config.patch_size
    plan = plan_upscale(len(frames), list(given), len(before), len(after))
    canvas = plan_canvas(low, size, vae.spatial_compression, (ph, pw))
    outside = [*before, *after]
    z_lr, clean = encode_upscale(
        vae, frames, given, plan, canvas, outside=outside, latents=latents, mode=settings.interpolation
    )
    z = super_resolve(model, text, plan.video, z_lr, clean, settings, generator=generator, callback=callback)
    yield from decode_upscaled(vae, z, plan, canvas)


def _tokens(text: TextCond | Tensor, length: int | None) -> Any:
    return pad_text(text, None, length) if isinstance(text, Tensor) else pad_text(text.tokens, text.mask, length)
