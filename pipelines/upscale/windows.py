"""Windows over time: each is upscaled on its own, none crosses a cut, and neighbours overlap to be blended."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from ...core.errors import InputError
from ...story.timeline import TEMPORAL_STRIDE
from ..join import JoinedClip, joined_frames

__all__ = ["Window", "check_window", "joined_windows", "plan_windows"]


_BLEND = 4
"""Most frames that one window goes over into the next in; at most half of what they share."""

_TAIL = 8
"""Most frames at the end of a window that are thrown away: two latent frames, which a network that looks at near
latents makes differently where the ones behind them are missing. At most a fifth of what windows share: what begins a
window is off by far more, and needs the rest."""

_AT_KEYFRAME = 13
"""Most frames shared with a window that begins at a keyframe: it has to lead up to nothing, as its VAE's past begins
there, too."""


@dataclass(frozen=True)
class Window:
    """Frames `start` to `stop` (exclusive) of a video.

    A causal VAE knows nothing before a window's first frame, and a network nothing behind its last. So of the frames
    that two windows share the first lead up to the others (`unused`, the window before shows them), a few go over from
    one to the other (`blend`), and those after them are thrown away by the window before (its `tail`).

    Attributes:
        overlap: how many of its first frames it shares with the window before it; 0 where a shot begins.
        keyframes: frames of the video, inside the window, that have a keyframe.
        before, after: the nearest frames of the same shot outside of the window that have one; None: there is none.
        tail: how many of its last frames the window after it alone shows.
    """

    start: int
    stop: int
    overlap: int = 0
    keyframes: tuple[int, ...] = ()
    before: int | None = None
    after: int | None = None
    tail: int = 0

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.stop - self.start

    @property
    def blend(self) -> int:
        """How many of the frames shared with the window before go over into this one."""
        return min((self.overlap + 1) // 2, _BLEND)

    @property
    def unused(self) -> int:
        """How many of its first frames only lead up to the others: the window before shows them."""
        return self.overlap - self.blend - self.thrown_away

    @property
    def thrown_away(self) -> int:
        """How many of the frames that it shares with the window before are that one's tail."""
        if self.start in self.keyframes:
            return self.overlap - self.blend
        return min(_TAIL, self.overlap // 5)


def plan_windows(frames: int, cuts: Sequence[int], keyframes: Sequence[int], window: int, overlap: int) -> list[Window]:
    """Cut a video into windows of at most `window` frames.

    The windows of a shot depend on that shot alone: it is upscaled as if it were a video of its own. They are about
    equally long, but one rather begins at a keyframe where there is one in the second half of the one before it. Any
    other begins where four frames begin that the shot as a whole has in one latent, so that it has the same latents.

    Args:
        frames: length of the video.
        cuts: frames that a new shot begins at, ascending.
        keyframes: frames that have a keyframe, ascending.
        window: most frames of a window; 0 takes every shot whole.
        overlap: frames that neighbours within a shot share; fewer where a window begins at a keyframe. Of 4n+1 the
            last latent of a window is whole, too.

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
        for start, stop, shared in _spans(first, last, keys, window or last - first, overlap):
            low, high = bisect_left(keys, start), bisect_left(keys, stop)
            before = keys[low - 1] if low and keys[low - 1] >= first else None
            after = keys[high] if high < len(keys) and keys[high] < last else None
            found = Window(start, stop, shared, tuple(keys[low:high]), before, after)
            if shared:
                planned[-1] = replace(planned[-1], tail=found.thrown_away)
            planned.append(found)
    return planned


def check_window(window: int, overlap: int) -> None:
    """Refuse (InputError) windows that are shorter than two overlaps: a frame would be in three windows."""
    if overlap < 0:
        raise InputError("overlap", "must be at least 0 frames", overlap, "use e.g. 4")
    if window < 0 or (window and window < 2 * overlap):
        rule = f"must be 0, or at least twice the overlap of {overlap} frames"
        raise InputError("window", rule, window, f"use at least {max(1, 2 * overlap)}, or a smaller overlap")


def _spans(first: int, last: int, keys: Sequence[int], window: int, overlap: int) -> Iterator[tuple[int, int, int]]:
    """First and last frame (exclusive) of each window of one shot, and how many frames it shares with the one before.

    No window begins before the one but one before it has ended.
    """
    start, shared, short = first, 0, min(overlap, _AT_KEYFRAME)
    while last - start > window:
        left = last - start
        count = math.ceil((left - overlap) / (window - overlap))
        latest, even = start + window - overlap, start + max(overlap, math.ceil((left - overlap) / count))
        after = _latent_start(min(even + TEMPORAL_STRIDE - 1, latest), first, keys)
        if after < start + max(overlap, 1):  # windows of a few frames
            after = even
        # Not later than a full window allows; not so early that windows become short.
        low, high = bisect_left(keys, start + (window + 1) // 2), bisect_right(keys, latest + overlap - short)
        if low < high:
            after = keys[high - 1]
        common = short if low < high else overlap
        yield start, after + common, shared
        start, shared = after, common
    yield start, last, shared


def _latent_start(frame: int, first: int, keys: Sequence[int]) -> int:
    """The last frame up to there that begins a latent's four, in a shot whose chunks begin at its keyframes."""
    number = bisect_right(keys, frame)
    begin = max(first, keys[number - 1]) if number else first
    return frame - (frame - begin) % TEMPORAL_STRIDE


def joined_windows(pieces: Iterable[Iterable[np.ndarray]], windows: Sequence[Window]) -> Iterator[np.ndarray]:
    """The frames (codes `[H, W, 3]`) of all windows of a video in a row, each window's own in `pieces`."""
    used = (islice(piece, w.unused, w.frames - w.tail) for piece, w in zip(pieces, windows, strict=True))
    placed = [JoinedClip(w.frames - w.tail - w.unused, w.blend, w.start + w.unused) for w in windows]
    return joined_frames(used, placed)
