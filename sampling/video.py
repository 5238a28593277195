"""Video from keyframes: SmartDirector's Director-Gen (§3.2), its extension of clips, and its two ablation variants.

One call covers any keyframes at any times: none, the first frame, the last, middle ones, several, or the first frame
of every shot with a tiled caption (Captain Cinema §3.3); the timeline says where they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.utils.torch_utils import get_module_execution_device, randn_tensor
from torch import Tensor

from ..core.errors import InputError
from ..models.encoders.text_cond import TextCond
from ..models.layouts.chunks import (
    ChunkCodec,
    ChunkModel,
    Experts,
    Method,
    VideoPlan,
    VideoSettings,
    decode_video,
    encode_extension,
    encode_keyframes,
    frame_timesteps,
    pad_text,
    plan_extension,
    plan_video,
)
from ..models.layouts.neighbourhood import Neighbourhood
from ..story.timeline import Timeline
from .flow import Callback, X0Transform, euler, flow_sigmas, with_x0_transform

__all__ = [
    "Experts",
    "Method",
    "VideoPlan",
    "VideoSettings",
    "decode_video",
    "denoise",
    "encode_keyframes",
    "extend_video",
    "plan_extension",
    "plan_video",
    "sample_video",
]


@torch.no_grad()
def denoise(
    model: ChunkModel | Experts,
    text: Any,
    plan: VideoPlan,
    clean_latents: Tensor,
    sigmas: Tensor,
    *,
    negative: Any = None,
    guidance: float | tuple[float, float] = 1.0,
    generator: torch.Generator | list[torch.Generator] | None = None,
    start: Callable[[Tensor], Tensor] | None = None,
    x0_transform: X0Transform | None = None,
    callback: Callback | None = None,
    near: Neighbourhood | None = None,
) -> Tensor:
    """Fill in the latents that are not given (SmartDirector §3.2).

    Clean latents have timestep 0 and never move; all others start as noise at t. Every frame attends to every other,
    and MC-RoPE keeps time flowing across chunk boundaries.

    Args:
        model: the velocity network, or two experts.
        text: prompt embeds `[B, T, D]`, or with their mask (`TextCond`), as the backbone reads them; or a function of
            the noise level that returns them (`prompt_mixing`). `negative` the same for classifier-free guidance at
            scale `guidance` (high, low).
        plan: layout of the F latent frames.
        clean_latents: `[B, C, K, h, w]`, the latents at `plan.pinned`.
        sigmas: noise levels from `flow_sigmas`.
        generator: on the CPU, so that a seed gives the same noise on any device.
        start: what sampling starts from, made of the noise that was drawn; None: the noise itself.
        x0_transform: changes the clean latents that the model predicts (`blending`); pinned latents stay.
        callback: sees every step; its `x0` is a preview in latents. Raise in it to cancel.
        near: which latent frames attend to which; None: all to all.

    Returns:
        `[B, C, F, h, w]` fp32.
    """
    experts = model if isinstance(model, Experts) else Experts(model, model, 0.0)
    w_high, w_low = guidance if isinstance(guidance, tuple) else (guidance, guidance)
    batch, channels, _, h, w = clean_latents.shape
    device = get_module_execution_device(experts.high)
    z = randn_tensor((batch, channels, plan.latents, h, w), generator, device, torch.float32)
    z = z if start is None else start(z)
    z[:, :, plan.pinned] = clean_latents.to(z)
    u = plan.rope_index
    text = text if callable(text) else text.to(device)
    negative = None if negative is None else negative.to(device)
    limits = {} if near is None else {"near": near}

    def velocity(z: Tensor, t: float) -> Tensor:
        v_theta, scale = (experts.high, w_high) if t >= experts.boundary else (experts.low, w_low)
        t_i = frame_timesteps(torch.full((batch,), t, device=device), plan.pinned, plan.latents)
        prompt_embeds = text(t).to(device) if callable(text) else text
        v = v_theta.forward_chunks(z, t_i, prompt_embeds, u, **limits)
        if negative is not None and scale != 1:
            v_empty = v_theta.forward_chunks(z, t_i, negative, u, **limits)
            v = v_empty + scale * (v - v_empty)
        return v

    transformed = with_x0_transform(velocity, x0_transform)

    def pinned(z: Tensor, t: float) -> Tensor:
        v = transformed(z, t)
        v[:, :, plan.pinned] = 0  # a clean latent keeps every bit, whatever the network says about it
        return v

    return euler(pinned, z, sigmas, callback)


def sample_video(
    model: ChunkModel | Experts,
    vae: ChunkCodec,
    text: TextCond | Tensor,
    timeline: Timeline,
    keyframes: Tensor | Sequence[Tensor] = (),
    settings: VideoSettings = VideoSettings(),  # noqa: B008
    *,
    generator: torch.Generator | list[torch.Generator] | None = None,
    negative: TextCond | Tensor | None = None,
    size: tuple[int, int] | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Sample a shot, or several shots at once, through its keyframes; deterministic by seed.

    Args:
        model: the velocity network, or two experts.
        vae: the video VAE that the model was trained on.
        text: prompt of the whole video, `[B, T, D]`; one row serves a batch. For several shots: `tile_captions`.
        timeline: length, chunks and times of the keyframes.
        keyframes: one image per keyframe of the timeline, in order: `[K, 3, H, W]`, a list of `[3, H, W]`, or
            `[B, K, 3, H, W]` for a batch of videos; fp32 in 0…1. The video takes their size.
        settings: steps, noise schedule, guidance, method, length of the text.
        negative: the text that guidance leads away from; not needed without guidance.
        size: (height, width) in pixels, needed only when there are no keyframes.

    Returns:
        Latents `[B, C, F, h, w]` fp32; `decode_video(vae, latents, plan_video(timeline, settings.method))` turns them
        into exactly `timeline.frames` frames, each keyframe on its snapped frame.

    Raises:
        InputError: images, sizes, times, channels or text that do not fit together.
    """
    plan = plan_video(timeline, settings.method)
    images = _images(keyframes, len(timeline.keyframes), size)
    _check_fit(model, vae, images.shape[-2:])
    clean_latents = encode_keyframes(vae, images, plan)
    tokens, empty, clean_latents = _texts(text, negative, settings, clean_latents)
    return denoise(
        model,
        tokens,
        plan,
        clean_latents,
        flow_sigmas(settings.steps, settings.shift),
        negative=empty,
        guidance=settings.guidance,
        generator=generator,
        callback=callback,
    )


