"""Metrics of pixels beside PSNR (`media.frames`): SSIM, colour, change, boundary jump, diversity. Pure functions.

Images and clips are float32 in 0…1, `[…, 3, H, W]`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from kornia.metrics import ssim
from torch import Tensor

__all__ = [
    "EXACT",
    "boundary_jump",
    "colour_error",
    "diversity",
    "frame_change",
    "jump",
    "same_picture",
    "structural_similarity",
]

EXACT = 0.5 / 255
"""Largest difference that rounding to 8 bits can hide."""


def jump(before: Tensor, after: Tensor) -> Tensor:
    """1 − SSIM of the frames on both sides of a joint, `[N, 3, H, W]` each → `[N]`; 0 is the same image."""
    return 1 - ssim(before, after, window_size=7).mean((1, 2, 3))


def structural_similarity(images: Tensor, reference: Tensor) -> Tensor:
    """SSIM (Wang et al. 2004) of images `[N, 3, H, W]`, mean over pixels and channels → `[N]`.

    With the paper's Gaussian window of 11 pixels and σ = 1.5, as super-resolution is measured.
    """
    return ssim(images, reference, window_size=11).mean((1, 2, 3))


def colour_error(images: Tensor, reference: Tensor) -> Tensor:
    """Shift of colour `[N]`: the absolute difference of both images' mean colours, mean over the three channels."""
    return (images.double() - reference.double()).mean((-2, -1)).abs().mean(-1).float()


def diversity(frames: Tensor, lengths: Sequence[int] | None = None) -> float | None:
    """Mean absolute pixel difference of every two frames of a story, 0…1; None without two frames.

    Compare it with that of the true frames: less means that frames repeat each other, more that they are noisy.
    In pixels and not in CLIP features, so that no trained model judges another.

    Args:
        frames: `[N, P, 3, H, W]`.
        lengths: how many frames of each story count; None: all.
    """
    ends = [frames.shape[1]] * len(frames) if lengths is None else lengths
    flat = [story[:end].flatten(1).float() for story, end in zip(frames, ends, strict=True) if end > 1]
    if not flat or frames.shape[1] < 2:
        return None
    return float(torch.stack([torch.pdist(story, p=1).mean() for story in flat]).mean() / flat[0].shape[1])


def same_picture(pictures: Tensor, reference: Tensor) -> Tensor:
    """Bool `[…]`: pictures `[…, 3, H, W]` that no 8-bit file could tell from `reference`."""
    return (pictures - reference).abs().amax((-3, -2, -1)) <= EXACT


def frame_change(clip: Tensor) -> Tensor:
    """Mean absolute difference of consecutive frames: `[…, T, 3, H, W]` → `[…, T − 1]`, entry t from frame t to t+1."""
    return (clip[..., 1:, :, :, :] - clip[..., :-1, :, :, :]).abs().mean((-3, -2, -1))


def boundary_jump(changes: Sequence[Tensor], starts: Sequence[Sequence[int]]) -> float | None:
    """Change at chunk joints over the usual change inside (SmartDirector §4.4); 1 is a joint that nobody sees.

    The mean change at a clip's joints and the median of its other changes are each averaged over the clips before
    they are divided: a clip in which almost nothing moves then weighs almost nothing, instead of deciding the figure.

    Args:
        changes: `frame_change` of every clip, `[T − 1]`.
        starts: first frames of every clip's chunks. The change INTO such a frame (but 0) is a joint, for all methods
            alike, also for those that have no chunks.

    Returns:
        The ratio; None without a joint, without a frame off the joints, or when nothing moves at all.
    """
    joint, inside = [], []
    for change, first in zip(changes, starts, strict=True):
        at = torch.zeros(len(change), dtype=torch.bool)
        at[[start - 1 for start in first if start > 0]] = True
        if at.any() and not at.all():
            joint.append(change[at].mean())
            inside.append(change[~at].quantile(0.5))
    usual = float(torch.stack(inside).mean()) if inside else 0.0
    return float(torch.stack(joint).mean()) / usual if usual > 0 else None
