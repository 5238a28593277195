"""Flicker of a clip against the true one: what changes between consecutive frames that does not change in truth.

The true clip is known frame by frame, so nothing has to be warped: where optical flow stands in for truth, as in the
warping error of Lai et al. (Learning Blind Video Temporal Consistency, ECCV 2018), it is the flow's error, too, that is
measured. Where truth stands still the flow is zero and `still_flicker` is that error, in absolute values.

Pure functions of clips `[T, 3, H, W]` in 0…1, of two frames at least.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .pixels import frame_change

__all__ = ["STILL", "REACH", "flicker_ratio", "still_flicker", "temporal_error"]

STILL = 0.5 / 255
"""Truth stands still in a pixel that changes by less: no 8-bit file shows it."""

REACH = 8
"""Pixels around those that move which are not counted as still: an upscaler's kernel spreads movement about so far."""


def flicker_ratio(clip: Tensor, truth: Tensor) -> float | None:
    """Mean change from frame to frame over the true clip's; above 1 it flickers. None where truth stands still."""
    usual = float(frame_change(truth).mean())
    return float(frame_change(clip).mean()) / usual if usual > 0 else None


def temporal_error(clip: Tensor, truth: Tensor) -> float:
    """Mean absolute difference of the changes from frame to frame, |Δ_t clip − Δ_t truth|: flicker and lost motion."""
    return float((clip.diff(dim=0) - truth.diff(dim=0)).abs().mean())


def still_flicker(clip: Tensor, truth: Tensor) -> float | None:
    """Mean change from frame to frame where truth and all within `REACH` pixels stand still; None where nothing does.

    Of true frames it is 0; an upscaler that makes one picture of one picture has none, either.
    """
    moving = (truth.diff(dim=0).abs().amax(1, keepdim=True) > STILL).float()
    still = F.max_pool2d(moving, 2 * REACH + 1, stride=1, padding=REACH) == 0
    if not still.any():
        return None
    changes = clip.diff(dim=0).abs().mean(1, keepdim=True)
    return float(changes[still].mean())
