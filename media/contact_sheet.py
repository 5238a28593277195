"""The contact sheet: every shot of a film at a glance, with the times its keyframes were asked for and got."""

from __future__ import annotations

import os
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..core.files import atomic_path
from .image import open_image

__all__ = ["SheetKeyframe", "SheetShot", "write_contact_sheet"]

SHOTS_PER_PAGE = 48
PAGE_HEIGHT = 8192
"""Most pixels of a page from top to bottom, unless a single row is taller; a page takes 40 MB at most."""
KEYFRAMES_SHOWN = 12
"""Of more keyframes in one shot, as many are shown, spread over the shot."""
_TALLEST = 1.5  # a picture's height over its width on a card; a taller one is shown whole, but narrower
_COLUMNS, _CARD, _GAP, _MARGIN, _PAD = 3, 496, 24, 40, 14
_TOP = _MARGIN + 92
_PAPER, _CARD_PAPER, _INK, _SOFT, _FAINT = "#15171c", "#20242c", "#f2f3f5", "#b4bac6", "#8a92a3"
# One colour per place, so that the places of a film can be told apart from across the room.
_PLACE_COLOURS = ("#f4a259", "#5bc0be", "#9d8df1", "#8cb369", "#f25f5c", "#62a8e5", "#e8c547", "#d58bc4")
# Common fonts with accents and arrows, found by name where the system keeps its fonts; Pillow's own has neither.
_FONTS = ("NotoSans-Regular.ttf", "DejaVuSans.ttf", "segoeui.ttf", "Arial.ttf", "Helvetica.ttc")


@dataclass(frozen=True)
class SheetKeyframe:
    """One picture of a shot: its file, the seconds from the shot's start that were asked for and that it got, and what
    it is called.
    """

    picture: Path
    requested: float
    snapped: float
    name: str = "keyframe"


@dataclass(frozen=True)
class SheetShot:
    """One card: the shot's id, place, caption, where it starts in the film, its length (seconds) and its keyframes."""

    id: str
    place: str
    caption: str
    start: float
    seconds: float
    keyframes: Sequence[SheetKeyframe]


