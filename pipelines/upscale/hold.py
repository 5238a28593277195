"""What stands still in the small video stands still in the large one (ours, not the paper's).

A network makes each frame of a window anew, and small differences between them show as flicker, most of all where
nothing moves. There one large picture is kept until the small one changes: the mean of the next frames', which is
nearer to the truth than each of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["AHEAD", "hold_codes", "hold_still"]

AHEAD = 8
"""Frames after one that are looked at for the picture that is kept, and held in memory."""


class _Frame(NamedTuple):
    pixels: Tensor
    fresh: Tensor
    """`[1, H, W]`, where the frame shows something that the ones before it do not."""
    given: bool


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
        keyframes: numbers of frames that are shown as they are, and kept from there on.

    Yields:
        `[3, H, W]`; where nothing changes they are equal bit for bit.
    """
    if change <= 0:
        yield from frames
        return
    waiting: deque[_Frame] = deque()
    anchor = kept = None
    for number, (pixels, source) in enumerate(zip(frames, small, strict=True)):
        source, given = source.to(pixels.device), number in keyframes
        if anchor is None or given or number in cuts:
            anchor, fresh = source, source.new_ones((1, *pixels.shape[-2:]), dtype=torch.bool)
        else:
            moved = (source - anchor).abs().amax(0, keepdim=True) > change / 2
            anchor = torch.where(moved, source, anchor)
            fresh = _covered(_covered(moved, pixels.shape[-2], -2), pixels.shape[-1], -1)
        waiting.append(_Frame(pixels, fresh, given))
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
    pixels = frame.pixels if frame.given else _mean(waiting)
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
