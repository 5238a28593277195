"""Frames of a clip, window after window, decoded once where windows follow each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import InputError
from ...media.source_video import SourceVideo

__all__ = ["Feed"]


class Feed:
    """Reads windows of one file; the frames that the next window shares with this one are kept.

    Args:
        path: the video.
        times: when each of its frames appears, if known: a window from the middle is then found without a pass over
            the whole file.
    """

    def __init__(self, path: Path, times: Sequence[Fraction] | None = None) -> None:
        self.path = path
        self._source = SourceVideo(path, times=times)
        self._frames: Iterator[Tensor] = iter(())
        self._held: list[Tensor] = []
        self._start = self._next = -1

    def read(self, start: int, stop: int) -> Tensor:
        """Frames `start` to `stop` (exclusive), `[T, 3, h, w]` in 0…1.

        Raises:
            InputError: the video is shorter than it was, or damaged.
        """
        if self._next < 0 or not self._start <= start <= self._next:
            self._frames = (frame.pixels for frame in self._source.frames(start))
            self._held, self._start, self._next = [], start, start
        self._held = self._held[start - self._start :]
        self._start = start
        while self._next < stop:
            frame = next(self._frames, None)
            if frame is None:
                rule = f"must have {stop} frames, as when it was looked at"
                raise InputError("video", rule, f"{self._next} in {self.path}", "begin anew, without --resume")
            self._held.append(frame)
            self._next += 1
        return torch.stack(self._held[: stop - start])
