"""The size of an upscaled video, from a factor or from what a user asks for."""

from __future__ import annotations

import math
from fractions import Fraction

from ...core.errors import InputError

__all__ = ["SCALE", "target_size"]

SCALE = 2
"""The factor that is taken where none is asked for."""
_LARGEST = 8
_SIDE = 16384
_ASPECT = 0.02

Size = tuple[int, int]


def target_size(source: Size, scale: float | Fraction | None = None, size: tuple[int, int] | None = None) -> Size:
    """(height, width) of the upscaled frames.

    Args:
        source: (height, width) of the frames.
        scale: factor from 1 to 8; both sides must become whole numbers.
        size: (width, height) in place of a factor.

    Raises:
        InputError: both given, a factor that gives no whole pixels, a smaller size, or one of another shape.
    """
    height, width = source
    if size is not None:
        if scale is not None:
            raise InputError("--size", "is in place of --scale", f"{size[0]}x{size[1]}", "give one of them")
        target = size[1], size[0]
        if min(target) < 1 or target[0] < height or target[1] < width:
            rule = f"must be at least the video's {width}x{height}"
            raise InputError("--size", rule, f"{size[0]}x{size[1]}", f"use e.g. {2 * width}x{2 * height}")
        if max(target) > _SIDE or target[0] > _LARGEST * height or target[1] > _LARGEST * width:
            rule = f"must be at most {_LARGEST} times the video's and {_SIDE} pixels a side"
            raise InputError("--size", rule, f"{size[0]}x{size[1]}", "upscale in two runs")
        if abs(target[1] * height / (target[0] * width) - 1) > _ASPECT:
            near = f"{round(width * target[0] / height)}x{target[0]}"
            rule = f"must have the shape of the video, {width}x{height}"
            raise InputError("--size", rule, f"{size[0]}x{size[1]}", f"use e.g. {near}")
        return target
    wanted = SCALE if scale is None else scale
    if not 1 <= wanted <= _LARGEST:  # nor is NaN
        raise InputError("--scale", f"must be from 1 to {_LARGEST}", float(wanted), "use e.g. 2")
    factor = Fraction(wanted).limit_denominator(1000)
    exact = height * factor, width * factor
    if any(side.denominator != 1 for side in exact):
        step = math.gcd(height, width)
        nearest = Fraction(round(factor * step), step)
        rule = f"must give whole pixels of the video's {width}x{height}"
        fix = f"use e.g. {float(nearest):.6g}, or --size {round(width * factor)}x{round(height * factor)}"
        raise InputError("--scale", rule, float(factor), fix)
    if max(exact) > _SIDE:
        raise InputError("--scale", f"must give at most {_SIDE} pixels a side", float(factor), "use a smaller one")
    return int(exact[0]), int(exact[1])
