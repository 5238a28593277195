"""Windows over time: each is upscaled on its own, none crosses a cut, and neighbours overlap to be blended."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ...core.errors import InputError
from ..join import JoinedClip, joined_frames

__all__ = ["Window", "check_window", "joined_windows", "plan_windows"]


@dataclass(frozen=True)
class Window:
    """Frames `start` to `stop` (exclusive) of a video.

    Attributes:
        overlap: how many of its first frames it shares with the window before it; 0 where a shot begins.
        keyframes: frames of the video, inside the window, that have a keyframe.
        before, after: the nearest frames of the same shot outside of the window that have one; None: there is none.
    """

    start: int
    stop: int
    overlap: int = 0
    keyframes: tuple[int, ...] = ()
    before: int | None = None
    after: int | None = None

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.stop - self.start

    @property
    def blend(self) -> int:
        """How many of the frames shared the window before goes over into this one in: the last half.

        A network is less sure where a window begins than where one ends: on the pocket's clips frames that begin one
        differ from those of the whole shot by 1.3/255 in the mean, those that end one by 0.2.
        """
        return (self.overlap + 1) // 2

    @property
    def unused(self) -> int:
        """How many of its first frames only lead up to the others: the window before shows them."""
        return self.overlap - self.blend


def plan_windows(frames: int, cuts: Sequence[int], keyframes: Sequence[int], window: int, overlap: int) -> list[Window]:
    """Cut a video into windows of at most `window` frames.

    The windows of a shot depend on that shot alone: it is upscaled as if it were a video of its own. They are about
    equally long, but one rather begins at a keyframe where there is one in the second half of the one before it: both
    windows then have it, and agree where they are blended.

    Args:
        frames: length of the video.
        cuts: frames that a new shot begins at, ascending.
        keyframes: frames that have a keyframe, ascending.
        window: most frames of a window; 0 takes every shot whole.
        overlap: frames that neighbours within a shot share.

    Raises:
        InputError: a cut or keyframe outside of the video, or see `check_window`.
    """
    check_window(window, overlap)
    for field, values in (("cuts", cuts), ("keyframes", keyframes)):
        for value in values:
            if not 0 <= value < frames:
                raise InputError(field, f"must be frames from 0 to {frames - 1}", value, "leave it out")
    keys, planned = sorted(set(keyframes)), list[Window]()
    edges = sorted({0, *cuts, frames})
    for first, last in zip(edges, edges[1:], strict=False):
        shared = 0
        for start, stop in _spans(first, last, keys, window or last - first, overlap):
            low, high = bisect_left(keys, start), bisect_left(keys, stop)
            before = keys[low - 1] if low and keys[low - 1] >= first else None
            after = keys[high] if high < len(keys) and keys[high] < last else None
            planned.append(Window(start, stop, shared, tuple(keys[low:high]), before, after))
            shared = overlap
    return planned


def check_window(window: int, overlap: int) -> None:
    """Refuse (InputError) windows that are shorter than two overlaps: a frame would be in three windows."""
    if overlap < 0:
        raise InputError("overlap", "must be at least 0 frames", overlap, "use e.g. 4")
    if window < 0 or (window and window < 2 * overlap):
        rule = f"must be 0, or at least twice the overlap of {overlap} frames"
        raise InputError("window", rule, window, f"use at least {max(1, 2 * overlap)}, or a smaller overlap")


def _spans(first: int, last: int, keys: Sequence[int], window: int, overlap: int) -> Iterator[tuple[int, int]]:
    """First and last frame (exclusive) of each window of one shot."""
    start = first
    while last - start > window:
        left = last - start
        count = math.ceil((left - overlap) / (window - overlap))
        after = start + max(overlap, math.ceil((left - overlap) / count))
        # Not later than a full window allows; not so early that windows become short.
        low, high = bisect_left(keys, start + (window + 1) // 2), bisect_right(keys, start + window - overlap)
        if low < high:
            after = keys[high - 1]
        yield start, after + overlap
        start = after
    yield start, last


def joined_windows(pieces: Iterable[Iterable[np.ndarray]], windows: Sequence[Window]) -> Iterator[np.ndarray]:
    """The frames (codes `[H, W, 3]`) of all windows of a video in a row, each window's own in `pieces`."""
    used = (islice(piece, window.unused, None) for piece, window in zip(pieces, windows, strict=True))
    placed = [JoinedClip(w.frames - w.unused, w.blend, w.start + w.unused) for w in windows]
    return joined_frames(used, placed)
