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
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Interpolation
from torch import Tensor

from ..core.documents import regular_file
from ..core.errors import InputError
from ..core.files import atomic_path
from .frames import from_uint8, to_uint8

__all__ = ["ENCODER_THREADS", "VideoReader", "VideoWriter", "open_writer", "x264_parameters"]

ENCODER_THREADS = 4
"""A fixed number: x264 makes other (equally good) frames with other thread counts, and a film must not depend on the
machine's core count."""
# Numbers of ISO/IEC 23091-2, as FFmpeg uses them.
_BT709, _UNSPECIFIED, _BT601 = 1, 2, 5
_LIMITED_RANGE, _FULL_RANGE = 1, 2
_HDR_CURVES = {16: "PQ", 18: "HLG"}
_HD_LINES = 720  # untagged pictures of at least so many lines are BT.709's, smaller ones BT.601's, as players have it
# Between RGB and 4:2:0 both ways: by default the scaler rounds down and takes every second colour only, and a clip that
# is read, worked on and written again gets darker and darker. (One thread, because the scaler's own threads outlive
# their frame, and a process that is forked meanwhile waits for them for ever.)
_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


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
            picture = picture.reformat(format="bgr0", threads=1)
        else:
            picture = picture.reformat(
                format="yuv420p",
                interpolation=_EXACT,
                threads=1,
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
            parameters = ":".join(x264_parameters())
            stream.options = {"crf": str(self._crf), "preset": "medium", "x264-params": parameters}
            context.thread_count = ENCODER_THREADS
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = _LIMITED_RANGE
        self._stream = stream
        self._size = size


def x264_parameters(subsampled: bool = True) -> list[str]:
    """Parameters that x264 is always given: where the chroma of 4:2:0 lies, and code that makes the same file twice."""
    # Our colours lie between the two pixels that they stand for; H.264 that says nothing has them on the left one, and
    # colours would move by half a pixel each time that a clip is read and written again.
    parameters = ["chromaloc=1"] if subsampled else []
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        # x264's macroblock tree in AVX-512 now and then makes other frames of the same input; AVX2 never did
        parameters.append("asm=avx2")
    return parameters


class VideoReader:
    """Read a video one frame at a time: ``for frame in VideoReader(path)`` yields float32 `[3, H, W]` in 0…1.

    It can be iterated again; every pass opens the file anew. `fps` (Fraction) and `size` (height, width) come from the
    header; `frames` is counted, because headers count frames that an edit has cut away.

    Frames are taken at a constant rate, upright, of standard dynamic range. A file that means something else is refused
    rather than read wrongly.

    Raises:
        InputError: the file is missing, no video, damaged, cut off or empty; turned or mirrored by its header; of
            varying frame rate; of high dynamic range. Some of these show only while frames are read.
    """

    def __init__(self, path: str | os.PathLike[str], field: str = "video") -> None:
        self.path = Path(path)
        self.field = field
        with self._open() as container:
            stream = container.streams.video[0]
            self.fps = Fraction(stream.average_rate or stream.guessed_rate or 1)
            self.size = (int(stream.height), int(stream.width))
        self._frames = 0

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
            stream = container.streams.video[0]
            times: list[float] = []
            try:
                for frame in container.decode(stream):
                    self._check_frame(frame, times)
                    yield _to_rgb(frame)
            except av.error.FFmpegError as error:
                raise self._damaged(error) from None
            if not times:
                raise InputError(self.field, "must hold at least one frame", str(self.path), "give another file")
            said = _seconds(container)
            # Matroska and MPEG-TS that are cut off end without an error; only their header still knows the length.
            if said is not None and times[-1] - times[0] < said - 2.5 / float(self.fps) - 0.05 * said:
                rule = f"must be whole: its header says {said:.2f} s"
                seen = f"{times[-1] - times[0]:.2f} s in {self.path}"
                raise InputError(self.field, rule, seen, "the file is cut off; copy it again")

    def _check_frame(self, frame: av.VideoFrame, times: list[float]) -> None:
        """Refuse what frames at a constant rate cannot show, and note this frame's time in seconds."""
        curve = _HDR_CURVES.get(int(getattr(frame, "color_trc", 0) or 0))
        if curve is not None:
            fix = "convert it to SDR (BT.709)"
            raise InputError(self.field, "must be of standard dynamic range", f"{curve} in {self.path}", fix)
        if not times and frame.side_data.get(SideDataType.DISPLAYMATRIX) is not None and _turned(frame):
            fix = "turn its pixels themselves: ffmpeg does when it re-encodes"
            raise InputError(self.field, "must not be turned or mirrored by its header", str(self.path), fix)
        step = 1 / float(self.fps)
        time = float(frame.time) if frame.time is not None else (times[-1] + step if times else 0.0)
        # Half a frame: containers round times to milliseconds, and some rates alternate between two neighbours.
        if times and abs(time - times[-1] - step) > 0.5 * step:
            seen = f"{time - times[-1]:.3f} s after {times[-1]:.3f} s at {float(self.fps):.3f} frames/s in {self.path}"
            fix = "re-encode it at a constant rate, e.g. with ffmpeg -fps_mode cfr"
            raise InputError(self.field, "must have a constant frame rate", seen, fix)
        times.append(time)

    def _open(self) -> InputContainer:
        file = regular_file(self.path, self.field, "video file")
        try:
            container = av.open(str(file))
        except av.error.FFmpegError as error:
            raise self._damaged(error) from None
        if not container.streams.video:
            container.close()
            raise InputError(self.field, "must have a picture track", str(self.path), "give a video file")
        return container

    def _damaged(self, error: Exception) -> InputError:
        fix = f"the file is damaged or of an unknown kind ({type(error).__name__}); convert it to MP4"
        return InputError(self.field, "must be a readable video", str(self.path), fix)


def _seconds(container: InputContainer) -> float | None:
    """How long the header says that the pictures last; None where it does not tell, or tells of sound as well."""
    stream = container.streams.video[0]
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is None or len(container.streams) > 1:
        return None
    return container.duration / av.time_base


def _turned(frame: av.VideoFrame) -> bool:
    """Whether the display matrix (3×3, 16.16 fixed point) is another than the identity."""
    matrix = np.frombuffer(bytes(frame.side_data[SideDataType.DISPLAYMATRIX]), "<i4", 9)
    return [int(matrix[i]) for i in (0, 1, 3, 4)] != [1 << 16, 0, 0, 1 << 16]


def _to_rgb(frame: av.VideoFrame) -> np.ndarray:
    """One decoded frame as 8-bit RGB, by the matrix that the file names, or the one that players take for its size."""
    if frame.format.is_rgb:
        return frame.reformat(format="rgb24", threads=1).to_ndarray()
    matrix: int = frame.colorspace
    if matrix == _UNSPECIFIED:
        matrix = _BT709 if frame.height >= _HD_LINES else _BT601
    full = frame.reformat(
        format="rgb24", interpolation=_EXACT, threads=1, src_colorspace=matrix, dst_color_range=_FULL_RANGE
    )
    return full.to_ndarray()
