"""Any video that a user has, one frame at a time: upright, with its own times, in RGB by what the file says.

Where `video.VideoReader` refuses what is not at a constant rate and the right way up, this reads it: display matrices,
varying rates, colour tags, 10 bit, interlacing, hidden frames. `target_video` writes such a video again.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream
from torch import Tensor

from ..core.documents import regular_file
from ..core.errors import InputError
from .deinterlace import Deinterlacer
from .orientation import orientation_of
from .yuv import HDR_CURVES, colour_of, frame_to_rgb

__all__ = ["SourceFrame", "SourceVideo"]

_BACK = (0, 1, 4, 16)  # seconds before the frame that is wanted; some containers land behind what they are asked for
_INTERLACED = {2, 3, 4, 5}  # field orders of FFmpeg
_MAY_INTERLACE = {"h264", "mpeg1video", "mpeg2video", "mpeg4", "vc1", "dvvideo", "prores"}  # frame by frame


@dataclass(frozen=True)
class SourceFrame:
    """One frame of a `SourceVideo`.

    Attributes:
        index: its place among the frames shown, from 0.
        time: when it appears, in seconds, exact.
        duration: how long the file says it stays, in seconds; 0 where it does not say.
        pixels: float32 RGB `[3, H, W]` in 0…1, upright.
    """

    index: int
    time: Fraction
    duration: Fraction
    pixels: Tensor


class SourceVideo:
    """A video file to read; opening it decodes its first frame.

    Times start where the earliest of picture and sound starts, as players count: a recording that begins at an hour
    begins at 0, and a picture that begins after its sound keeps that distance.

    Attributes:
        path: the file.
        size: (height, width) of its frames, upright, in stored pixels.
        rate: frames per second that the file claims, as a Fraction; `times` are what counts.
        sample_aspect: width of an upright pixel by its height; 1 where the file is silent.
        colour: what its codes mean, a `yuv.VideoColour`.
        origin: seconds by which its own clock is ahead of ours.
        time_base: all times are multiples of it.
        audio: names of the codecs of its sound tracks.
        interlaced: frames are deinterlaced (bwdif, one for each frame of two fields).
        notes: what a user should know of how it is read, one sentence each.

    Args:
        path: the file.
        field: what the user calls it, for errors.
        times: those of an earlier `times` of the same file, if kept: `frames` with a start then need not find out.

    Raises:
        InputError: no video, damaged or empty; of high dynamic range; of an unknown matrix; turned by odd angles.
            While frames are read: damaged or cut off, another size in the middle, times that do not increase.
    """

    def __init__(
        self, path: str | os.PathLike[str], field: str = "video", times: Sequence[Fraction] | None = None
    ) -> None:
        self.path = Path(path)
        self.field = field
        self._times = list(times) if times is not None else None
        self._last: Fraction | None = None
        with self._open() as container:
            stream = self._stream(container)
            self._rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
            self._still = container.format.name.endswith("_pipe") or container.format.name == "image2"
            self.audio = tuple(sound.codec_context.name for sound in container.streams.audio)
            try:
                frame = next(_in_order(container, stream), None)
            except av.error.FFmpegError as error:
                raise self._damaged(error) from None
            if frame is None:
                raise InputError(field, "must hold at least one frame", str(self.path), "give another file")
            self._stored = (frame.height, frame.width)
            self.colour = colour_of(frame, field)
            curve = HDR_CURVES.get(self.colour.transfer)
            if curve is not None:
                fix = "convert it to SDR (BT.709)"
                raise InputError(field, "must be of standard dynamic range", f"{curve} in {self.path}", fix)
            self.orientation = orientation_of(frame, field)
            self.size = self.orientation.size(*self._stored)
            aspect = Fraction(stream.sample_aspect_ratio or 1) or Fraction(1)
            self.sample_aspect = 1 / aspect if self.orientation.transposed else aspect
            self.interlaced = frame.interlaced_frame or int(stream.codec_context.field_order) in _INTERLACED
            self._filtered = self.interlaced or stream.codec_context.name in _MAY_INTERLACE
            self.time_base = Fraction(stream.time_base or Fraction(1, 1000))
            starts = [_seconds(frame.pts, frame.time_base)]
            starts += [_seconds(sound.start_time, sound.time_base) for sound in container.streams.audio]
            # in whole ticks of the picture, so that its times stay exact; sound moves by less than one
            self.origin = max(Fraction(0), min(starts) // self.time_base * self.time_base)
        self.notes = self._told()

    @property
    def rate(self) -> Fraction:
        """Frames per second that the file claims."""
        return self._rate

    @property
    def times(self) -> Sequence[Fraction]:
        """When each frame appears, in seconds, strictly increasing; found by decoding the whole file once."""
        if self._times is None:
            for _ in self._whole():
                pass
        assert self._times is not None
        return self._times

    @property
    def duration(self) -> Fraction:
        """Seconds from 0 to the end of the last frame."""
        times = self.times
        return times[-1] + (self._last or 1 / self._rate)

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[SourceFrame]:
        """Yield the frames from `start` up to `stop` (all). Memory does not grow with their number.

        What comes from the middle equals what a pass over the whole file gives, in every container: the file is decoded
        from a keyframe before `start`, or from its beginning where no seek leads to one. Needs `times` for that.
        """
        for index, frame, time in self._whole() if start <= 0 else self._from(start):
            if stop is not None and index >= stop:
                return
            pixels = self.orientation.upright(frame_to_rgb(frame, self.colour))
            yield SourceFrame(index, time, self._duration(frame), pixels)

    def decoded(self) -> Iterator[av.VideoFrame]:
        """Yield all frames as they are stored, neither turned nor converted: for a quick look at the whole file."""
        for _, frame, _ in self._whole():
            yield frame

    def _whole(self) -> Iterator[tuple[int, av.VideoFrame, Fraction]]:
        """All frames from the beginning; remembers their times once it comes to the end."""
        times: list[Fraction] = []
        with self._open() as container:
            frame = None
            for frame in self._decode(container):
                time = self._time(frame, times[-1] if times else None)
                times.append(time)
                yield len(times) - 1, frame, time
            self._check_end(container, times, frame)
        self._times = times

    def _from(self, start: int) -> Iterator[tuple[int, av.VideoFrame, Fraction]]:
        """Frames from `start` on, decoded from a keyframe before it."""
        times = self.times
        if start >= len(times):
            return
        first = max(0, start - 2) if self._filtered else start  # deinterlacing looks at the frames around
        for back in _BACK:
            at = times[first] - back
            if at <= times[0]:
                break
            with self._open() as container:
                index = -1
                for frame in self._decode(container, at):
                    time = self._time(frame, None)
                    if index < 0:
                        index = bisect_left(times, time)
                        if index > first or times[index] != time:
                            break
                    else:
                        index += 1
                        if index >= len(times) or times[index] != time:
                            if index > start:
                                raise self._damaged(ValueError("times that change"))
                            break
                    if index >= start:
                        yield index, frame, time
                else:
                    if index >= start:
                        return
        for index, frame, time in self._whole():
            if index >= start:
                yield index, frame, time

    def _decode(self, container: InputContainer, at: Fraction | None = None) -> Iterator[av.VideoFrame]:
        """Decoded frames, deinterlaced; from a keyframe at or before the time `at` if the container finds one."""
        stream = self._stream(container)
        deinterlacer = Deinterlacer() if self._filtered else None
        skipping = at is not None
        try:
            if at is not None:
                container.seek(int((at + self.origin) / Fraction(stream.time_base or 1)), stream=stream)
            for frame in _in_order(container, stream):
                if (frame.height, frame.width) != self._stored:
                    seen = f"{frame.width}×{frame.height} after {self._stored[1]}×{self._stored[0]} in {self.path}"
                    raise InputError(self.field, "must have frames of one size", seen, "re-encode it to one size")
                skipping = skipping and not frame.key_frame
                if skipping:  # leftovers before the keyframe refer to what was skipped
                    continue
                yield from deinterlacer.push(frame) if deinterlacer else (frame,)
            if deinterlacer:
                yield from deinterlacer.flush()
        except av.error.FFmpegError as error:
            raise self._damaged(error) from None

    def _time(self, frame: av.VideoFrame, before: Fraction | None) -> Fraction:
        """A frame's time on our clock; one without a time of its own follows the frame before it."""
        if frame.pts is None:
            return Fraction(0) if before is None else before + 1 / self._rate
        time = _seconds(frame.pts, frame.time_base) - self.origin
        if before is not None and time <= before:
            seen = f"{float(time):.3f} s after {float(before):.3f} s in {self.path}"
            raise InputError(self.field, "must have times that increase", seen, "re-encode it, e.g. to MP4 with ffmpeg")
        return time

    def _duration(self, frame: av.VideoFrame) -> Fraction:
        return _seconds(frame.duration, frame.time_base)

    def _check_end(self, container: InputContainer, times: list[Fraction], frame: av.VideoFrame | None) -> None:
        """Refuse a file that ended early: Matroska that is cut off ends without an error, only its header knows."""
        if not times or frame is None:
            raise InputError(self.field, "must hold at least one frame", str(self.path), "give another file")
        self._last = self._duration(frame) or None
        stream, said = self._stream(container), None
        if stream.duration is not None:
            said = _seconds(stream.duration, stream.time_base)
        elif container.duration is not None and not self.audio:
            said = Fraction(container.duration, av.time_base)
        span = times[-1] - times[0]
        longest = max((b - a for a, b in zip(times, times[1:], strict=False)), default=Fraction(0))
        slack = max(longest, self._last or Fraction(0), Fraction(5, 2) / self._rate)  # the last one may be a still
        if said is not None and span + slack < Fraction(95, 100) * said:
            rule = f"must be whole: its header says {float(said):.2f} s"
            seen = f"{float(span):.2f} s in {self.path}"
            raise InputError(self.field, rule, seen, "the file is cut off; copy it again")

    def _told(self) -> tuple[str, ...]:
        notes = []
        if self._still:
            notes.append(f"a picture: taken for a video of one frame, of {float(self._rate):.6g} a second")
        if self.interlaced:
            notes.append("interlaced: deinterlaced with bwdif, one picture for each frame of two fields")
        if not self.colour.named:
            name = "BT.709" if self.colour.matrix == 1 else "BT.601"
            notes.append(f"its colours have no tag: taken for {name}, as players take them at this size")
        return tuple(notes)

    def _open(self) -> InputContainer:
        file = regular_file(self.path, self.field, "video file")
        try:
            container = av.open(str(file))
        except av.error.FFmpegError as error:
            raise self._damaged(error) from None
        if not any(self._is_picture(stream) for stream in container.streams.video):
            container.close()
            raise InputError(self.field, "must have a picture track", str(self.path), "give a video file")
        return container

    def _stream(self, container: InputContainer) -> VideoStream:
        return next(stream for stream in container.streams.video if self._is_picture(stream))

    @staticmethod
    def _is_picture(stream: VideoStream) -> bool:
        """Not the cover of a sound file."""
        return not stream.disposition & av.stream.Disposition.attached_pic

    def _damaged(self, error: Exception) -> InputError:
        fix = f"the file is damaged or of an unknown kind ({type(error).__name__}); convert it to MP4"
        return InputError(self.field, "must be a readable video", str(self.path), fix)


def _in_order(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """Decoded frames with their times. AVI only counts packets, in the order of decoding: B-frames need new times."""
    if container.format.name != "avi":
        yield from container.decode(stream)
        return
    times: deque[int | None] = deque()
    for packet in container.demux(stream):
        if packet.size:
            times.append(packet.dts)
            frames = packet.decode()
        elif packet.dts is None:
            frames = packet.decode()  # the end
        else:
            continue  # the frame before it stays
        for frame in frames:
            frame.pts = times.popleft() if times else None
            yield frame


def _seconds(ticks: int | None, base: Fraction | None) -> Fraction:
    """A time in ticks as seconds; 0 where there is none."""
    return Fraction(0) if ticks is None or base is None else ticks * Fraction(base)
