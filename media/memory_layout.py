"""A picture of the memory: which earlier frame is kept at which size, drawn to scale, with token counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..core.errors import InputError
from ..memory.golden_mem import Place, Size, token_report

__all__ = ["draw_empty", "draw_layout"]

_BACK, _PANEL, _LINE = "#15171c", "#1e2128", "#343944"
_INK, _SOFT, _GOLD = "#f2f0ea", "#9aa0ab", "#e3b341"
_TIERS = ("#e3b341", "#e08a3c", "#d1605e", "#a45fa8", "#6a75c9", "#4e9bb5")
_PAD, _GAP, _CAPTION, _HEAD, _CELL, _FIGURES = 32, 14, 22, 40, 64, 190

_MOST_PLACES = 96
"""Places of an empty memory that are drawn: more would only be a longer picture."""

Picture = Tensor | Image.Image | None


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

    picture = Image.new("RGB", (width, height), _BACK)
    draw = ImageDraw.Draw(picture)
    draw.text((_PAD, _PAD - 6), "GoldenMem", font=_font(30), fill=_GOLD)
    title = f"{len(slots)} remembered frame{_plural(len(slots))} behind one new frame"
    draw.text((_PAD, _PAD + 32), title, font=_font(16), fill=_SOFT)

    _tile(picture, current, (_PAD, top), card, _INK)
    _fit(draw, (_PAD, top + card[1] + 5), current_label, 14, _INK, card[0])
    _summary(draw, report, size_tokens, new_text, (_PAD + card[0] + 28, top), width - _PAD)

    y = top + card_height + _GAP
    for section in sections:
        colour = _colour(section.tier)
        size = slots[section.indices[0]].size
        count = len(section.indices)
        each = f"{size[0]} x {size[1]} = {size[0] * size[1]} tokens each, {count} frame{_plural(count)}"
        draw.rectangle((_PAD, y + 16, _PAD + 10, y + 26), fill=colour)
        draw.text((_PAD + 20, y + 10), f"tier {section.tier}", font=_font(16), fill=_INK)
        draw.text((_PAD + 84, y + 11), each, font=_font(15), fill=_SOFT)
        for place, index in enumerate(section.indices):
            row, column = divmod(place, section.columns)
            x = _PAD + column * (section.cell[0] + _GAP)
            line = y + _HEAD + row * (section.cell[1] + _GAP)
            _tile(picture, shown[index], (x, line), section.size, colour)
            label = names[index] or f"#{slots[index].rank + 1}"
            _fit(draw, (x, line + section.size[1] + 4), label, 13, _SOFT, section.cell[0])
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
        places.append(((x, y), size, _colour(slot.tier)))
        x, row = x + size[0] + _GAP, max(row, size[1])
    picture = Image.new("RGB", (width, y + row + _PAD), _BACK)
    draw = ImageDraw.Draw(picture)
    sizes = len({slot.tier for slot in slots})
    room = f"up to {len(slots)} frame{_plural(len(slots))} in {sizes} size{_plural(sizes)}"
    _fit(draw, (_PAD, _PAD - 6), "Nothing to remember yet", 38, _GOLD, inner)
    _fit(draw, (_PAD, _PAD + 48), "A keyframe sampler fills it as it goes, or connect frames;", 26, _INK, inner)
    _fit(draw, (_PAD, _PAD + 82), f"there is room for {room}.", 26, _INK, inner)
    for at, size, colour in places:
        _tile(picture, None, at, size, colour)
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
        draw.text((x, y), name, font=_font(15), fill=_SOFT)
        value_width = draw.textlength(value, font=_font(15))
        draw.text((max(x + 170, min(x + 340, right) - value_width), y), value, font=_font(15), fill=_INK)
        y += 26
    share = f"{report['ratio']:.0%}"
    draw.text((x, y + 6), share, font=_font(40), fill=_GOLD)
    x += draw.textlength(share, font=_font(40)) + 14
    draw.text((x, y + 26), "of the uncompressed sequence", font=_font(15), fill=_SOFT)


def _bar(draw: ImageDraw.ImageDraw, report: dict, slots: Sequence[Place], at: tuple[int, int], length: int) -> None:
    """Draw the sequence as a bar whose full length is the uncompressed sequence."""
    x, y = at
    draw.rectangle((x, y, x + length, y + 18), fill=_PANEL, outline=_LINE)
    full = max(1, report["full"])
    parts = [(report["new"], _INK)] + [(tier["tokens"], _colour(tier["tier"])) for tier in report["tiers"]]
    parts.append((report["context_text"], _SOFT))
    start = 0
    for tokens, colour in parts:
        end = start + tokens
        if tokens:
            left, right = x + length * start // full, x + length * end // full
            draw.rectangle((left, y, max(left, right - 1), y + 18), fill=colour)
        start = end
    note = "white: the new frame · colours: memory by tier · grey: captions · empty: what compression saves"
    draw.text((x, y + 28), note, font=_font(13), fill=_SOFT)


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


def _tile(picture: Image.Image, frame: Picture, at: tuple[int, int], size: tuple[int, int], colour: str) -> None:
    x, y = at
    width, height = size
    draw = ImageDraw.Draw(picture)
    image = _image(frame)
    if image is None:
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=_PANEL)
    else:
        picture.paste(image.resize(size, Image.Resampling.LANCZOS), at)
    draw.rectangle((x, y, x + width - 1, y + height - 1), outline=colour, width=2 if min(size) >= 24 else 1)


def _image(frame: Picture) -> Image.Image | None:
    if frame is None:
        return None
    if isinstance(frame, Image.Image):
        return frame.convert("RGB")
    if frame.ndim != 3 or frame.shape[0] != 3:
        raise InputError("frames", "must be [3, H, W] tensors or PIL images", tuple(frame.shape), "pass single frames")
    levels = (frame.detach().float().nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


def _fit(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, fill: str, room: int) -> None:
    """Write one line, shortened with an ellipsis where it is wider than `room`."""
    font = _font(size)
    line = " ".join(text.split())
    while len(line) > 1 and draw.textlength(line, font=font) > room:
        line = line[:-2].rstrip() + "…"
    draw.text(at, line, font=font, fill=fill)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # the font Pillow carries, so the picture is the same on every machine


def _colour(tier: int) -> str:
    return _TIERS[(tier - 1) % len(_TIERS)] if tier else _INK


def _plural(count: int) -> str:
    return "" if count == 1 else "s"


def _matching(field: str, values: Sequence | None, slots: Sequence[Place], blank: object) -> list:
    if values is None:
        return [blank] * len(slots)
    if len(values) != len(slots):
        rule = f"must have one entry for each of the {len(slots)} slots"
        raise InputError(field, rule, len(values), "give them in the order of the slots")
    return list(values)
