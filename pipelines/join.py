"""Joins the clips of a film: hard cuts and cross-dissolves, streamed, so that memory does not grow with the film."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from ..media.video import VideoReader, open_writer

__all__ = ["BLEND_SECONDS", "JoinedClip", "join_clips", "joined_clips", "joined_frames", "overlap"]

BLEND_SECONDS = Fraction(1, 2)
"""Longest cross-dissolve; a shorter clip gives at most half of its frames to one."""

Transition = Literal["cut", "blend", "match"]
"""``match``: the clip begins with the picture that the one before it ends with, which is shown once."""


@dataclass(frozen=True)
class JoinedClip:
    """One clip's place in the film.

    Attributes:
        frames: frames of the clip.
        overlap: how many of its first frames dissolve with the last ones of the clip before it; 0 is a cut.
        start: its first frame's place in the film, in frames.
    """

    frames: int
    overlap: int
    start: int


def overlap(before: int, after: int, fps: Fraction) -> int:
    """Frames that two clips of `before` and `after` frames share in a dissolve."""
    return min(int(fps * BLEND_SECONDS), before // 2, after // 2)


def joined_clips(frames: Sequence[int], transitions: Sequence[Transition], fps: Fraction) -> list[JoinedClip]:
    """Lay clips of `frames` frames end to end; `transitions[i]` tells how clip i joins the one before it.

    A dissolve shows two clips at once, so the film is that much shorter than the clips together; at a match it is one
    frame.
    """
    placed: list[JoinedClip] = []
    end = 0
    for i, (count, transition) in enumerate(zip(frames, transitions, strict=True)):
        shared = 0
        if i and transition != "cut":
            shared = overlap(frames[i - 1], count, fps) if transition == "blend" else 1
        placed.append(JoinedClip(count, shared, end - shared))
        end += count - shared
    return placed


def join_clips(
    path: str | os.PathLike[str], clips: Sequence[Path], placed: Sequence[JoinedClip], fps: Fraction
) -> None:
    """Write the clips as one H.264 film at `path`, where `joined_clips` placed them.

    At most one dissolve's frames are held in memory.
    """
    with open_writer(path, fps) as writer:
        for frame in joined_frames([VideoReader(clip).arrays() for clip in clips], placed):
            writer.write_array(frame)


def joined_frames(clips: Iterable[Iterable[np.ndarray]], placed: Sequence[JoinedClip]) -> Iterator[np.ndarray]:
    """The frames `[H, W, 3]` (codes) of all clips in a row, dissolved where they overlap; see `joined_clips`.

    The end of a clip is held back where the next one dissolves into it.
    """
    tail: deque[np.ndarray] = deque()
    for i, (frames, clip) in enumerate(zip(clips, placed, strict=True)):
        held_back = placed[i + 1].overlap if i + 1 < len(placed) else 0
        for number, frame in enumerate(frames):
            if number < clip.overlap:
                frame = _mix(tail.popleft(), frame, (number + 1) / (clip.overlap + 1))
            if number < clip.frames - held_back:
                yield frame
            else:
                tail.append(frame)


def _mix(old: np.ndarray, new: np.ndarray, weight: float) -> np.ndarray:
    return (old * (1 - weight) + new * weight + 0.5).astype(new.dtype)
