"""How the end of one clip and the start of the next are brought together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from torch import Tensor
from torch.nn import functional

__all__ = ["COLOUR_SECONDS", "matched", "scaled"]

COLOUR_SECONDS = 1.0
"""Time in which the correction of colours falls to 1/e."""


def matched(frames: Iterable[Tensor], wanted: Tensor, shown: Tensor, rate: float) -> Iterator[Tensor]:
    """Frames whose colours begin where those before them ended.

    What a VAE gives back differs from what it was given by a little in the mean of each colour. At a join this is a
    flicker, and from part to part it adds up. The difference, seen on the last frame before the join, is taken off the
    first new frame and then less and less: it falls to 1/e in `COLOUR_SECONDS`.

    Args:
        frames: the new ones, `[3, H, W]` in 0…1.
        wanted: the last frame before them as it is.
        shown: the same frame as the VAE shows it.
        rate: frames per second.
    """
    shift = (wanted - shown).mean((1, 2), keepdim=True)
    for number, frame in enumerate(frames, 1):
        yield (frame + math.exp(-number / (rate * COLOUR_SECONDS)) * shift).clamp(0, 1)


def scaled(frame: Tensor, size: tuple[int, int]) -> Tensor:
    """A frame `[3, H, W]` in 0…1 at `size` = (height, width), all of it: another shape stretches it."""
    if tuple(frame.shape[-2:]) == tuple(size):
        return frame
    resized = functional.interpolate(frame[None], size, mode="bicubic", antialias=True, align_corners=False)[0]
    return resized.clamp(0, 1)
