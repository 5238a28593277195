"""What Keyframe SR reads and writes: an IMAGE batch, or a VIDEO, streamed from its file into another one."""

from __future__ import annotations

import os
import tempfile
import weakref
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from comfy_api.latest import InputImpl, Types
from torch import Tensor

from ..core.errors import InputError
from ..media.cuts import CutFinder, find_cuts
from ..media.source_video import SourceVideo
from ..media.target_video import open_target
from .film import room
from .host import stop_if_asked, tell, temporary_folder
from .images import frames_of

__all__ = ["IN_MEMORY", "Source", "source_of"]

IN_MEMORY = 1 << 31
"""Bytes of frames that a VIDEO from a file also gives as IMAGE; longer ones come as VIDEO alone."""

_IN_MP4 = {"aac", "ac3", "alac", "eac3", "flac", "mp3", "opus"}
"""Sound that MP4 holds, whose times are exact; Matroska holds all."""

Frame = TypeVar("Frame")

Made = tuple[Any, Tensor | None]
"""VIDEO, and its frames as IMAGE `[T, H, W, 3]`; None where they would need too much memory."""


class Source(Protocol):
    """A video to be upscaled.

    Attributes:
        size: (height, width) of its frames.
        count: number of its frames.
        rate: frames per second.
        notes: what a user should know of how it is read.
    """

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def count(self) -> int: ...

    @property
    def rate(self) -> Fraction: ...

    @property
    def notes(self) -> Sequence[str]: ...

    def frames(self) -> Iterator[Tensor]:
        """Its frames `[3, h, w]` in 0…1, from the first."""
        ...

    def index_of(self, seconds: Fraction) -> int:
        """The frame that is shown nearest to that time; `count` and above for times behind its end."""
        ...

    def cuts(self) -> list[int]:
        """Frames at which shots begin, found by looking."""
        ...

    def write(self, frames: Iterator[Tensor], size: tuple[int, int]) -> Made:
        """What comes out, of as many frames `[3, H, W]`, with the source's times and sound."""
        ...


@dataclass(frozen=True)
class Pictures:
    """Frames in memory."""

    pixels: Tensor
    rate: Fraction
    audio: Any = None
    notes: Sequence[str] = ()

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[-2], self.pixels.shape[-1]

    @property
    def count(self) -> int:
        return len(self.pixels)

    def frames(self) -> Iterator[Tensor]:
        yield from self.pixels

    def index_of(self, seconds: Fraction) -> int:
        return round(seconds * self.rate)

    def cuts(self) -> list[int]:
        return find_cuts(_watched(self.frames()), self.rate)

    def write(self, frames: Iterator[Tensor], size: tuple[int, int]) -> Made:
        images = room(self.count, *size, 3)
        for place, frame in zip(images, frames, strict=True):
            place.copy_(frame.detach().clamp(0, 1).movedim(0, -1))
        parts = Types.VideoComponents(images=images, audio=self.audio, frame_rate=self.rate)
        return InputImpl.VideoFromComponents(parts), images


class Recording:
    """A video file; what comes out is a file, too, so memory does not grow with its length."""

    def __init__(self, path: Path) -> None:
        self._video = SourceVideo(path)
        self.size = self._video.size
        self.rate = self._video.rate
        self.notes: Sequence[str] = self._video.notes
        self._count = 0

    @property
    def count(self) -> int:
        if not self._count:
            self._count = sum(1 for _ in _watched(self._video.decoded()))  # which finds the times, too
        return self._count

    def frames(self) -> Iterator[Tensor]:
        for frame in self._video.frames():
            yield frame.pixels

    def index_of(self, seconds: Fraction) -> int:
        times = self._video.times
        if seconds >= self._video.duration:
            return len(times)
        after = bisect_left(times, seconds)
        if after == len(times):
            return after - 1
        return after - 1 if after and seconds - times[after - 1] <= times[after] - seconds else after

    def cuts(self) -> list[int]:
        finder, found = CutFinder(self.rate), list[int]()
        for frame in _watched(self._video.decoded()):
            found += finder.push_decoded(frame)
        return found + finder.finish()

    def write(self, frames: Iterator[Tensor], size: tuple[int, int]) -> Made:
        kept: list[Tensor] | None = [] if 12 * size[0] * size[1] * self.count <= IN_MEMORY else None
        suffix = ".mp4" if _IN_MP4.issuperset(self._video.audio) else ".mkv"
        handle, name = tempfile.mkstemp(suffix, "keyframe_sr_", temporary_folder())
        os.close(handle)
        path = Path(name)
        try:
            with open_target(path, self._video, size) as target:
                times = [*self._video.times, self._video.duration]
                for (time, following), frame in zip(pairwise(times), frames, strict=True):
                    target.write(frame, time, following - time)
                    if kept is not None:
                        kept.append(frame.detach().to("cpu", torch.float32).clamp(0, 1).movedim(0, -1))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return InputImpl.VideoFromFile(str(path)), None if kept is None else torch.stack(kept)


def source_of(video: Any, fps: Fraction, audio: Any = None) -> Pictures | Recording:
    """The source that an input is: an IMAGE batch or a VIDEO.

    Args:
        video: IMAGE or VIDEO.
        fps: rate of an IMAGE batch.
        audio: AUDIO of an IMAGE batch; a VIDEO brings its own.

    Raises:
        InputError: no frames, or a file that cannot be read.
    """
    if hasattr(video, "get_components"):
        if audio is not None:
            tell("audio is for an IMAGE batch: a VIDEO keeps its own sound", warn=True)
        if tuple(video.get_active_trim_window()) == (0.0, 0.0) and isinstance(video, InputImpl.VideoFromFile):
            path, own = _file_of(video)
            recording = Recording(path)
            if own:
                weakref.finalize(recording, path.unlink, missing_ok=True)
            return recording
        parts = video.get_components()
        return _pictures(frames_of(parts.images, "video"), Fraction(parts.frame_rate), parts.audio)
    return _pictures(frames_of(video, "video"), fps, audio)


def _pictures(frames: Tensor, rate: Fraction, audio: Any) -> Pictures:
    if not len(frames):
        raise InputError("video", "must hold at least one frame", 0, "connect the frames of a video")
    return Pictures(frames, rate, audio)


def _file_of(video: Any) -> tuple[Path, bool]:
    """Where a VIDEO lies; one that lies in memory is written down first, to a file of ours (True)."""
    source = video.get_stream_source()
    if isinstance(source, str):
        return Path(source), False
    handle, name = tempfile.mkstemp(".video", "keyframe_sr_source_", temporary_folder())
    with os.fdopen(handle, "wb") as file:
        file.write(source.getbuffer())
    return Path(name), True


def _watched(frames: Iterator[Frame]) -> Iterator[Frame]:
    """The same frames, until the user presses Cancel."""
    for frame in frames:
        stop_if_asked()
        yield frame
