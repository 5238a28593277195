"""New frames after the last one of a video, whose own frames stay what they are.

Where the codec allows it the encoded packets of the source are copied, and only what is new is encoded: H.264 of 8 bits
4:2:0 in MP4, MOV or Matroska, and the lossless clips of a film. Every frame of the result is then compared with the
source's. Else all of it is encoded again at high quality.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream
from torch import Tensor

from ..core.files import atomic_path
from .append_encoder import open_tail
from .source_video import SourceVideo
from .target_video import open_target

__all__ = ["append_frames", "container_suffix", "why_encoded"]

_COPIED = {"mov,mp4,m4a,3gp,3g2,mj2": "mp4", "matroska,webm": "matroska"}
_SUFFIX = {"mp4": ".mp4", "matroska": ".mkv"}

Frames = Callable[[], Iterator[Tensor]]


def container_suffix(source: SourceVideo) -> str:
    """The suffix of a file that `source` can be continued in: ``.mp4``, or ``.mkv`` where the source is Matroska."""
    with av.open(str(source.path)) as container:
        return _SUFFIX[_COPIED.get(container.format.name, "mp4")]


def why_encoded(source: SourceVideo) -> str | None:
    """Why the packets of `source` cannot be copied, in a few words; None if they can."""
    with av.open(str(source.path)) as container:
        if container.format.name not in _COPIED:
            return f"its container is {container.format.name}"
        if source.interlaced:
            return "it is interlaced"
        if source.orientation != type(source.orientation)():
            return "its header turns it"
        try:
            open_tail(_picture(container), source)
        except ValueError as reason:
            return str(reason)
    return None


def append_frames(
    path: str | os.PathLike[str],
    source: SourceVideo,
    frames: Frames,
    rate: Fraction,
    *,
    crf: int = 16,
    progress: Callable[[int], None] = lambda frames: None,
) -> str | None:
    """Write `source` and new frames after it at `path`, which appears whole or not at all.

    Sound is copied as it is and ends where it ended. Memory does not grow with either part.

    Args:
        path: named as `container_suffix` says.
        source: what comes first.
        frames: gives the new frames from the first on, `[3, H, W]` in 0…1 in the source's size; may be called twice.
        rate: their rate; the first appears where the source's last frame ends.
        crf: quality of what is encoded, from 0 (best) to 51.
        progress: told how many frames are written, of both parts.

    Returns:
        None if the source's own packets are in the result, else why all of it was encoded again.

    Raises:
        InputError: the source cannot be read, or its sound cannot be held by the container.
        ValueError: new frames of another size or with NaN.
    """
    reason = why_encoded(source)
    if reason is None:
        with atomic_path(path) as temporary:
            _copy(temporary, source, frames, rate, crf, progress)
            if _starts_with(temporary, source):
                return None
            temporary.unlink()
            reason = "its packets do not decode to the same frames in a new file"
            _encode(temporary, source, frames, rate, crf, progress)
        return reason
    _encode(Path(path), source, frames, rate, crf, progress)
    return reason


def _encode(
    path: Path, source: SourceVideo, frames: Frames, rate: Fraction, crf: int, progress: Callable[[int], None]
) -> None:
    """Everything through an encoder."""
    with open_target(path, source, crf=crf) as target:
        end = Fraction(0)
        for frame in source.frames():
            end = frame.time + (frame.duration or 1 / source.rate)
            target.write(frame.pixels, frame.time, frame.duration)
            progress(target.frames)
        for number, pixels in enumerate(frames()):
            target.write(pixels, end + number / rate, 1 / rate)
            progress(target.frames)


def _copy(
    path: Path, source: SourceVideo, frames: Frames, rate: Fraction, crf: int, progress: Callable[[int], None]
) -> None:
    """The source's packets, and after them those of an encoder that makes frames for the same track."""
    with av.open(str(source.path)) as container:
        kind = _COPIED[container.format.name]
        options = {"fflags": "+bitexact"} | ({"movflags": "+faststart"} if kind == "mp4" else {})
        with av.open(str(path), "w", format=kind, options=options) as target:
            picture = _picture(container)
            copies: dict[int, Any] = {picture.index: target.add_stream_from_template(picture)}
            for sound in container.streams.audio:
                copies[sound.index] = target.add_stream_from_template(sound)
                copies[sound.index].metadata.update(sound.metadata)
            tail = open_tail(picture, source, crf)
            copies[picture.index].codec_context.extradata = tail.header
            end, written = _copy_packets(container, target, picture, copies, source, progress)
            base = Fraction(picture.time_base or 1)
            for number, pixels in enumerate(frames()):
                start, stop = (round((end + (number + step) / rate) / base) for step in (0, 1))
                _write(target, tail.encode(pixels, start, stop - start), copies[picture.index])
                progress(written + number + 1)
            _write(target, tail.flush(), copies[picture.index])


def _copy_packets(
    container: InputContainer,
    target: OutputContainer,
    picture: VideoStream,
    copies: dict[int, Any],
    source: SourceVideo,
    progress: Callable[[int], None],
) -> tuple[Fraction, int]:
    """Copy all packets; when the last frame ends, in seconds on the new file's clock, and how many there are."""
    end, written = Fraction(0), 0
    for packet in container.demux([container.streams[index] for index in copies]):
        if not packet.size:  # flushes the decoders, and stands in no file
            continue
        base = Fraction(packet.time_base)
        moved = round(source.origin / base)
        if packet.pts is not None:
            packet.pts -= moved
        if packet.dts is not None:
            packet.dts -= moved
        if packet.stream_index == picture.index and packet.pts is not None:
            lasts = (packet.duration * base) if packet.duration else 1 / source.rate
            end = max(end, packet.pts * base + lasts)
            written += 1
            progress(written)
        packet.stream = copies[packet.stream_index]
        target.mux(packet)
    return end, written


def _write(target: OutputContainer, packets: list[av.Packet], stream: VideoStream) -> None:
    for packet in packets:
        packet.stream = stream
        target.mux(packet)


def _picture(container: InputContainer) -> VideoStream:
    """The picture track; not the cover of a sound file."""
    covers = av.stream.Disposition.attached_pic
    return next(stream for stream in container.streams.video if not stream.disposition & covers)


def _starts_with(path: Path, source: SourceVideo) -> bool:
    """Whether a file begins with the source's frames, equal in every code and at the same times."""
    tolerance = Fraction(1, 1000)  # Matroska's clock
    with av.open(str(path)) as made, av.open(str(source.path)) as kept:
        first, second = _picture(made), _picture(kept)
        for new, old in zip_longest(made.decode(first), kept.decode(second)):
            if old is None:
                return new is not None
            if new is None or new.pts is None or old.pts is None:
                return False
            moved = new.pts * Fraction(new.time_base) - old.pts * Fraction(old.time_base) + source.origin
            if abs(moved) > tolerance or not np.array_equal(_codes(new), _codes(old)):
                return False
    return False


def _codes(frame: av.VideoFrame) -> np.ndarray:
    """What a decoder gave, code by code."""
    return (frame.reformat(format="rgb24", threads=1) if frame.format.is_rgb else frame).to_ndarray()
