"""A small line chart with Pillow alone: how weights go over the steps of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from ..core.errors import InputError

__all__ = ["draw_curves"]

_PAPER, _GRID, _INK = "#15171c", "#343842", "#f2f3f5"
# Okabe and Ito's colours, which colour-blind people can tell apart; those that stand out on dark paper.
_COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00")
_LEFT, _TOP, _RIGHT, _BOTTOM = 52, 46, 16, 34


def draw_curves(title: str, curves: Mapping[str, Sequence[float]], size: tuple[int, int] = (640, 320)) -> Image.Image:
    """Draw curves of values in 0…1, each over its own steps 1 … n, with a legend.

    Args:
        title: stands above.
        curves: label: values.
        size: (width, height) in pixels.

    Raises:
        InputError: no curve, or an empty one.
    """
    if not curves or not all(len(values) for values in curves.values()):
        raise InputError("curves", "must hold at least one value each", dict(curves), "record a run first")
    page = Image.new("RGB", size, _PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    left, top, right, bottom = _LEFT, _TOP, size[0] - _RIGHT, size[1] - _BOTTOM
    draw.text((left, 8), title, _INK, ImageFont.load_default(15))
    for level in (0, 0.25, 0.5, 0.75, 1):
        y = bottom - level * (bottom - top)
        draw.line((left, y, right, y), _GRID)
        draw.text((left - 8, y), f"{level:g}", _INK, font, anchor="rm")
    longest = max(map(len, curves.values()))
    for step in sorted({1, (longest + 1) // 2, longest}):
        draw.text((_x(step, longest, left, right), bottom + 8), str(step), _INK, font, anchor="mt")
    at = float(right)
    for number, (label, values) in reversed(list(enumerate(curves.items()))):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [(_x(i, longest, left, right), bottom - v * (bottom - top)) for i, v in enumerate(values, 1)]
        if len(points) > 1:
            draw.line(points, colour, width=3, joint="curve")
        for x, y in points:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), colour)
        draw.text((at, top - 16), label, colour, font, anchor="rs")
        at -= draw.textlength(label, font) + 14
    return page


def _x(step: int, longest: int, left: float, right: float) -> float:
    return (left + right) / 2 if longest == 1 else left + (step - 1) / (longest - 1) * (right - left)
