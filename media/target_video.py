"""Writes a video again after its frames have been worked on: with the source's times, colours, shape and sound."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from torch import Tensor

from ..core.errors import InputError
from ..core.files import atomic_path
from .frames import check_finite
from .source_video import SourceVideo
from .video import ENCODER_THREADS, x264_parameters
from .yuv import BT709, RGB, rgb_to_frame

__all__ = ["TargetVideo", "open_target"]

_FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_AHEAD = Fraction(1, 2)  # seconds of sound written ahead of the picture, so that the muxer never waits
_PRIMING = Fraction(1, 2)  # sound before 0 that a decoder needs to start; edit lists hide it
_SAME_SHAPE = 0.01
_LEAST_HEVC = 128  # x265 4.1 writes beyond its memory where a picture is 48 wide


@contextlib.contextmanager
def open_target(
    path: str | os.PathLike[str],
    source: SourceVideo,
    size: tuple[int, int] | None = None,
    *,
    crf: int = 16,
    depth: int | None = None,
    sound: bool = True,
) -> Iterator[TargetVideo]:
    """Open a video to write the worked-on frames of `source` into; it appears whole when the block ends without error.

    Of the source it keeps the time of every frame (exact in MP4 and MOV, to the millisecond in Matroska), matrix,
    primaries, transfer curve and range, always tagged; the shape of the picture on the screen; and all sound tracks,
    their packets copied as they are, each at its distance from the picture.

    8 bits become H.264, 10 (a source of more than 8) HEVC Main 10, or H.264's High 10 below 128 lines or columns, where
    the HEVC encoder is not safe. All are 4:2:0; a picture with an odd side is 4:4:4,
    since halves of it would need one column or row more. RGB becomes BT.709. Equal frames give equal files.

    Args:
        path: ``.mp4``, ``.mov``, ``.m4v`` or ``.mkv``.
        source: where times, colours and sound come from.
        size: (height, width) of the frames to come; the source's.
        crf: quality, from 0 (best) to 51; 16 is close to visually lossless.
        depth: 8 or 10 bits a sample; by default 10 where the source has more than 8.
        sound: copy the sound tracks.

    Raises:
        InputError: a name that ends in something else; sound of a kind that the container cannot hold.
        ValueError: frames of another size or with NaN, times that do not increase, or no frame at all.
    """
    path = Path(path)
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise InputError("output", f"must end in {', '.join(_FORMATS)}", path.name, "write an .mp4")
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(atomic_path(path))
        options = {"fflags": "+bitexact"}
        if kind != "matroska":
            # Edit lists say in this unit when a track begins; the default of a millisecond would move it.
            options |= {"movflags": "+faststart", "movie_timescale": str(_fine(source.time_base.denominator))}
        container = stack.enter_context(av.open(str(temporary), "w", format=kind, options=options))
        tracks = None
        if sound and source.audio:
            tracks = _Sound(stack.enter_context(av.open(str(source.path))), container, source, path)
        writer = TargetVideo(container, source, size or source.size, crf, depth, tracks)
        try:
            container.start_encoding()
        except av.error.ArgumentError:
            if tracks is None:
                raise
            raise _unheld(source, path) from None
        yield writer
        writer.finish()


def _unheld(source: SourceVideo, path: Path) -> InputError:
    seen = f"{', '.join(source.audio)} in {path.suffix}"
    fix = f"write {path.with_suffix('.mkv').name}"
    return InputError("output", f"must be able to hold the sound of {source.field}", seen, fix)


def _fine(ticks: int) -> int:
    """At least 10,000 ticks a second, as a multiple of `ticks`; what MP4 takes for a track."""
    while ticks < 10_000:
        ticks *= 2
    return ticks


class TargetVideo:
    """Takes the frames of one open video; `open_target` makes it and says what it keeps."""

    def __init__(
        self,
        container: OutputContainer,
        source: SourceVideo,
        size: tuple[int, int],
        crf: int,
        depth: int | None,
        sound: _Sound | None,
    ) -> None:
        depth = depth or (8 if source.colour.depth == 8 else 10)
        if depth not in (8, 10):
            raise InputError("depth", "must be 8 or 10", depth, "use 10 for more than 8 bits")
        self.size = size
        self.frames = 0
        self._container = container
        self._sound = sound
        self._source = source
        self._colour = replace(source.colour, depth=depth)
        if source.colour.matrix == RGB:
            self._colour = replace(self._colour, matrix=BT709, primaries=BT709, transfer=BT709, full_range=False)
        self._subsampled = size[0] % 2 == size[1] % 2 == 0
        self._time: Fraction | None = None
        self._durations: dict[int, int] = {}
        self._stream = self._start(crf)

    def write(self, frame: Tensor, time: Fraction, duration: Fraction = Fraction(0)) -> None:
        """Append one frame.

        Args:
            frame: `[3, H, W]` in 0…1.
            time: when it appears: a `SourceFrame`'s.
            duration: how long it stays; counts for the last frame only. 0: one frame of the source's rate.
        """
        if tuple(frame.shape) != (3, *self.size):
            raise ValueError(
                f"frame {self.frames} must be [3, {self.size[0]}, {self.size[1]}], got {list(frame.shape)}"
            )
        if self._time is not None and time <= self._time:
            raise ValueError(f"frame {self.frames} at {float(time)} s does not follow {float(self._time)} s")
        picture = rgb_to_frame(check_finite(frame), self._colour, self._subsampled)
        base = self._source.time_base
        picture.time_base = base
        picture.pts = round(time / base)
        self._durations[picture.pts] = max(1, round((duration or 1 / self._source.rate) / base))
        self._mux(picture)
        if self._sound:
            self._sound.write(until=time + _AHEAD)
        self._time = time
        self.frames += 1

    def finish(self) -> None:
        """Flush what the encoder holds, and the rest of the sound."""
        if not self.frames:
            raise ValueError("no frame was written to the video")
        self._mux(None)
        if self._sound:
            self._sound.write(until=None)

    def _mux(self, picture: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(picture):
            if packet.pts in self._durations:
                packet.duration = self._durations.pop(packet.pts)
            self._container.mux(packet)

    def _start(self, crf: int) -> av.video.stream.VideoStream:
        """Set up the encoder."""
        height, width = self.size
        colour, deep = self._colour, self._colour.depth > 8
        hevc = deep and min(height, width) >= _LEAST_HEVC
        stream = self._container.add_stream("libx265" if hevc else "libx264", rate=self._source.rate)
        stream.width, stream.height = width, height
        stream.pix_fmt = ("yuv420p" if self._subsampled else "yuv444p") + ("10le" if deep else "")
        context = stream.codec_context
        context.time_base = stream.time_base = self._source.time_base
        context.sample_aspect_ratio = self._aspect()
        context.colorspace, context.color_range = colour.matrix, 2 if colour.full_range else 1
        context.color_primaries, context.color_trc = colour.primaries, colour.transfer
        if hevc:
            parameters = ["log-level=none", "pools=1", "frame-threads=1"] + ["chromaloc=1"] * self._subsampled
            stream.options = {"crf": str(crf), "preset": "medium", "x265-params": ":".join(parameters)}
            if self._container.format.name != "matroska":
                context.codec_tag = "hvc1"  # Apple's players want it so
        else:
            parameters = x264_parameters(self._subsampled)
            stream.options = {"crf": str(crf), "preset": "medium", "x264-params": ":".join(parameters)}
            context.thread_count = ENCODER_THREADS
        return stream

    def _aspect(self) -> Fraction:
        """Width of a pixel by its height, such that the picture on the screen keeps its shape."""
        source = self._source
        stretch = Fraction(source.size[1] * self.size[0], source.size[0] * self.size[1])
        if abs(float(stretch) - 1) < _SAME_SHAPE:  # sides are whole numbers; a pixel more or less is no other shape
            return source.sample_aspect
        return (source.sample_aspect * stretch).limit_denominator(4096)


class _Sound:
    """The sound tracks of a file, copied packet by packet as far as the picture is."""

    def __init__(self, container: InputContainer, target: OutputContainer, source: SourceVideo, path: Path) -> None:
        self._target = target
        self._origin = source.origin
        self._hide = target.format.name != "matroska"  # edit lists can hide a start, Matroska would move everything
        self._streams: dict[int, AudioStream] = {}
        for stream in container.streams.audio:
            try:
                copy = target.add_stream_from_template(stream)
            except (ValueError, av.error.FFmpegError):
                raise _unheld(source, path) from None
            copy.metadata.update({key: stream.metadata[key] for key in ("language", "title") if key in stream.metadata})
            self._streams[stream.index] = copy
        self._packets = container.demux(*container.streams.audio)
        self._next: av.Packet | None = None

    def write(self, until: Fraction | None) -> None:
        """Copy what sounds up to a time; all that is left with None."""
        while True:
            packet = self._next or next(self._packets, None)
            self._next = None
            if packet is None:
                return
            if not packet.size or packet.pts is None:
                continue
            base = Fraction(packet.time_base)
            time = packet.pts * base - self._origin
            if until is not None and time > until:
                self._next = packet
                return
            if time < (-_PRIMING if self._hide else 0):
                continue
            moved = round(self._origin / base)
            packet.pts -= moved
            packet.dts = packet.pts if packet.dts is None else packet.dts - moved
            packet.stream = self._streams[packet.stream_index]
            self._target.mux(packet)
