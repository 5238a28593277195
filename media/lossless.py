"""Pieces of a video that are kept until it is whole: every value exact, in 8 or 12 bits, at no particular rate."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import torch
from av.container import OutputContainer
from torch import Tensor

from ..core.documents import regular_file
from ..core.errors import InputError
from ..core.files import atomic_path
from .frames import check_finite

__all__ = ["LosslessWriter", "open_lossless", "pixels_of", "read_lossless"]

_FORMATS = {8: "bgr0", 12: "gbrp12le"}
_NUMPY = {8: "rgb24", 12: "gbrp12le"}


@contextlib.contextmanager
def open_lossless(path: str | os.PathLike[str], depth: int = 8) -> Iterator[LosslessWriter]:
    """Open a file of frames to write: FFV1 in Matroska; it appears whole when the block ends without error.

    Equal frames give equal files, byte for byte. Memory does not grow with their number.

    Args:
        path: the file, ``.mkv``.
        depth: bits of a value, 8 or 12.
    """
    with (
        atomic_path(path) as temporary,
        av.open(str(temporary), "w", format="matroska", options={"fflags": "+bitexact"}) as container,
    ):
        writer = LosslessWriter(container, depth)
        yield writer
        writer.finish()


class LosslessWriter:
    """Takes the frames of one file; see `open_lossless`."""

    def __init__(self, container: OutputContainer, depth: int) -> None:
        self.frames = 0
        self._container, self._depth = container, depth
        self._stream: av.VideoStream | None = None

    def write(self, frame: Tensor) -> None:
        """Append one frame `[3, H, W]` in 0…1, rounded to the nearest code.

        Raises:
            InputError: NaN or infinity.
        """
        levels, kind = (1 << self._depth) - 1, torch.uint8 if self._depth == 8 else torch.int16
        codes = check_finite(frame.detach().to("cpu", torch.float32)).mul(levels).round().clamp(0, levels)
        array = codes.to(kind).permute(1, 2, 0).contiguous().numpy()
        if self._stream is None:
            self._stream = self._container.add_stream("ffv1", rate=25)
            self._stream.height, self._stream.width = array.shape[:2]
            self._stream.pix_fmt = _FORMATS[self._depth]
            self._stream.options = {"level": "3", "slicecrc": "1", "g": "1", "flags": "+bitexact"}
            self._stream.codec_context.thread_count = 1
        picture = av.VideoFrame.from_ndarray(array.view(f"u{array.itemsize}"), format=_NUMPY[self._depth])
        if self._depth == 8:
            picture = picture.reformat(format=_FORMATS[8], threads=1)
        picture.pts = self.frames
        self._container.mux(self._stream.encode(picture))
        self.frames += 1

    def finish(self) -> None:
        """Flush what the encoder still holds."""
        if self._stream is None:
            raise ValueError("no frame was written")
        self._container.mux(self._stream.encode(None))


def read_lossless(path: str | os.PathLike[str], field: str = "window") -> Iterator[np.ndarray]:
    """Yield the frames of such a file as codes `[H, W, 3]`: uint8, or uint16 of 12 bits.

    Raises:
        InputError: the file is missing or damaged.
    """
    file = regular_file(Path(path), field, "file of frames")
    try:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for frame in container.decode(stream):
                yield frame.to_ndarray(format="rgb24" if frame.format.name == _FORMATS[8] else _NUMPY[12])
    except (av.error.FFmpegError, IndexError) as error:
        fix = f"the file is damaged ({type(error).__name__}); remove it, and resume"
        raise InputError(field, "must be a file of frames", str(file), fix) from None


def pixels_of(codes: np.ndarray) -> Tensor:
    """Codes `[H, W, 3]` of `read_lossless` as a frame `[3, H, W]` in 0…1."""
    levels = 255 if codes.dtype == np.uint8 else (1 << 12) - 1
    return torch.from_numpy(codes.astype(np.float32)).permute(2, 0, 1).div(levels)