def write_contact_sheet(
    path: str | os.PathLike[str],
    title: str,
    subtitle: str,
    shots: Sequence[SheetShot],
    on_card: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Draw the shots as cards, three in a row, and write them as PNG. Returns the paths written.

    Up to 48 shots, or `PAGE_HEIGHT` pixels, go on `path` itself; longer films go on to pages ``name_02.png``,
    ``name_03.png`` …, so memory does not grow with the film, nor with the shape of its pictures. Pictures are read from
    their files one at a time; of a shot with many keyframes, `KEYFRAMES_SHOWN` are shown.

    Args:
        path: the first page.
        title, subtitle: of every page.
        shots: the cards.
        on_card: called before each card is drawn; an error of it stops the drawing.
    """
    shots = [_shown(shot) for shot in shots]
    first = Path(path)
    places = list(dict.fromkeys(shot.place for shot in shots))
    colours = {place: _PLACE_COLOURS[i % len(_PLACE_COLOURS)] for i, place in enumerate(places)}
    pages = _pages(shots)
    written = []
    for number, page in enumerate(pages, start=1):
        name = first if number == 1 else first.with_name(f"{first.stem}_{number:02d}{first.suffix}")
        note = subtitle if len(pages) == 1 else f"{subtitle} · page {number} of {len(pages)}"
        with atomic_path(name) as temporary:
            _draw_page(title, note, page, colours, on_card).save(temporary, format="PNG")
        written.append(name)
    return written


def _shown(shot: SheetShot) -> SheetShot:
    """The shot with as many keyframes as fit on a card, the first and the last among them."""
    count = len(shot.keyframes)
    if count <= KEYFRAMES_SHOWN:
        return shot
    chosen = [round(i * (count - 1) / (KEYFRAMES_SHOWN - 1)) for i in range(KEYFRAMES_SHOWN)]
    caption = f"({KEYFRAMES_SHOWN} of {count} keyframes) {shot.caption}"
    return replace(shot, caption=caption, keyframes=[shot.keyframes[i] for i in chosen])


def _pages(shots: Sequence[SheetShot]) -> list[Sequence[SheetShot]]:
    """The shots of every page: rows of three, as many as its height takes."""
    pages: list[Sequence[SheetShot]] = []
    start, height = 0, _TOP + _MARGIN
    for i in range(0, len(shots), _COLUMNS):
        row = max(_card_height(shot) for shot in shots[i : i + _COLUMNS]) + _GAP
        if i > start and (height + row > PAGE_HEIGHT or i - start >= SHOTS_PER_PAGE):
            pages.append(shots[start:i])
            start, height = i, _TOP + _MARGIN
        height += row
    return [*pages, shots[start:]]


def _draw_page(
    title: str, subtitle: str, shots: Sequence[SheetShot], colours: dict[str, str], on_card: Callable[[], None]
) -> Image.Image:
    columns = min(_COLUMNS, max(2, len(shots)))
    rows = [shots[i : i + columns] for i in range(0, len(shots), columns)]
    heights = [max(_card_height(shot) for shot in row) for row in rows]
    top = _TOP
    width = 2 * _MARGIN + columns * _CARD + (columns - 1) * _GAP
    page = Image.new("RGB", (width, top + sum(heights) + _GAP * (len(rows) - 1) + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(page)
    title, subtitle = _drawable(title), _drawable(subtitle)
    draw.text((_MARGIN, _MARGIN - 6), _cut(title, _font(40), width - 2 * _MARGIN), _INK, _font(40))
    draw.text((_MARGIN, _MARGIN + 48), _cut(subtitle, _font(20), width - 2 * _MARGIN), _SOFT, _font(20))
    for row, height in zip(rows, heights, strict=True):
        for column, shot in enumerate(row):
            on_card()
            _draw_card(page, (_MARGIN + column * (_CARD + _GAP), top), height, shot, colours[shot.place])
        top += height + _GAP
    return page


def _draw_card(page: Image.Image, corner: tuple[int, int], height: int, shot: SheetShot, colour: str) -> None:
    x, y = corner
    draw = ImageDraw.Draw(page)
    draw.rounded_rectangle((x, y, x + _CARD - 1, y + height - 1), 12, _CARD_PAPER)
    pictures = _picture_boxes(shot)
    for keyframe, (left, top, width, tall) in zip(shot.keyframes, pictures, strict=True):
        with open_image(keyframe.picture) as picture:
            size = _fitted(picture.size, width)
            spot = x + left + (width - size[0]) // 2, y + top
            page.paste(picture.convert("RGB").resize(size, Image.Resampling.LANCZOS), spot)
        draw.text((x + left, y + top + tall + 5), _drawable(_times(keyframe)), _FAINT, _font(15))
    text = y + max(top + tall for _, top, _, tall in pictures) + 30
    draw.text((x + _PAD, text), shot.id, _INK, _font(24))
    tag = x + _PAD + _font(24).getlength(shot.id) + 14
    place = _cut(_drawable(shot.place), _font(16), 200)
    tag_width = _font(16).getlength(place) + 20
    draw.rounded_rectangle((tag, text + 3, tag + tag_width, text + 27), 12, colour)
    draw.text((tag + 10, text + 5), place, _PAPER, _font(16))
    span = f"{shot.start:.2f} – {shot.start + shot.seconds:.2f} s"
    draw.text((x + _CARD - _PAD, text + 5), _drawable(span), _SOFT, _font(17), anchor="ra")
    for line, words in enumerate(_wrap(_drawable(shot.caption), _font(17), _CARD - 2 * _PAD, lines=3)):
        draw.text((x + _PAD, text + 36 + 22 * line), words, _SOFT, _font(17))


def _picture_boxes(shot: SheetShot) -> list[tuple[int, int, int, int]]:
    """(left, top, width, height) of each keyframe inside its card: one large, or two or three in a row."""
    count = len(shot.keyframes)
    in_row = min(count, 2) if count in (2, 4) else min(count, 3)
    width = (_CARD - 2 * _PAD - (in_row - 1) * 8) // in_row
    if in_row == 3 and max(_font(15).getlength(_drawable(_times(keyframe))) for keyframe in shot.keyframes) > width:
        in_row, width = 2, (_CARD - 2 * _PAD - 8) // 2
    with open_image(shot.keyframes[0].picture) as picture:
        tall = _fitted(picture.size, width)[1]
    return [
        (_PAD + (i % in_row) * (width + 8), _PAD + (i // in_row) * (tall + 30), width, tall)
        for i in range(len(shot.keyframes))
    ]


def _fitted(size: tuple[int, int], width: int) -> tuple[int, int]:
    """(width, height) of a picture of `size` on a card's place of that width."""
    tall = round(width * size[1] / size[0])
    if tall <= _TALLEST * width:
        return width, max(1, tall)
    return max(1, round(_TALLEST * width * size[0] / size[1])), round(_TALLEST * width)


def _card_height(shot: SheetShot) -> int:
    _, top, _, tall = _picture_boxes(shot)[-1]
    lines = len(_wrap(_drawable(shot.caption), _font(17), _CARD - 2 * _PAD, lines=3))
    return top + tall + 30 + 36 + 22 * lines + _PAD


def _times(keyframe: SheetKeyframe) -> str:
    """`at 1.00 s` where the keyframe landed as asked, else `at 1.00 → 1.13 s`."""
    if abs(keyframe.requested - keyframe.snapped) < 0.005:
        return f"{keyframe.name} at {keyframe.snapped:.2f} s"
    return f"{keyframe.name} at {keyframe.requested:.2f} → {keyframe.snapped:.2f} s"


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The first known font of the system, else Pillow's own."""
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def _drawable(text: str) -> str:
    """Drop what the font cannot draw; Pillow's own font knows little more than ASCII."""
    if not (_font(16).getname()[0] or "").startswith("Aileron"):
        return text
    text = text.replace("→", "to").replace("–", "-").replace("×", "x").replace("…", "...").replace("·", "-")
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")


def _cut(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """One line no wider than `width`, ended with dots where it was cut."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    fits = bisect_right(range(len(text)), width, key=lambda n: font.getlength(text[:n] + "...")) - 1
    return text[: max(fits, 0)].rstrip() + "..."


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float, lines: int) -> list[str]:
    """Break into at most `lines` lines at spaces; the last one is cut."""
    wrapped: list[str] = []
    words = text.split()
    while words and len(wrapped) < lines - 1:
        lengths = range(1, len(words) + 1)
        count = max(1, bisect_right(lengths, width, key=lambda n: font.getlength(" ".join(words[:n]))))  # noqa: B023
        wrapped.append(_cut(" ".join(words[:count]), font, width))
        words = words[count:]
    return [*wrapped, _cut(" ".join(words), font, width)] if words else wrapped
