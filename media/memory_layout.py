"""A picture of the memory: which earlier frame is kept at which size, drawn to scale, with token counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from ..core.errors import InputError
from ..memory.golden_mem import Place, Size, token_report
from .tiles import BACK, GOLD, INK, LINE, PANEL, SOFT, Picture, draw_tile, fit_line, font, plural, tier_colour

__all__ = ["draw_empty", "draw_layout"]

_PAD, _GAP, _CAPTION, _HEAD, _CELL, _FIGURES = 32, 14, 22, 40, 64, 190

_MOST_PLACES = 96
"""Places of an empty memory that are drawn: more would only be a longer picture."""


def draw_layout(
    slots: Sequence[Place],
    size_tokens: Size,
    frames: Sequence[Picture] | None = None,
    *,
    labels: Sequence[str] | None = None,
    current: Picture = None,
    current_label: str = "new frame",
    context_text: int | Sequence[int] = 0,
    new_text: int = 0,
    width: int = 1280,
) -> Image.Image:
    """Draw the memory of one new frame (Captain Cinema Fig. 3): every frame's area on the picture is its token count.

    Args:
        slots: the plan, most relevant first (`GoldenMem.plan`).
        size_tokens: (height, width) of a full frame in tokens.
        frames: one picture for each slot, `[3, H, W]` in 0…1 or PIL, in the slots' order; None draws a blank tile.
        labels: name of each slot's frame, e.g. `s03`; the rank is shown where there is none.
        current: picture of the new frame; None draws an empty card.
        current_label: name of the new frame.
        context_text: caption tokens of each slot, or one number for all.
        new_text: caption tokens of the new frame.
        width: width of the picture in pixels, at least 480; the height follows.

    Returns:
        An RGB picture.

    Raises:
        InputError: lists of different lengths, a picture of the wrong shape, or a width below 480.
    """
    if width < 480:
        raise InputError("width", "must be at least 480 pixels", width, "use a wider picture")
    shown = _matching("frames", frames, slots, None)
    names = _matching("labels", labels, slots, "")
    report = token_report(slots, size_tokens, context_text=context_text, new_text=new_text)

    inner = width - 2 * _PAD
    scale = _scale(slots, size_tokens, inner)
    card = _pixels(size_tokens, scale)
    tiers = [tier["tier"] for tier in report["tiers"]]
    sections = [_Section(tier, [i for i, slot in enumerate(slots) if slot.tier == tier]) for tier in tiers]
    for section in sections:
        size = _pixels(slots[section.indices[0]].size, scale)
        cell = max(_CELL, size[0]), size[1] + _CAPTION
        section.columns = max(1, (inner + _GAP) // (cell[0] + _GAP))
        section.cell, section.size = cell, size
    top = _PAD + 74
    card_height = max(card[1] + _CAPTION, _FIGURES)
    height = top + card_height + _GAP + sum(section.height for section in sections) + 96

    picture = Image.new("RGB", (width, height), BACK)
    draw = ImageDraw.Draw(picture)
    draw.text((_PAD, _PAD - 6), "GoldenMem", font=font(30), fill=GOLD)
    title = f"{len(slots)} remembered frame{plural(len(slots))} behind one new frame"
    draw.text((_PAD, _PAD + 32), title, font=font(16), fill=SOFT)

    draw_tile(picture, current, (_PAD, top), card, INK)
    fit_line(draw, (_PAD, top + card[1] + 5), current_label, 14, INK, card[0])
    _summary(draw, report, size_tokens, new_text, (_PAD + card[0] + 28, top), width - _PAD)

    y = top + card_height + _GAP
    for section in sections:
        colour = tier_colour(section.tier)
        size = slots[section.indices[0]].size
        count = len(section.indices)
        each = f"{size[0]} x {size[1]} = {size[0] * size[1]} tokens each, {count} frame{plural(count)}"
        draw.rectangle((_PAD, y + 16, _PAD + 10, y + 26), fill=colour)
        draw.text((_PAD + 20, y + 10), f"tier {section.tier}", font=font(16), fill=INK)
        draw.text((_PAD + 84, y + 11), each, font=font(15), fill=SOFT)
        for place, index in enumerate(section.indices):
            row, column = divmod(place, section.columns)
            x = _PAD + column * (section.cell[0] + _GAP)
            line = y + _HEAD + row * (section.cell[1] + _GAP)
            draw_tile(picture, shown[index], (x, line), section.size, colour)
            label = names[index] or f"#{slots[index].rank + 1}"
            fit_line(draw, (x, line + section.size[1] + 4), label, 13, SOFT, section.cell[0])
        y += section.height
    _bar(draw, report, slots, (_PAD, y + 18), inner)
    return picture


def draw_empty(slots: Sequence[Place], size_tokens: Size, *, width: int = 800) -> Image.Image:
    """Draw a memory that nothing is in yet: in words, and as the places that it has, to scale.

    Args:
        slots: the plan of a full memory, most relevant first (`GoldenMem.plan`).
        size_tokens: (height, width) of a full frame in tokens.
        width: width of the picture in pixels, at least 480; the height follows.

    Returns:
        An RGB picture.

    Raises:
        InputError: a width below 480.
    """
    if width < 480:
        raise InputError("width", "must be at least 480 pixels", width, "use a wider picture")
    inner, places, row = width - 2 * _PAD, [], 0
    scale = inner / 4.6 / size_tokens[1]  # four frames of full size in a row
    x, y = _PAD, _PAD + 132
    for slot in slots[:_MOST_PLACES]:
        size = _pixels(slot.size, scale)
        if x + size[0] > _PAD + inner:
            x, y, row = _PAD, y + row + _GAP, 0
        places.append(((x, y), size, tier_colour(slot.tier)))
        x, row = x + size[0] + _GAP, max(row, size[1])
    picture = Image.new("RGB", (width, y + row + _PAD), BACK)
    draw = ImageDraw.Draw(picture)
    sizes = len({slot.tier for slot in slots})
    room = f"up to {len(slots)} frame{plural(len(slots))} in {sizes} size{plural(sizes)}"
    fit_line(draw, (_PAD, _PAD - 6), "Nothing to remember yet", 38, GOLD, inner)
    fit_line(draw, (_PAD, _PAD + 48), "A keyframe sampler fills it as it goes, or connect frames;", 26, INK, inner)
    fit_line(draw, (_PAD, _PAD + 82), f"there is room for {room}.", 26, INK, inner)
    for at, size, colour in places:
        draw_tile(picture, None, at, size, colour)
    return picture


@dataclass
class _Section:
    """One tier's part of the picture."""

    tier: int
    indices: list[int]
    columns: int = 1
    cell: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)

    @property
    def height(self) -> int:
        rows = -(-len(self.indices) // self.columns)
        return _HEAD + rows * (self.cell[1] + _GAP)


def _summary(
    draw: ImageDraw.ImageDraw, report: dict, size_tokens: Size, new_text: int, at: tuple[int, int], right: int
) -> None:
    """Write the figures beside the new frame."""
    x: float
    x, y = at
    frame = size_tokens[0] * size_tokens[1]

    def count(image: int, text: int) -> str:
        return f"{image:,} image" + (f" + {text:,} text" if text else "")

    rows = [
        ("this frame", count(frame, new_text)),
        ("memory", count(report["context_image"], report["context_text"])),
        ("memory in full frames", f"{report['frames']:.2f}"),
        ("sequence", f"{report['total']:,} tokens"),
        ("uncompressed", f"{report['full']:,} tokens"),
    ]
    for name, value in rows:
        draw.text((x, y), name, font=font(15), fill=SOFT)
        value_width = draw.textlength(value, font=font(15))
        draw.text((max(x + 170, min(x + 340, right) - value_width), y), value, font=font(15), fill=INK)
        y += 26
    share = f"{report['ratio']:.0%}"
    draw.text((x, y + 6), share, font=font(40), fill=GOLD)
    x += draw.textlength(share, font=font(40)) + 14
    draw.text((x, y + 26), "of the uncompressed sequence", font=font(15), fill=SOFT)


def _bar(draw: ImageDraw.ImageDraw, report: dict, slots: Sequence[Place], at: tuple[int, int], length: int) -> None:
    """Draw the sequence as a bar whose full length is the uncompressed sequence."""
    x, y = at
    draw.rectangle((x, y, x + length, y + 18), fill=PANEL, outline=LINE)
    full = max(1, report["full"])
    parts = [(report["new"], INK)] + [(tier["tokens"], tier_colour(tier["tier"])) for tier in report["tiers"]]
    parts.append((report["context_text"], SOFT))
    start = 0
    for tokens, colour in parts:
        end = start + tokens
        if tokens:
            left, right = x + length * start // full, x + length * end // full
            draw.rectangle((left, y, max(left, right - 1), y + 18), fill=colour)
        start = end
    note = "white: the new frame · colours: memory by tier · grey: captions · empty: what compression saves"
    draw.text((x, y + 28), note, font=font(13), fill=SOFT)


def _scale(slots: Sequence[Place], size_tokens: Size, inner: int) -> float:
    """Return pixels per token: the new frame takes about half the width, and the largest tier ends in full rows."""
    height, width = size_tokens
    scale = min(0.52 * inner / width, 360 / height)
    if not slots:
        return scale
    first = [slot for slot in slots if slot.tier == slots[0].tier]
    rows = 1 if len(first) <= 4 else -(-len(first) // 6)
    columns = -(-len(first) // rows)
    return min(scale, (inner - (columns - 1) * _GAP) / (columns * first[0].size[1]))


def _pixels(size: Size, scale: float) -> tuple[int, int]:
    """Return (width, height) in pixels of a size in tokens."""
    # Rounded down, so that a row planned to fit does fit.
    return max(4, math.floor(size[1] * scale + 1e-6)), max(4, math.floor(size[0] * scale + 1e-6))


def _matching(field: str, values: Sequence | None, slots: Sequence[Place], blank: object) -> list:
    if values is None:
        return [blank] * len(slots)
    if len(values) != len(slots):
        rule = f"must have one entry for each of the {len(slots)} slots"
        raise InputError(field, rule, len(values), "give them in the order of the slots")
    return list(values)
