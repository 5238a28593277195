"""Between ComfyUI's IMAGE ([B, H, W, C] in 0…1, lists of them) and the algorithms' frames ([K, 3, H, W])."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.errors import InputError
from ..media.image import fit_image

if TYPE_CHECKING:
    from ..story.timeline import Timeline

__all__ = [
    "FITS",
    "batches_of",
    "decode_frame",
    "encode_frames",
    "fitted",
    "frames_of",
    "keyframe_images",
    "only",
    "to_image",
]


FITS = ["cover", "contain", "off"]
"""How a picture of another size comes to the film's: filled and cropped, as in the storyboard; whole, on black; not."""


def fitted(images: Any, size: tuple[int, int], fit: str, field: str) -> Any:
    """Pictures brought to `size` = (height, width); those that have it stay as they are.

    Args:
        images: an IMAGE, or lists of them.
        size: in pixels.
        fit: one of `FITS`; ``off`` gives them back, and whoever takes them says what does not fit.
        field: the input's name, for errors.

    Returns:
        IMAGE `[K, H, W, 3]`.
    """
    frames = [frame for batch in _flat(images) for frame in _plain(batch, field)]
    if fit == "off" or all(tuple(frame.shape[1:]) == size for frame in frames):
        return images
    return to_image(torch.stack([(_whole if fit == "contain" else fit_image)(frame, size) for frame in frames]))


def _whole(frame: Tensor, size: tuple[int, int]) -> Tensor:
    """A frame `[3, H, W]` as large as goes into `size`, in its middle, on black."""
    scale = min(size[0] / frame.shape[1], size[1] / frame.shape[2])
    inner = tuple(max(1, min(side, round(old * scale))) for side, old in zip(size, frame.shape[1:], strict=True))
    canvas = torch.zeros(3, *size)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas[:, top : top + inner[0], left : left + inner[1]] = fit_image(frame, (inner[0], inner[1]))
    return canvas


def only(value: Any) -> Any:
    """The one value of an input that a node which takes lists gets as a list; None if nothing is connected."""
    if isinstance(value, list):
        return value[0] if value else None
    return value


def frames_of(images: Any, field: str) -> Tensor:
    """All pictures of an IMAGE, or of many, as one `[K, 3, H, W]`; K may be 0.

    Args:
        images: an IMAGE, or lists and dictionaries (growing inputs) of them, at any depth; None counts as nothing.
        field: the input's name, for errors.

    Raises:
        InputError: pictures of different sizes, or something that is no picture.
    """
    batches = batches_of(images, field)
    return torch.cat(batches) if batches else torch.zeros(0, 3, 0, 0)


def batches_of(images: Any, field: str) -> list[Tensor]:
    """The same, with every IMAGE for itself: `[K, 3, H, W]` each."""
    batches = [_plain(batch, field) for batch in _flat(images)]
    sizes = list(dict.fromkeys((batch.shape[3], batch.shape[2]) for batch in batches))
    if len(sizes) > 1:
        seen = ", ".join(f"{width}x{height}" for width, height in sizes[:6])
        raise InputError(field, "all pictures must have one size", seen, "put Upscale Image in front, with a crop")
    return batches


def keyframe_images(keyframes: Any, timeline: Timeline) -> Tensor | None:
    """IMAGE `[K, H, W, 3]` of a timeline's keyframes, one for each; None without any. Raises InputError for others."""
    frames = frames_of(keyframes, "keyframes")
    if keyframes is not None and len(frames) != len(timeline.keyframes):
        rule = f"must be {len(timeline.keyframes)} pictures, one for each keyframe of the timeline"
        fix = "add pictures (Batch Images; Rebatch Images joins a list), or remove keyframes from the timeline"
        raise InputError("keyframes", rule, len(frames), fix)
    return to_image(frames) if len(frames) else None


def to_image(frames: Tensor) -> Tensor:
    """`[K, 3, H, W]` → IMAGE `[K, H, W, 3]`, fp32 on the CPU, clamped to 0…1."""
    return frames.detach().to("cpu", torch.float32).clamp(0, 1).movedim(1, -1).contiguous()


def encode_frames(vae: Any, frames: Tensor) -> Tensor:
    """Latents `[B, C, h, w]` of frames `[B, 3, H, W]`, each for itself: a video VAE would take them for one video."""
    latents = torch.cat([vae.encode(frame.movedim(0, -1)[None]) for frame in frames])
    return latents[:, :, 0] if latents.ndim == 5 else latents


def decode_frame(vae: Any, latent: Tensor) -> Tensor:
    """Frame `[3, H, W]` in 0…1, on the CPU, of a latent `[1, C, h, w]`."""
    image = vae.decode(latent[:, :, None] if vae.latent_dim == 3 and latent.ndim == 4 else latent)
    return image.reshape(-1, *image.shape[-3:])[0, ..., :3].movedim(-1, 0).float().cpu().clamp(0, 1)


def _flat(images: Any) -> Iterator[Any]:
    if images is None:
        return
    if isinstance(images, Mapping):
        images = list(images.values())
    if isinstance(images, list | tuple):
        for item in images:
            yield from _flat(item)
    else:
        yield images


def _plain(batch: Any, field: str) -> Tensor:
    if not isinstance(batch, Tensor) or batch.ndim not in (3, 4) or batch.shape[-1] not in (1, 3, 4):
        seen = tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
        raise InputError(field, "must be pictures [B, H, W, C]", seen, "connect an IMAGE")
    batch = batch if batch.ndim == 4 else batch[None]
    # Transparency is not part of a frame; grey becomes RGB.
    rgb = batch[..., :3] if batch.shape[-1] >= 3 else batch.expand(*batch.shape[:-1], 3)
    return rgb.float().movedim(-1, 1)
