"""Between float frames (what the algorithms use) and 8-bit frames (what files hold)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..core.errors import InputError

__all__ = ["check_finite", "from_uint8", "to_uint8"]


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
