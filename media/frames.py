"""Between float frames (what the algorithms use) and 8-bit frames (what files hold)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["from_uint8", "to_uint8"]


def to_uint8(frame: Tensor) -> np.ndarray:
    """Convert one frame `[3, H, W]` in 0…1 to an 8-bit array `[H, W, 3]`, rounding to nearest and clipping.

    Raises:
        ValueError: the frame has another shape, or holds NaN or infinity. A model that breaks down must stop the film;
            a cast would silently turn such pixels black.
    """
    if frame.ndim != 3 or frame.shape[0] != 3:
        raise ValueError(f"a frame must have shape [3, H, W], got {list(frame.shape)}")
    frame = frame.detach().to("cpu", torch.float32)
    if not torch.isfinite(frame).all():
        raise ValueError(f"a frame holds {int((~torch.isfinite(frame)).sum())} values that are NaN or infinite")
    return frame.mul(255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def from_uint8(array: np.ndarray) -> Tensor:
    """Convert an 8-bit array `[H, W, 3]` to a float32 frame `[3, H, W]` in 0…1; `to_uint8` undoes it exactly."""
    return torch.from_numpy(np.array(array, dtype=np.uint8)).permute(2, 0, 1).to(torch.float32).div(255)
