"""Single pictures: PNG out, PNG, JPEG and WebP in, strictly checked and in sRGB."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from ..core.documents import regular_file
from ..core.errors import InputError
from ..core.files import atomic_path
from .colour import to_srgb
from .frames import from_uint8, to_uint8

__all__ = ["FORMATS", "fit_image", "open_image", "read_image", "write_image"]

FORMATS = ("PNG", "JPEG", "WEBP")
"""The only formats that are opened, whatever a file is called. Pillow knows some forty, one of which (PostScript) is
run by another program; a picture that somebody else names must not choose among them."""
MIN_SIDE = 16
MAX_SIDE = 16384
_MAX_PIXELS = 16_000_000
"""Larger pictures are halved, thirded … while they are bytes: a film's frame is a fraction of that."""
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "I;16B", "I;16L", "I"}


def write_image(path: str | os.PathLike[str], frame: Tensor) -> Path:
    """Write one frame `[3, H, W]` in 0…1 as an 8-bit RGB PNG, whole or not at all. Returns the path written."""
    picture = Image.fromarray(to_uint8(frame), "RGB")
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")
    return Path(path)


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Pillow's `Image.open`, for the formats that are meant (`FORMATS`) alone: no pixel is decoded yet."""
    return Image.open(path, formats=FORMATS)


def read_image(path: str | os.PathLike[str], field: str = "image") -> Tensor:
    """Read a picture file as a float32 frame `[3, H, W]` in 0…1 of sRGB, turned upright by its EXIF tag.

    PNG, JPEG and WebP. Grey, 16-bit grey, palette and CMYK pictures become RGB, colour profiles are applied, and
    transparent pixels are laid on white. 16-bit colours keep their upper 8 bits. Sides from 16 to 16384 px; pictures of
    more than 16 million pixels come back at a half, a third … of their size.

    Args:
        path: the file.
        field: what an error calls the input, e.g. ``shots[1].keyframes[0].image``.

    Raises:
        InputError: the file is missing, not a regular file, unreadable or truncated, of another format, animated, too
            small or too large, or its colours cannot be told (CMYK without a profile, high dynamic range).
    """
    file = regular_file(path, field, "picture file")
    try:
        with warnings.catch_warnings():
            # A decompression bomb is only a warning up to twice the limit; here it is an error.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # A camera's notes may be damaged where the picture is whole; what Pillow cannot read of them is left out.
            warnings.filterwarnings("ignore", "Corrupt EXIF data")
            with open_image(file) as opened:
                _check_header(opened, file, field)
                picture = _laid_on_white(to_srgb(_upright(opened), file, field))
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(field, "must not have more than 89 million pixels", str(file), "scale it down") from None
    except UnidentifiedImageError:
        raise InputError(field, "must be a picture", str(file), "give a PNG, JPEG or WebP file") from None
    except (
        Exception
    ) as error:  # Pillow's plugins raise many types on damaged files (OSError, SyntaxError, struct.error)
        fix = f"the file is damaged ({type(error).__name__}); save it again as PNG"
        raise InputError(field, "must be a readable picture", str(file), fix) from None
    return from_uint8(np.asarray(picture))


def fit_image(frame: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale a frame `[3, H, W]` to cover `size` = (height, width) and crop the overhang around the centre.

    Nothing is stretched: the aspect ratio is kept. A frame that already has the size is returned as it is.
    """
    height, width = size
    if tuple(frame.shape[-2:]) == (height, width):
        return frame
    scale = max(height / frame.shape[-2], width / frame.shape[-1])
    covered = (max(height, round(frame.shape[-2] * scale)), max(width, round(frame.shape[-1] * scale)))
    resized = functional.interpolate(frame[None], covered, mode="bicubic", antialias=True, align_corners=False)[0]
    top, left = (covered[0] - height) // 2, (covered[1] - width) // 2
    return resized[:, top : top + height, left : left + width].clamp(0, 1).contiguous()


def _check_header(picture: Image.Image, file: Path, field: str) -> None:
    """Refuse by what the header says, before any pixel is decoded."""
    if picture.mode not in _MODES:
        rule = "must be an RGB, grey or CMYK picture"
        raise InputError(field, rule, f"mode {picture.mode} in {file}", "save it as 8-bit RGB PNG")
    # A phone's JPEG may hold more pictures behind the first (MPO): depth, a second view. The first is the photo.
    if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:
        rule, fix = "must be a single picture", "save the frame that you want as PNG"
        raise InputError(field, rule, f"{picture.n_frames} frames in {file}", fix)  # type: ignore[attr-defined]
    if not MIN_SIDE <= min(picture.size) <= max(picture.size) <= MAX_SIDE:
        rule = f"must have sides from {MIN_SIDE} to {MAX_SIDE} px"
        raise InputError(field, rule, f"{picture.width}×{picture.height} in {file}", "scale it")


def _upright(opened: Image.Image) -> Image.Image:
    """Decode, bring to a size that is worth converting, and turn."""
    opened.load()
    factor = math.ceil(math.sqrt(opened.width * opened.height / _MAX_PIXELS))
    picture: Image.Image = opened
    if factor > 1:
        clear = "transparency" in opened.info
        if opened.mode in {"1", "P", "PA"}:  # palette numbers have no mean
            picture = opened.convert("RGBA" if clear or opened.mode == "PA" else "RGB")
        picture = picture.reduce(factor)
        picture.info = opened.info
    turned = ImageOps.exif_transpose(picture)
    turned.format = opened.format  # what the colours mean is noted in other places in other formats
    return turned


def _laid_on_white(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGBA":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
