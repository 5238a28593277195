"""Multi-chunk video in ComfyUI's IMAGE, VAE and LATENT values: encoded, laid out, re-pinned, decoded.

IMAGE is `[K, H, W, 3]` fp32 in 0…1. LATENT is a dict: `samples` `[B, C, F, h, w]`, `noise_mask` `[B, 1, F, h, w]` (0
where latents are given, 1 where they are made), and here also the `VideoPlan` they are laid out by. ComfyUI itself is
not imported: its objects are used as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...core.errors import InputError
from ...story.timeline import TEMPORAL_STRIDE, Timeline
from .chunks import (
    Method,
    VideoPlan,
    decode_video,
    encode_extension,
    encode_keyframes,
    latent_length,
    plan_extension,
    plan_video,
)
from .pairs import PATCH

__all__ = [
    "BRIDGE",
    "COLOUR_CELL",
    "FPS",
    "NATIVE_SIZE",
    "NEAR",
    "PLAN",
    "ChunkVAE",
    "Latent",
    "MultiChunkVideo",
    "decode_frames",
    "extend_video",
    "lay_out",
    "multi_chunk_video",
    "plan_of",
    "repin",
    "stack_images",
]

PLAN = "anchorshot_plan"
"""Where a LATENT carries its plan; core samplers hand unknown keys on."""

FPS = "anchorshot_fps"
"""Where the LATENT of an extension carries the frames per second of its timeline."""

NATIVE_SIZE = "anchorshot_size"
"""Where a MODEL carries the (height, width) that it was made for, among its attachments, if it says so."""

BRIDGE = "anchorshot_bridge"
"""Where a MODEL says, among its attachments, that it was trained to upscale without noise (SmartDirector, Eq. 5)."""

COLOUR_CELL = "anchorshot_colour_cell"
"""Where a MODEL that upscales says how large the areas are whose colour the source gives, in pixels of the source."""

NEAR = "anchorshot_near"
"""Where a MODEL that upscales says how many latents each shall look at on both sides; without it, or 0, at all."""

Latent = dict[str, Any]


class ChunkVAE:
    """ComfyUI's VAE as SmartDirector's Multi-Chunk VAE (§3.2): every chunk is encoded and decoded on its own.

    Latents are as core nodes have them: the MODEL's `process_latent_in` normalises them.

    Args:
        vae: ComfyUI's VAE object.
        check: called before every chunk; may raise to stop.

    Raises:
        InputError: a VAE of images, or one that does not compress time four times.
    """

    def __init__(self, vae: Any, check: Callable[[], None] = lambda: None) -> None:
        time = vae.temporal_compression_decode() if vae.latent_dim == 3 and not vae.not_video else None
        if time != TEMPORAL_STRIDE:
            seen = "a VAE of images" if time is None else f"{time} times"
            rule = f"must be a video VAE that compresses time {TEMPORAL_STRIDE} times"
            raise InputError("vae", rule, seen, "use the video model's VAE")
        self.vae, self.check = vae, check
        self.latent_channels = int(vae.latent_channels)
        self.spatial_compression = int(vae.spacial_compression_encode())
        self.pixels_per_token = self.spatial_compression * PATCH

    @torch.no_grad()
    def encode_chunks(self, video: Tensor, chunks: Sequence[int]) -> Tensor:
        """`[B, T, 3, H, W]` in 0…1, cut into `chunks` of 4n+1 frames → `[B, C, F, h, w]`."""
        for i, n in enumerate(chunks):
            latent_length(n, f"chunks[{i}]")
        if sum(chunks) != video.shape[1]:
            fix = f"give chunks that add up to the video's {video.shape[1]} frames"
            raise InputError("chunks", "must cover the video exactly", f"{sum(chunks)} frames", fix)
        return torch.cat([self._encode_row(row, chunks) for row in video])

    def _encode_row(self, video: Tensor, chunks: Sequence[int]) -> Tensor:
        out = []
        for piece in video.movedim(-3, -1).split(list(chunks)):
            self.check()
            out.append(self.vae.encode(piece))  # four dimensions: ComfyUI takes an IMAGE batch for one video
        return torch.cat(out, dim=2)

    @torch.no_grad()
    def decode_chunks(self, latents: Tensor, latent_chunks: Sequence[int]) -> Iterator[Tensor]:
        """`[B, C, F, h, w]` → `[B, 4(f−1)+1, 3, H, W]` in 0…1 per chunk of f latents, in order."""
        for part in latents.split(list(latent_chunks), dim=2):
            self.check()
            yield self.vae.decode(part).movedim(-1, -3)


@dataclass(frozen=True)
class MultiChunkVideo:
    """A video laid out and its given frames encoded, ready for any sampler.

    Attributes:
        plan: the layout in latent time.
        latent: LATENT with the clean keyframes, its `noise_mask` and the plan.
        vae: the VAE that encoded it.
        pixels: `[1, N, 3, H, W]`, the given frames.
    """

    plan: VideoPlan
    latent: Latent
    vae: ChunkVAE
    pixels: Tensor

    @cached_property
    def image_latent(self) -> Tensor:
        """What image-to-video models read besides the noise, `[1, C, F, h, w]`: the given frames, grey in between.

        Grey is 0.5, as those models were trained; chunk by chunk, like all else. Encoded once, for both experts.

        Raises:
            InputError: one of the ablation's variants, which put a keyframe where several frames belong.
        """
        frames = self.plan.pinned_frames
        if len(frames) != self.pixels.shape[1]:
            fix = "use multi_chunk, or a text-to-video model"
            raise InputError("method", "image-to-video models take multi_chunk only", self.plan.method, fix)
        _, _, *size = self.pixels.shape
        video = torch.full((1, sum(self.plan.chunks), *size), 0.5)
        video[:, frames] = self.pixels
        return self.vae.encode_chunks(video, self.plan.chunks)


def multi_chunk_video(
    vae: ChunkVAE,
    timeline: Timeline,
    keyframes: Tensor | Sequence[Tensor] = (),
    *,
    method: Method = "multi_chunk",
    size: tuple[int, int] | None = None,
) -> MultiChunkVideo:
    """Lay a shot out and encode its keyframes, each on its own.

    Args:
        vae: VAE of the video model.
        timeline: length, chunks and times of the keyframes.
        keyframes: IMAGE `[K, H, W, 3]` in 0…1, or a list of IMAGEs, one frame per keyframe in order.
        method: `multi_chunk`, or one of the ablation's variants, see `plan_video`.
        size: (height, width) in pixels, needed without keyframes.

    Raises:
        InputError: images of several sizes, another number than the timeline's, or a size that the model cannot take.
    """
    plan = plan_video(timeline, method)
    images = stack_images(keyframes, len(timeline.keyframes), size, vae.pixels_per_token)
    clean_latents = encode_keyframes(vae, images, plan)
    return MultiChunkVideo(plan, lay_out(plan, clean_latents), vae, images)


def extend_video(
    vae: ChunkVAE,
    clip: Tensor,
    timeline: Timeline,
    keyframes: Tensor | Sequence[Tensor] = (),
    *,
    context_frames: int | None = None,
) -> MultiChunkVideo:
    """Lay out what follows a given clip, which is clean context as a whole (SmartDirector §1, Fig. 2).

    Args:
        clip: IMAGE `[T, H, W, 3]` in 0…1.
        timeline: of the new part; its clock starts at the clip's last frame, see `plan_extension`.
        keyframes: as in `multi_chunk_video`, in the clip's size.
        context_frames: look back at most this many frames; None at the whole clip.

    `decode_frames` of the sampled latent gives the new frames only.
    """
    frames = stack_images(clip, len(clip), None, vae.pixels_per_token, "clip")
    plan = plan_extension(frames.shape[1], timeline, context_frames)
    size = (frames.shape[-2], frames.shape[-1])
    images = stack_images(keyframes, len(timeline.keyframes), size, vae.pixels_per_token)
    clean_latents = encode_extension(vae, frames, images, timeline, plan)
    pixels = torch.cat([frames[:, -plan.first :], images.to(frames)], dim=1)
    return MultiChunkVideo(plan, lay_out(plan, clean_latents) | {FPS: timeline.fps}, vae, pixels)


def decode_frames(vae: ChunkVAE, latent: Latent, plan: VideoPlan | None = None) -> Tensor:
    """Decode a sampled LATENT chunk by chunk → IMAGE `[B · N, H, W, 3]`, N = `plan.frames`.

    Args:
        vae: the VAE.
        latent: what the sampler gave; its own plan serves if none is given.

    Raises:
        InputError: no plan, or one of another length.
    """
    plan = plan_of(latent) if plan is None else plan
    samples = latent["samples"]
    if samples.ndim != 5 or samples.shape[2] != plan.latents:
        rule = f"must have {plan.latents} latent frames, as its timeline"
        raise InputError("latent", rule, list(samples.shape), "give the latent that was sampled for this timeline")
    frames = torch.cat(list(decode_video(vae, samples, plan)), dim=1)
    return frames.movedim(-3, -1).flatten(0, 1)


def repin(latent: Latent, clean: Latent) -> Latent:
    """Put the clean given latents back, for a stage between two samplers whose MODEL is not patched by us.

    Args:
        latent: what a sampler gave.
        clean: the LATENT that the first sampler was given.

    Raises:
        InputError: latents of two videos.
    """
    mask, samples, clean_latents = clean.get("noise_mask"), latent["samples"], clean["samples"]
    if samples.shape[1:] != clean_latents.shape[1:] or len(clean_latents) not in (1, len(samples)):
        fix = "give the latent that was sampled and the one it was sampled from"
        raise InputError("latent", f"must have the shape {list(clean_latents.shape)}", list(samples.shape), fix)
    out = {**latent, **{key: clean[key] for key in ("noise_mask", PLAN) if key in clean}}
    if mask is not None:
        out["samples"] = torch.where(mask.to(samples.device) < 0.5, clean_latents.to(samples), samples)
    return out


def plan_of(latent: Mapping[str, Any]) -> VideoPlan:
    """The plan that a LATENT carries. Raises InputError when it carries none."""
    plan = latent.get(PLAN)
    if not isinstance(plan, VideoPlan):
        fix = "connect what a sampler made of Multi-Chunk Model's latent; to decode a saved one, connect its timeline"
        raise InputError("latent", "must be laid out by a timeline", "a plain latent", fix)
    return plan


def lay_out(plan: VideoPlan, clean_latents: Tensor) -> Latent:
    """LATENT with the clean latents, `[B, C, K, h, w]`, in the plan's pinned places.

    The mask has the latents' own size, because core would blur a smaller one over time.
    """
    batch, channels, _, height, width = clean_latents.shape
    samples = torch.zeros(batch, channels, plan.latents, height, width, device=clean_latents.device)
    latent: Latent = {"samples": samples, PLAN: plan}
    if plan.pinned:
        samples[:, :, plan.pinned] = clean_latents.float()
        latent["noise_mask"] = torch.ones(batch, 1, plan.latents, height, width, device=clean_latents.device)
        latent["noise_mask"][:, :, plan.pinned] = 0
    return latent


def stack_images(
    images: Tensor | Sequence[Tensor],
    count: int,
    size: tuple[int, int] | None,
    pixels_per_token: int,
    field: str = "keyframes",
) -> Tensor:
    """IMAGEs as `[1, K, 3, H, W]`.

    Args:
        images: one IMAGE of K frames, or a list of IMAGEs.
        count: how many frames there must be.
        size: (height, width) they must have; needed where there are none.
        pixels_per_token: along a side; sizes are multiples of it.
        field: what to call them in errors.

    Raises:
        InputError: no RGB images, several sizes, another number or size, or a size that makes no whole tokens.
    """
    batches = [images] if isinstance(images, Tensor) else list(images)
    batches = [batch[None] if batch.ndim == 3 else batch for batch in batches]
    if not all(batch.ndim == 4 and batch.shape[-1] in (3, 4) for batch in batches):
        seen = [list(batch.shape) for batch in batches]
        raise InputError(field, "must be IMAGEs [K, H, W, 3]", seen, "give RGB images")
    sizes = sorted({(batch.shape[1], batch.shape[2]) for batch in batches if len(batch)})
    if len(sizes) > 1:
        listed = ", ".join(f"{w}x{h}" for h, w in sizes)
        raise InputError(field, "must all have one size", listed, "resize them to the video's size")
    found = sum(len(batch) for batch in batches)
    if found != count:
        fix = "give one image per keyframe (Batch Images; Rebatch Images joins a list), or change the timeline"
        raise InputError(field, f"must be {count} images, the timeline's keyframes", found, fix)
    if not sizes and size is None:
        raise InputError("size", "is needed for a video without keyframes", None, "give height and width in pixels")
    height, width = sizes[0] if sizes else size  # type: ignore[misc]
    if size is not None and (height, width) != tuple(size):
        rule = f"must have the size {size[1]}x{size[0]}"
        raise InputError(field, rule, f"{width}x{height}", "resize them to the video's size")
    multiple = pixels_per_token
    if height % multiple or width % multiple or not height * width:
        fix = f"resize to {max(1, round(width / multiple)) * multiple}x{max(1, round(height / multiple)) * multiple}"
        raise InputError(field if sizes else "size", f"must divide by {multiple}", f"{width}x{height}", fix)
    if not sizes:
        return torch.zeros(1, 0, 3, height, width)
    return torch.cat([batch[..., :3] for batch in batches]).movedim(-1, -3)[None]
