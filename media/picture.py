"""Single pictures: PNG out, any common picture format in, strictly checked."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from ..story.errors import InputError
from ..story.files import atomic_path
from .frames import from_uint8, to_uint8

__all__ = ["fit_picture", "read_picture", "write_picture"]

MIN_SIDE = 16
MAX_SIDE = 16384
# Modes that mean "8-bit colour or grey" without a choice that only the user could make (colour profile, value range).
_PLAIN_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA"}


def write_picture(path: str | os.PathLike[str], frame: Tensor) -> Path:
    """Write one frame `[3, H, W]` in 0…1 as an 8-bit RGB PNG, whole or not at all. Returns the path written."""
    picture = Image.fromarray(to_uint8(frame), "RGB")
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")
    return Path(path)


def read_picture(path: str | os.PathLike[str], field: str = "image") -> Tensor:
    """Read a picture file as a float32 frame `[3, H, W]` in 0…1, turned upright by its EXIF tag.

    Grey and palette pictures become RGB; transparent pixels are laid on white. Sides from 16 to 16384 px.

    Args:
        path: the file.
        field: what an error calls the input, e.g. ``shots[1].keyframes[0].image``.

    Raises:
        InputError: the file is missing, unreadable or truncated, too small or too large, or of a kind that has no
            single 8-bit reading (CMYK, Lab, 16-bit, floating point, which may hold NaN).
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(field, "must be an existing picture file", str(path), "check the path")
    try:
        with warnings.catch_warnings():
            # A decompression bomb is only a warning up to twice the limit; here the side limit below decides.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                _check_header(opened, file, field)
                picture = _plain_rgb(ImageOps.exif_transpose(opened))
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(field, "must not have more than 89 million pixels", str(file), "scale it down") from None
    except UnidentifiedImageError:
        raise InputError(field, "must be a picture", str(file), "give a PNG or JPEG file") from None
    except (
        Exception
    ) as error:  # Pillow's plugins raise many types on damaged files (OSError, SyntaxError, struct.error)
        fix = f"the file is damaged ({type(error).__name__}); save it again as PNG"
        raise InputError(field, "must be a readable picture", str(file), fix) from None
    return from_uint8(np.asarray(picture))


def fit_picture(frame: Tensor, size: tuple[int, int]) -> Tensor:
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
    if picture.mode not in _PLAIN_MODES:
        if picture.mode == "F" and not np.isfinite(np.asarray(picture)).all():
            raise InputError(field, "must not hold NaN or infinite values", str(file), "save it again as 8-bit RGB PNG")
        rule = "must be an 8-bit RGB or grey picture"
        raise InputError(field, rule, f"mode {picture.mode} in {file}", "save it as 8-bit RGB PNG")
    if not MIN_SIDE <= min(picture.size) <= max(picture.size) <= MAX_SIDE:
        rule = f"must have sides from {MIN_SIDE} to {MAX_SIDE} px"
        raise InputError(field, rule, f"{picture.width}×{picture.height} in {file}", "scale it")


def _plain_rgb(picture: Image.Image) -> Image.Image:
    """Decode, and lay transparent pixels on white."""
    if picture.mode in {"LA", "PA", "RGBA"} or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        canvas = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(canvas, picture)
    return picture.convert("RGB")
