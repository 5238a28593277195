"""Between the YCbCr of video files and RGB, by the equations themselves, in float32.

FFmpeg's scaler does these conversions too, but rounds on the way: 8-bit full range comes back a code darker per round,
and 10 bit is lost where it ends in 8. Here it only spreads a frame's chroma over its pixels (it knows where they lie);
matrix and range are ours. Numbers of matrices, primaries and transfer curves are those of ITU-T H.273.
"""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.video.reformatter import Interpolation
from torch import Tensor

from ..core.errors import InputError

__all__ = ["HDR_CURVES", "VideoColour", "colour_of", "frame_to_rgb", "rgb_to_frame"]

RGB, BT709, UNSPECIFIED, BT601, BT2020 = 0, 1, 2, 6, 9
FULL_RANGE = 2
HDR_CURVES = {16: "PQ", 18: "HLG"}
_LUMA = {  # weights of red and blue in luma
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


@dataclass(frozen=True)
class VideoColour:
    """What the numbers in a video's frames mean.

    Attributes:
        matrix, primaries, transfer: codes of ITU-T H.273; `matrix` is never "unspecified" (2), the others may be.
        full_range: 8-bit codes run from 0 to 255, not from 16 to 235.
        depth: bits of a sample.
        named: whether the file itself names the matrix; otherwise it is the one that players take for the size.
    """

    matrix: int
    primaries: int
    transfer: int
    full_range: bool
    depth: int
    named: bool = True


def colour_of(frame: av.VideoFrame, field: str = "video") -> VideoColour:
    """What a decoded frame's tags say; where they are silent, what players take: BT.709 for HD, BT.601 below.

    Raises:
        InputError: a matrix that is none of a luma and two differences (ICtCp, YCgCo, constant luminance).
    """
    form = frame.format
    depth = min(max((c.bits for c in form.components), default=8), 16)
    full = frame.color_range == FULL_RANGE or form.name.startswith("yuvj")
    matrix, primaries, transfer = int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc)
    if form.is_rgb or form.has_palette or len(form.components) < 3:
        return VideoColour(RGB, primaries, transfer, True, depth)
    named = matrix not in (RGB, UNSPECIFIED)  # RGB's tag on YCbCr is an error of the writer
    if not named:
        matrix = BT709 if frame.width >= 1280 or frame.height > 576 else BT601
    if matrix not in _LUMA:
        seen = f"matrix coefficients {matrix} of ITU-T H.273"
        raise InputError(
            field, "must be of BT.601, BT.709 or BT.2020", seen, "convert it with ffmpeg -vf colorspace=bt709"
        )
    return VideoColour(matrix, primaries, transfer, full, depth, named)


def frame_to_rgb(frame: av.VideoFrame, colour: VideoColour) -> Tensor:
    """One decoded frame as float32 RGB `[3, H, W]`, 0…1 at the nominal range and clamped to it."""
    if colour.matrix == RGB:
        return _planes_to_rgb(frame, colour.depth)
    # Chroma is spread in 16 bits, where the scaler moves the bits up and fills with zeros. What is 4:4:4 already keeps
    # its own depth: there it would fill full range in another way.
    whole = frame.format.chroma_width(64) == 64 and frame.format.chroma_height(64) == 64
    deep = 16 if not whole or colour.depth == 16 else colour.depth
    wide = frame.reformat(
        format="yuv444p" if deep == 8 else f"yuv444p{deep}le",
        interpolation=_EXACT,
        threads=1,
        src_color_range=2 if colour.full_range else 1,
        dst_color_range=2 if colour.full_range else 1,
    )
    codes = _codes(wide, np.uint8 if deep == 8 else np.uint16)
    black, luma, chroma, middle = _scale(colour.full_range, colour.depth)
    shift = 1 << (deep - colour.depth)
    y = (codes[0] / shift - black) / luma
    cb, cr = ((codes[i] / shift - middle) / chroma for i in (1, 2))
    red, blue = _LUMA[colour.matrix]
    r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
    g = (y - red * r - blue * b) / (1 - red - blue)
    return torch.stack([r, g, b]).clamp_(0, 1)


def rgb_to_frame(rgb: Tensor, colour: VideoColour, subsampled: bool = True) -> av.VideoFrame:
    """One float32 frame `[3, H, W]` in 0…1 as a frame for an encoder, rounded to nearest: 4:2:0, or 4:4:4.

    Chroma of 4:2:0 is the mean of its four pixels, so it lies between them (H.273's chroma location 1).

    Args:
        rgb: the picture; both sides even if `subsampled`.
        colour: matrix (not RGB's), range and depth (8 or 10 bits) to write.
        subsampled: 4:2:0.
    """
    r, g, b = rgb.detach().to("cpu", torch.float32).clamp(0, 1)
    red, blue = _LUMA[colour.matrix]
    black, luma, chroma, middle = _scale(colour.full_range, colour.depth)
    y = red * r + (1 - red - blue) * g + blue * b
    differences = torch.stack([(b - y) / (2 * (1 - blue)), (r - y) / (2 * (1 - red))])
    if subsampled:
        differences = F.avg_pool2d(differences, 2)
    most = (1 << colour.depth) - 1
    kind = torch.uint8 if colour.depth == 8 else torch.uint16
    planes = [y * luma + black, *(differences * chroma + middle)]
    arrays = [plane.round().clamp(0, most).to(kind).numpy() for plane in planes]
    height, width = rgb.shape[-2:]
    name = ("yuv420p" if subsampled else "yuv444p") + ("" if colour.depth == 8 else f"{colour.depth}le")
    frame = av.VideoFrame(width, height, name)
    for plane, array in zip(frame.planes, arrays, strict=True):
        row = plane.line_size // array.itemsize
        padded = np.zeros((array.shape[0], row), array.dtype)
        padded[:, : array.shape[1]] = array
        plane.update(padded)
    frame.colorspace, frame.color_range = colour.matrix, 2 if colour.full_range else 1
    frame.color_primaries, frame.color_trc = colour.primaries, colour.transfer
    return frame


def _codes(frame: av.VideoFrame, kind: type[np.generic]) -> Tensor:
    """The three planes of a 4:4:4 frame as float32 `[3, H, W]`; rows in memory are longer than those of the picture."""
    planes = [np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes[:3]]
    return torch.from_numpy(np.stack(planes).astype(np.float32))


def _scale(full_range: bool, depth: int) -> tuple[float, float, float, float]:
    """Luma's black and range, chroma's range and middle, in codes of `depth` bits (H.273, 8.3)."""
    unit = 1 << (depth - 8)
    if full_range:
        return 0, 256 * unit - 1, 256 * unit - 1, 128 * unit
    return 16 * unit, 219 * unit, 224 * unit, 128 * unit


def _planes_to_rgb(frame: av.VideoFrame, depth: int) -> Tensor:
    """A frame without chroma (RGB, palette, grey) as float32 `[3, H, W]`; alpha is dropped."""
    array = frame.reformat(format="rgb24" if depth <= 8 else "rgb48le", threads=1).to_ndarray()
    return torch.from_numpy(array.astype(np.float32)).permute(2, 0, 1).div(255 if depth <= 8 else 65535).contiguous()
