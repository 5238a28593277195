"""Which way up a video's frames are: its display matrix, as one of the eight turns and mirrorings of a rectangle."""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from torch import Tensor

from ..core.errors import InputError

__all__ = ["Orientation", "orientation_of"]


@dataclass(frozen=True)
class Orientation:
    """Swap rows with columns first (`transposed`), then mirror left to right, then top to bottom."""

    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Upright (height, width) of a stored frame of (`height`, `width`)."""
        return (width, height) if self.transposed else (height, width)

    def upright(self, frame: Tensor) -> Tensor:
        """A stored frame `[…, H, W]` as it is to be seen."""
        if self.transposed:
            frame = frame.transpose(-2, -1)
        dims = [dim for dim, on in ((-1, self.mirrored), (-2, self.flipped)) if on]
        return (frame.flip(dims) if dims else frame).contiguous()


def orientation_of(frame: av.VideoFrame, field: str = "video") -> Orientation:
    """What the display matrix of a decoded frame says (its ``rotation`` hides mirrorings).

    The matrix (3×3; a, b, c, d in 16.16 fixed point) moves a stored pixel (x, y) to (a·x + c·y, b·x + d·y).

    Raises:
        InputError: a matrix that is no turn by quarters, with or without a mirroring.
    """
    data = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    if data is None:
        return Orientation()
    numbers = np.frombuffer(bytes(data), "<i4", 9)
    a, b, c, d = (int(numbers[i]) / (1 << 16) for i in (0, 1, 3, 4))
    for transposed, x, y, others in ((False, a, d, (b, c)), (True, c, b, (a, d))):
        if min(abs(x), abs(y)) > 0.5 and max(map(abs, others)) < 0.01:
            return Orientation(transposed, mirrored=x < 0, flipped=y < 0)
    fix = "turn its pixels themselves: ffmpeg does when it re-encodes"
    raise InputError(field, "must be turned by quarters only", f"display matrix {a:g} {b:g} {c:g} {d:g}", fix)
