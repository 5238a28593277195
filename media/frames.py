"""Between float frames (what the algorithms use) and 8-bit frames (what files hold), and how far two are apart."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..core.errors import InputError

__all__ = ["PSNR_CAP", "check_finite", "from_uint8", "psnr", "psnr_of_error", "to_uint8"]

PSNR_CAP = 100.0
"""dB at which `psnr` stops: equal images have no finite value, and JSON knows no infinity."""


def check_finite(frame: Tensor, field: str = "frame", where: str = "") -> Tensor:
    """Return a frame of any shape if all its values are finite: a model that breaks down must stop the film.

    Args:
        frame: what a model has made.
        field: which model, as users call it, such as ``keyframe``.
        where: what it was making.

    Raises:
        InputError: NaN or infinity; a cast to 8 bits would silently turn such pixels black.
    """
    bad = int((~torch.isfinite(frame)).sum())
    if bad:
        fix = "check the weights and LoRAs of the model; one that overflows in float16 needs bfloat16 or float32"
        raise InputError(field, "must make finite pictures", f"NaN or infinity in {bad} of {frame.numel()}", fix, where)
    return frame


def to_uint8(frame: Tensor) -> np.ndarray:
    """Convert one frame `[3, H, W]` in 0…1 to an 8-bit array `[H, W, 3]`, rounding to nearest and clipping.

    Raises:
        ValueError: the frame has another shape; as an `InputError`, it holds NaN or infinity (see `check_finite`).
    """
    if frame.ndim != 3 or frame.shape[0] != 3:
        raise ValueError(f"a frame must have shape [3, H, W], got {list(frame.shape)}")
    frame = check_finite(frame.detach().to("cpu", torch.float32))
    return frame.mul(255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def from_uint8(array: np.ndarray) -> Tensor:
    """Convert an 8-bit array `[H, W, 3]` to a float32 frame `[3, H, W]` in 0…1; `to_uint8` undoes it exactly."""
    return torch.from_numpy(np.array(array, dtype=np.uint8)).permute(2, 0, 1).to(torch.float32).div(255)


def psnr(images: Tensor, reference: Tensor, dims: int = 3, peak: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio in dB, fp32, over the last `dims` dimensions: 3 an image's, 4 a clip's.

    Args:
        images, reference: of one shape.
        dims: dimensions that become one number.
        peak: width of the values' range, 1 for 0…1.
    """
    return psnr_of_error((images.double() - reference.double()).square().mean(tuple(range(-dims, 0))), peak)


def psnr_of_error(error: Tensor, peak: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio in dB, fp32, of mean squared errors; at most `PSNR_CAP`."""
    return (-10 * (error / peak**2).clamp_min(10 ** (-PSNR_CAP / 10)).log10()).float()
