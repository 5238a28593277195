"""What stands still in the small video stands still in the large one (ours, not the paper's).

A network makes each frame of a window anew, and small differences between them show as flicker, most of all where
nothing moves. There one large picture is kept until the small one changes: the mean of the next frames', which is
nearer to the truth than each of them.

A keyframe is nearer still, so its own pixels are shown as long as what surrounds them stands still. An even sky tells
nothing of that: under a camera that moves, its pixels would be the keyframe's and its edges would not, and where the
two meet would show. So surroundings count as still only by their edges.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["AHEAD", "hold_codes", "hold_still"]

AHEAD = 8
"""Frames after one that are looked at for the picture that is kept, and held in memory."""


_EDGE = 0.03
"""Range of a small picture's values in a square of 3×3 pixels from which on there is an edge."""

_AROUND = 4
"""Small pixels on all sides that surround one."""

_MOVED = 0.3
"""So many pixels may have changed among the surroundings, for each one on an edge, where they still count as still."""


class _Frame(NamedTuple):
    pixels: Tensor
    fresh: Tensor
    """`[1, H, W]`, where the frame shows something that the ones before it do not."""


class _Keyframe:
    """A frame that was given, and where it still holds.

    Args:
        pixels: `[3, H, W]`.
        source: `[3, h, w]`, the small frame of it.
    """

    def __init__(self, pixels: Tensor, source: Tensor) -> None:
        self.pixels, self.source = pixels, source
        high, low = (F.max_pool2d(sign * source[None], 3, 1, 1)[0] for sign in (1, -1))
        self.edges = _share((high + low).amax(0, keepdim=True) > _EDGE)
        self.still = self.edges > 0

    def shown_in(self, frame: Tensor, source: Tensor, change: float) -> Tensor:
        """`frame`, with the keyframe's pixels where its surroundings have stood still since."""
        moved = (source - self.source).abs().amax(0, keepdim=True) > change
        self.still = self.still & ~moved & (_share(moved) <= _MOVED * self.edges)
        gone = _covered(_covered(~self.still, frame.shape[-2], -2), frame.shape[-1], -1)
        return torch.where(gone, frame, self.pixels)


def _share(mask: Tensor) -> Tensor:
    """Share of a mask `[1, h, w]` among each pixel's surroundings."""
    return F.avg_pool2d(mask.float()[None], 2 * _AROUND + 1, 1, _AROUND, count_include_pad=False)[0]


def hold_still(
    frames: Iterable[Tensor],
    small: Iterable[Tensor],
    change: float,
    cuts: Container[int] = (),
    keyframes: Container[int] = (),
) -> Iterator[Tensor]:
    """The frames of a video, in order, with one picture of what stands still as long as it does.

    A pixel of the small video may stray from its anchor by half of `change` to either side. When it goes farther, it
    gets a new anchor, and the large pixels that it covers are taken from the frame at hand: as the mean of this and of
    up to `AHEAD` frames after it, as far as the small pixel stays with its new anchor. So what is kept was made while
    the small pixel was what it is now, give or take `change`; however slowly a scene fades, the large picture follows.

    Args:
        frames: `[3, H, W]` each, values or whole codes.
        small: `[3, h, w]` in 0…1, as many.
        change: in 0…1; 0 takes all frames as they come.
        cuts: numbers of frames that a shot begins at: nothing of the one before is kept, or looks ahead to it.
        keyframes: numbers of frames that are shown as they are. Their pixels are kept where the edges around them
            stand still.

    Yields:
        `[3, H, W]`; where nothing changes they are equal bit for bit.
    """
    if change <= 0:
        yield from frames
        return
    own: deque[tuple[Tensor, Tensor]] = deque()

    def noted() -> Iterator[tuple[Tensor, Tensor]]:
        for pixels, source in zip(frames, small, strict=True):
            own.append((pixels, source.to(pixels.device)))
            yield own[-1]

    keyframe: _Keyframe | None = None
    for number, kept in enumerate(_kept(noted(), change / 2, cuts)):
        pixels, source = own.popleft()
        if number in keyframes:
            keyframe = _Keyframe(pixels, source)
            yield pixels
            continue
        if number in cuts:
            keyframe = None
        yield kept if keyframe is None else keyframe.shown_in(kept, source, change / 2)


def _kept(frames: Iterable[tuple[Tensor, Tensor]], change: float, cuts: Container[int]) -> Iterator[Tensor]:
    """Of frames and their small ones: what is shown, without keyframes."""
    waiting: deque[_Frame] = deque()
    anchor = kept = None
    for number, (pixels, source) in enumerate(frames):
        if anchor is None or number in cuts:
            anchor, fresh = source, source.new_ones((1, *pixels.shape[-2:]), dtype=torch.bool)
        else:
            moved = (source - anchor).abs().amax(0, keepdim=True) > change
            anchor = torch.where(moved, source, anchor)
            fresh = _covered(_covered(moved, pixels.shape[-2], -2), pixels.shape[-1], -1)
        waiting.append(_Frame(pixels, fresh))
        if len(waiting) > AHEAD:
            kept = _shown(kept, waiting)
            waiting.popleft()
            yield kept
    while waiting:
        kept = _shown(kept, waiting)
        waiting.popleft()
        yield kept


def _covered(mask: Tensor, count: int, dim: int) -> Tensor:
    """Which of `count` new pixels along a side lie on some of the mask's, which are larger."""
    have = mask.shape[dim]
    new = torch.arange(count, device=mask.device)
    first, last = new * have // count, ((new + 1) * have - 1) // count
    return mask.index_select(dim, first) | mask.index_select(dim, last)


def _shown(kept: Tensor | None, waiting: deque[_Frame]) -> Tensor:
    """The first frame that waits, with what is kept of those before it."""
    frame = waiting[0]
    if kept is not None and not frame.fresh.any():
        return kept
    pixels = _mean(waiting)
    return pixels if kept is None else torch.where(frame.fresh, pixels, kept)


def _mean(waiting: deque[_Frame]) -> Tensor:
    """The mean of the first frame that waits and of those after it, each pixel as far as it stands still."""
    first = waiting[0].pixels
    total, still = first.float(), torch.ones_like(waiting[0].fresh)
    count = still.float()
    for later in islice(waiting, 1, None):
        still = still & ~later.fresh
        if not still.any():
            break
        total, count = total + later.pixels * still, count + still
    mean = total / count
    return mean.to(first.dtype) if first.is_floating_point() else mean.round().to(first.dtype)


def hold_codes(
    frames: Iterable[np.ndarray],
    small: Iterable[Tensor],
    change: float,
    cuts: Container[int] = (),
    keyframes: Container[int] = (),
) -> Iterator[np.ndarray]:
    """`hold_still` of codes `[H, W, 3]`, such as `media.lossless.read_lossless` gives."""
    kind = np.dtype(np.uint8)

    def tensors() -> Iterator[Tensor]:
        nonlocal kind
        for codes in frames:
            kind = codes.dtype
            signed = codes if kind == np.uint8 else codes.view(np.int16)  # 12 bits; torch knows no more of uint16
            yield torch.from_numpy(signed).permute(2, 0, 1)

    for frame in hold_still(tensors(), small, change, cuts, keyframes):
        yield np.ascontiguousarray(frame.permute(1, 2, 0).numpy()).view(kind)
