"""An encoder whose frames can stand in the track of another one, after frames that were encoded before."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
from av.codec.context import Flags
from av.video.stream import VideoStream
from torch import Tensor

from .avcc import Avcc, length_prefixed, split_start_codes
from .frames import check_finite, to_uint8
from .source_video import SourceVideo
from .video import ENCODER_THREADS, x264_parameters
from .yuv import rgb_to_frame

__all__ = ["TailEncoder", "open_tail"]

_PROFILES = {66: "baseline", 77: "main", 100: "high"}


class TailEncoder:
    """Encodes frames for a track that others have begun.

    Attributes:
        header: the track's, which serves both kinds of frames.
    """

    header: bytes

    def __init__(self, stream: VideoStream, source: SourceVideo) -> None:
        self._stream, self._source = stream, source
        self._size = (stream.height, stream.width)
        self._base = Fraction(stream.time_base or 1)
        self._lasts: dict[int, int] = {}
        self._context: Any = None

    def encode(self, frame: Tensor, time: int, duration: int) -> list[av.Packet]:
        """Packets of a frame `[3, H, W]` in 0…1 that appears at `time`, both in the track's ticks.

        Raises:
            ValueError: another size than the track's, or NaN.
        """
        if tuple(frame.shape[1:]) != self._size:
            raise ValueError(f"a new frame is {list(frame.shape[1:])} (height, width), the video's {list(self._size)}")
        picture = self._picture(check_finite(frame))
        picture.pts, picture.time_base = time, self._base
        self._lasts[time] = duration
        return [self._packet(packet) for packet in self._context.encode(picture)]

    def flush(self) -> list[av.Packet]:
        """What the encoder still holds."""
        return [self._packet(packet) for packet in self._context.encode(None)]

    def _open(self, codec: str, options: dict[str, str], threads: int) -> Any:
        context: Any = av.CodecContext.create(codec, "w")
        context.width, context.height = self._stream.width, self._stream.height
        context.pix_fmt = self._stream.codec_context.pix_fmt
        context.time_base, context.framerate = self._base, self._source.rate
        context.flags |= Flags.global_header
        context.options, context.thread_count = options, threads
        return context

    def _picture(self, frame: Tensor) -> av.VideoFrame:
        raise NotImplementedError

    def _data(self, packet: av.Packet) -> bytes:
        return bytes(packet)

    def _packet(self, packet: av.Packet) -> av.Packet:
        made = av.Packet(self._data(packet))
        made.pts = made.dts = packet.pts  # frames are not reordered, so none can come before one that is there
        made.time_base, made.is_keyframe = self._base, packet.is_keyframe
        made.duration = self._lasts.pop(packet.pts, 0)
        return made


class _H264(TailEncoder):
    """Slices that name parameter sets of their own."""

    def __init__(self, stream: VideoStream, source: SourceVideo, crf: int) -> None:
        super().__init__(stream, source)
        found = Avcc.parse(bytes(stream.codec_context.extradata or b""))
        if found is None:
            raise ValueError("its parameter sets are not in its header")
        form, profile = stream.codec_context.pix_fmt, _PROFILES.get(found.profile)
        if form not in ("yuv420p", "yuvj420p") or profile is None:
            raise ValueError(f"it is H.264 of {form}, profile {stream.codec_context.profile}")
        number = found.free_number()
        if number is None:
            raise ValueError("its header has no room for more parameters")
        parameters = [*x264_parameters(), f"sps-id={number}", "bframes=0"]
        options = {"crf": str(crf), "preset": "medium", "profile": profile, "x264-params": ":".join(parameters)}
        context = self._context = self._open("libx264", options, ENCODER_THREADS)
        context.pix_fmt = "yuv420p"
        context.sample_aspect_ratio = stream.sample_aspect_ratio or Fraction(1)
        colour = source.colour
        context.colorspace = colour.matrix if colour.named else 2
        context.color_range = 2 if colour.full_range else 1
        context.color_primaries, context.color_trc = colour.primaries, colour.transfer
        context.open()
        both = found.with_sets(split_start_codes(bytes(context.extradata)))
        self._length_size, self.header = both.length_size, both.to_bytes()

    def _picture(self, frame: Tensor) -> av.VideoFrame:
        return rgb_to_frame(frame, self._source.colour)

    def _data(self, packet: av.Packet) -> bytes:
        return length_prefixed(bytes(packet), self._length_size)


class _Lossless(TailEncoder):
    """FFV1 as films keep their clips in it; every frame for itself."""

    def __init__(self, stream: VideoStream, source: SourceVideo) -> None:
        super().__init__(stream, source)
        options = {"level": "3", "slicecrc": "1", "g": "1", "flags": "+bitexact"}
        if stream.codec_context.pix_fmt != "bgr0":
            raise ValueError(f"it is FFV1 of {stream.codec_context.pix_fmt}")
        self._context = self._open("ffv1", options, 1)
        self._context.open()
        self.header = bytes(self._context.extradata)
        if self.header != bytes(stream.codec_context.extradata or b""):
            raise ValueError("it is FFV1 with other settings than a film's clips")

    def _picture(self, frame: Tensor) -> av.VideoFrame:
        return av.VideoFrame.from_ndarray(to_uint8(frame), format="rgb24").reformat(format="bgr0", threads=1)


def open_tail(stream: VideoStream, source: SourceVideo, crf: int = 16) -> TailEncoder:
    """An encoder whose frames can follow those of `stream` in its own track.

    Raises:
        ValueError: there is none, and why, in a few words.
    """
    name = stream.codec_context.name
    if name == "h264":
        return _H264(stream, source, crf)
    if name == "ffv1":
        return _Lossless(stream, source)
    raise ValueError(f"it is {name}")