def extend_video(
    model: ChunkModel | Experts,
    vae: ChunkCodec,
    text: TextCond | Tensor,
    clip: Tensor,
    timeline: Timeline,
    keyframes: Tensor | Sequence[Tensor] = (),
    settings: VideoSettings = VideoSettings(),  # noqa: B008
    *,
    context_frames: int | None = None,
    generator: torch.Generator | list[torch.Generator] | None = None,
    negative: TextCond | Tensor | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Go on from a given clip, which is clean context as a whole (SmartDirector §1, Fig. 2).

    Args:
        clip: `[T, 3, H, W]` or `[B, T, 3, H, W]` in 0…1.
        timeline: of the new part; its clock starts at the clip's last frame, see `plan_extension`.
        keyframes: one image per keyframe of the timeline, in the clip's size.
        context_frames: look back at most this many frames; None at the whole clip.

    The other arguments and errors are those of `sample_video`.

    Returns:
        Latents `[B, C, F, h, w]` of context and new part; `decode_video(vae, latents, plan_extension(clip_frames,
        timeline, context_frames))` gives the new frames only.
    """
    clip = clip[None] if clip.ndim == 4 else clip
    if clip.ndim != 5:
        raise InputError("clip", "must have the shape [T, 3, H, W] or [B, T, 3, H, W]", list(clip.shape), "give frames")
    plan = plan_extension(clip.shape[1], timeline, context_frames)
    _check_fit(model, vae, clip.shape[-2:])
    images = _images(keyframes, len(timeline.keyframes), (clip.shape[-2], clip.shape[-1]))
    clean_latents = encode_extension(vae, clip, images, timeline, plan)
    tokens, empty, clean_latents = _texts(text, negative, settings, clean_latents)
    return denoise(
        model,
        tokens,
        plan,
        clean_latents,
        flow_sigmas(settings.steps, settings.shift),
        negative=empty,
        guidance=settings.guidance,
        generator=generator,
        callback=callback,
    )


def _images(keyframes: Tensor | Sequence[Tensor], count: int, size: tuple[int, int] | None) -> Tensor:
    """Keyframes as `[B, K, 3, H, W]`."""
    if not isinstance(keyframes, Tensor):
        shapes = {tuple(image.shape) for image in keyframes}
        if len(shapes) > 1:
            raise InputError("keyframes", "must all have one size", sorted(shapes), "resize them to the video's size")
        keyframes = torch.stack(list(keyframes)) if keyframes else torch.zeros(0)
    if keyframes.numel():
        images = keyframes[None] if keyframes.ndim == 4 else keyframes
        if images.ndim != 5:
            fix = "give [K, 3, H, W] or [B, K, 3, H, W]"
            raise InputError("keyframes", "must be images", list(keyframes.shape), fix)
    elif size is not None:
        images = torch.zeros(1, 0, 3, *size)
    else:
        images = torch.zeros(1, 0, 3, 1, 1)
    if images.shape[1] != count:
        fix = "give one image per keyframe of the timeline"
        raise InputError("keyframes", f"must be {count} images", images.shape[1], fix)
    if not count and size is None:
        raise InputError("size", "is needed for a video without keyframes", size, "give (height, width) in pixels")
    if size is not None and tuple(images.shape[-2:]) != tuple(size):
        raise InputError("keyframes", f"must have the size {size[1]}x{size[0]}", _size(images), "resize them")
    return images


def _check_fit(model: ChunkModel | Experts, vae: ChunkCodec, size: torch.Size) -> None:
    """Refuse what would fail deep inside the network, or not fail and mean nothing."""
    for network in (model.high, model.low) if isinstance(model, Experts) else (model,):
        config = network.config
        if config.in_channels != vae.latent_channels or config.out_channels != vae.latent_channels:
            fix = "use a text-to-video model and the VAE it was trained on"
            rule = f"must take and give the VAE's {vae.latent_channels} channels"
            raise InputError("model", rule, f"{config.in_channels} in, {config.out_channels} out", fix)
        _, ph, pw = config.patch_size
        for name, pixels, multiple in zip(("height", "width"), size, (ph, pw), strict=True):
            multiple *= vae.spatial_compression
            if pixels % multiple or not pixels:
                fix = f"use {max(1, round(pixels / multiple)) * multiple}"
                raise InputError(f"size.{name}", f"must divide by {multiple}", pixels, fix)


def _texts(
    text: TextCond | Tensor, negative: TextCond | Tensor | None, settings: VideoSettings, clean_latents: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Both texts, padded, and the clean latents, all with as many rows as the batch has."""
    if negative is None and settings.guided:
        raise InputError("negative", "is needed when guidance is not 1", None, "give an empty prompt's text")
    length = settings.text_length
    conds = [c for c in (text, negative) if c is not None]
    tokens = [pad_text(c, None, length) if isinstance(c, Tensor) else pad_text(c.tokens, c.mask, length) for c in conds]
    batch = max(len(clean_latents), *(len(c) for c in tokens))
    for name, x in zip(("text", "negative"), tokens, strict=False):
        if len(x) not in (1, batch):
            raise InputError(name, f"must have 1 or {batch} rows", len(x), "give one prompt per video")
    if len(clean_latents) not in (1, batch):
        rule = f"must be of 1 or {batch} videos"
        raise InputError("keyframes", rule, len(clean_latents), "give one video per prompt")
    out = [c.to(clean_latents.device).expand(batch, *c.shape[1:]) for c in tokens]
    clean_latents = clean_latents.expand(batch, *clean_latents.shape[1:])
    return out[0], out[1] if negative is not None else None, clean_latents


def _size(x: Tensor) -> str:
    return f"{x.shape[-1]}x{x.shape[-2]}"
