"""Videos, frame by frame: writing streams to the disk, reading yields one frame at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer, OutputContainer
from torch import Tensor

from ..story.errors import InputError
from ..story.files import atomic_path
from .frames import from_uint8, to_uint8

__all__ = ["VideoReader", "VideoWriter", "open_writer"]

# A fixed number: x264 makes other (equally good) frames with other thread counts, and a film must not depend on the
# machine's core count.
_ENCODER_THREADS = 4
# Numbers of ISO/IEC 23091-2, as FFmpeg uses them.
_BT709, _UNSPECIFIED, _BT601 = 1, 2, 5
_LIMITED_RANGE, _FULL_RANGE = 1, 2


@contextlib.contextmanager
def open_writer(
    path: str | os.PathLike[str], fps: int | float | Fraction, *, lossless: bool = False, crf: int = 16
) -> Iterator[VideoWriter]:
    """Open a video file to write; it appears whole when the `with` block ends without error, and not at all otherwise.

    Two kinds. The default is for viewing: H.264 in MP4, 4:2:0, BT.709 and marked so, index in front (``faststart``),
    which every browser plays while it downloads. ``lossless=True`` is for keeping: FFV1 in Matroska, 8-bit RGB, every
    pixel exact. Equal frames give equal files, byte for byte. Memory does not grow with the number of frames.

    Args:
        path: the file, ``.mp4``, or ``.mkv`` with `lossless`.
        fps: frames per second.
        lossless: which kind.
        crf: quality of the H.264 kind, from 0 (best) to 51; 16 is close to visually lossless.

    Raises:
        InputError: odd sides in the H.264 kind (4:2:0 halves both), at the first frame.
        ValueError: frames of different sizes, frames with NaN, or no frame at all.
    """
    with atomic_path(path) as temporary:
        # bitexact: Matroska would otherwise carry random identifiers, and both kinds the library's version.
        options = {"fflags": "+bitexact"} | ({} if lossless else {"movflags": "+faststart"})
        with av.open(str(temporary), "w", format="matroska" if lossless else "mp4", options=options) as container:
            writer = VideoWriter(container, Fraction(fps).limit_denominator(1001), lossless, crf)
            yield writer
            writer.finish()


class VideoWriter:
    """Takes the frames of one open video file; `open_writer` makes it and explains the two kinds."""

    def __init__(self, container: OutputContainer, fps: Fraction, lossless: bool, crf: int) -> None:
        self.fps = fps
        self.frames = 0
        self._container = container
        self._lossless = lossless
        self._crf = crf
        self._size: tuple[int, int] | None = None

    def write(self, frame: Tensor) -> None:
        """Append one frame `[3, H, W]` in 0…1."""
        self.write_array(to_uint8(frame))

    def write_array(self, array: np.ndarray) -> None:
        """Append one 8-bit RGB frame `[H, W, 3]`."""
        size = (array.shape[0], array.shape[1])
        if self._size is None:
            self._start(size)
        elif size != self._size:
            raise ValueError(f"frame {self.frames} is {size} (height, width), the frames before it are {self._size}")
        picture = av.VideoFrame.from_ndarray(array, format="rgb24")
        if self._lossless:
            picture = picture.reformat(format="bgr0")
        else:
            picture = picture.reformat(
                format="yuv420p",
                dst_colorspace=_BT709,
                src_color_range=_FULL_RANGE,
                dst_color_range=_LIMITED_RANGE,
            )
        picture.pts = self.frames
        picture.time_base = 1 / self.fps
        self._container.mux(self._stream.encode(picture))
        self.frames += 1

    def finish(self) -> None:
        """Flush what the encoder still holds."""
        if self._size is None:
            raise ValueError("no frame was written to the video")
        self._container.mux(self._stream.encode(None))

    def _start(self, size: tuple[int, int]) -> None:
        """Set up the encoder; only the first frame tells the size."""
        height, width = size
        if not self._lossless and (height % 2 or width % 2):
            raise InputError("size", "both sides must be even for H.264", f"{width}×{height}", "use even sides")
        stream = self._container.add_stream("ffv1" if self._lossless else "libx264", rate=self.fps)
        stream.width, stream.height = width, height
        context = stream.codec_context
        context.time_base = 1 / self.fps
        if self._lossless:
            stream.pix_fmt = "bgr0"
            stream.options = {"level": "3", "slicecrc": "1", "g": "1", "flags": "+bitexact"}
            context.thread_count = 1
        else:
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": str(self._crf), "preset": "medium"}
            if torch.backends.cpu.get_cpu_capability() == "AVX512":
                # x264's macroblock tree in AVX-512 now and then makes other frames of the same input; AVX2 never did
                stream.options |= {"x264-params": "asm=avx2"}
            context.thread_count = _ENCODER_THREADS
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = _LIMITED_RANGE
        self._stream = stream
        self._size = size


class VideoReader:
    """Read a video one frame at a time: ``for frame in VideoReader(path)`` yields float32 `[3, H, W]` in 0…1.

    It can be iterated again; every pass opens the file anew. `fps` (Fraction), `size` (height, width) and `frames` come
    from the header (`frames` is counted by decoding where the header does not tell).

    Raises:
        InputError: the file is missing, no video, damaged or empty.
    """

    def __init__(self, path: str | os.PathLike[str], field: str = "video") -> None:
        self.path = Path(path)
        self.field = field
        with self._open() as container:
            stream = container.streams.video[0]
            self.fps = Fraction(stream.average_rate or stream.guessed_rate or 1)
            self.size = (int(stream.height), int(stream.width))
            self._frames = int(stream.frames)

    @property
    def frames(self) -> int:
        """Number of frames."""
        if not self._frames:
            self._frames = sum(1 for _ in self.arrays())
        return self._frames

    def __iter__(self) -> Iterator[Tensor]:
        for array in self.arrays():
            yield from_uint8(array)

    def arrays(self) -> Iterator[np.ndarray]:
        """Yield the frames as 8-bit RGB arrays `[H, W, 3]`."""
        with self._open() as container:
            seen = 0
            try:
                for frame in container.decode(video=0):
                    yield _to_rgb(frame)
                    seen += 1
            except av.error.FFmpegError as error:
                raise self._damaged(error) from None
            if not seen:
                raise InputError(self.field, "must hold at least one frame", str(self.path), "give another file")

    def _open(self) -> InputContainer:
        if not self.path.is_file():
            raise InputError(self.field, "must be an existing video file", str(self.path), "check the path")
        try:
            container = av.open(str(self.path))
        except av.error.FFmpegError as error:
            raise self._damaged(error) from None
        if not container.streams.video:
            container.close()
            raise InputError(self.field, "must have a picture track", str(self.path), "give a video file")
        return container

    def _damaged(self, error: Exception) -> InputError:
        fix = f"the file is damaged or of an unknown kind ({type(error).__name__}); convert it to MP4"
        return InputError(self.field, "must be a readable video", str(self.path), fix)


def _to_rgb(frame: av.VideoFrame) -> np.ndarray:
    """One decoded frame as 8-bit RGB, by the matrix that the file names (BT.601 where it names none, as players do)."""
    if frame.format.is_rgb:
        return frame.to_ndarray(format="rgb24")
    matrix = _BT601 if frame.colorspace == _UNSPECIFIED else frame.colorspace
    return frame.reformat(format="rgb24", src_colorspace=matrix, dst_color_range=_FULL_RANGE).to_ndarray()
