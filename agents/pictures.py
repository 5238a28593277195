"""Pictures on their way to a model that sees: 8-bit RGB, because processors divide by 255 themselves."""

from __future__ import annotations

import base64
import io
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..core.errors import InputError

__all__ = ["Picture", "data_url", "to_picture"]

Picture: TypeAlias = npt.NDArray[np.uint8]
"""[H, W, 3]."""

LONGEST_SIDE = 768
"""Longer pictures are made smaller: a Refiner needs no more, and a model's time grows with the area."""


def to_picture(image: Any, field: str) -> Picture:
    """A picture as 8-bit RGB, [H, W, 3], at most `LONGEST_SIDE` long.

    Args:
        image: a tensor or array [3, H, W] with values in 0…1, or 8-bit [H, W, 3].
        field: what it is called in errors.

    Raises:
        InputError: another shape, or values that are not finite.
    """
    if hasattr(image, "detach"):
        image = image.detach().float().cpu().numpy() if image.is_floating_point() else image.detach().cpu().numpy()
    array = np.asarray(image)
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[-1] == 3:
        picture = array
    elif array.ndim == 3 and array.shape[0] == 3 and np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise InputError(field, "must hold finite values", "NaN or infinity", "look at what made the picture")
        picture = np.round(np.clip(array, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    else:
        fix = "give [3, H, W] in 0…1, or 8-bit [H, W, 3]"
        raise InputError(field, "must be one RGB picture", f"{array.dtype} {list(array.shape)}", fix)
    if not picture.size:
        raise InputError(field, "must not be empty", list(picture.shape), "look at what made the picture")
    return _smaller(np.ascontiguousarray(picture))


def _smaller(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    if scale >= 1:
        return picture
    from PIL import Image

    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def data_url(picture: Picture) -> str:
    """The picture as a ``data:image/png`` address."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
