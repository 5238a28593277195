"""A picture of STAGE's memory pack: which earlier frame lies where, with its tokens, and what is left out."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from ..core.errors import InputError
from ..memory.golden_mem import Size
from ..memory.memory_pack import MemoryPack, PackTile
from .tiles import BACK, GOLD, INK, LINE, PANEL, SOFT, Picture, draw_tile, fit_line, plural, tier_colour

__all__ = ["draw_pack", "pack_words"]

_PAD, _GAP, _CAPTION, _HEAD = 32, 14, 22, 132


def draw_pack(
    pack: MemoryPack,
    count: int,
    grid: Size,
    frames: Sequence[Picture] | None = None,
    *,
    labels: Sequence[str] | None = None,
    width: int = 1280,
) -> Image.Image:
    """Draw the memory of one new pair (STAGE Fig. 3a): every frame's area on the picture is its token count.

    Args:
        pack: how frames are packed.
        count: earlier frames there are.
        grid: (rows, cols) of a full frame in patches.
        frames: the remembered ones' pictures, the most relevant first; None draws blank tiles.
        labels: their names, e.g. ``s03 end``; the rank is shown where there is none.
        width: of the picture in pixels, at least 480; the height follows.

    Returns:
        An RGB picture.

    Raises:
        InputError: other numbers of frames or labels than there are places, or a width below 480.
    """
    if width < 480:
        raise InputError("width", "must be at least 480 pixels", width, "use a wider picture")
    tiles = pack.tiles(count, grid)
    for field, given in (("frames", frames), ("labels", labels)):
        if given is not None and len(given) != len(tiles):
            rule = f"must be {len(tiles)}, one for each remembered frame"
            raise InputError(field, rule, len(given), "give them best first, as far as they are remembered")
    inner = width - 2 * _PAD
    places, scale, bottom = _canvas(pack, tiles, grid, inner) if pack.packing == "canvas" else _rows(tiles, inner)
    picture = Image.new("RGB", (width, bottom + _PAD), BACK)
    draw = ImageDraw.Draw(picture)
    fit_line(draw, (_PAD, _PAD - 6), "Memory pack", 30, GOLD, inner)
    for line, text in enumerate(pack_words(pack, count, grid)):
        fit_line(draw, (_PAD, _PAD + 32 + 22 * line), text, 16, INK if line == 0 else SOFT, inner)
    if pack.packing == "canvas":
        rows, cols = pack.canvas(grid)
        box = (_PAD, _HEAD, _PAD + round(cols * scale) - 1, _HEAD + round(rows * scale) - 1)
        draw.rectangle(box, fill=PANEL, outline=LINE)
        for x in range(box[0] - (box[3] - box[1]), box[2], 12):  # hatched where no token is
            _hatch(draw, box, x)
    for rank, (tile, (x, y)) in enumerate(zip(tiles, places, strict=True)):
        size = max(2, round(tile.cols * scale)), max(2, round(tile.rows * scale))
        draw_tile(picture, frames[rank] if frames else None, (x, y), size, tier_colour(tile.tier + 1))
        name = (labels[rank] if labels else "") or f"#{rank + 1}"
        told = f"{name} · {tile.rows}x{tile.cols} = {tile.tokens}"
        if pack.packing == "references":
            fit_line(draw, (x, y + size[1] + 4), told, 13, SOFT, max(size[0], 90))
        elif size[0] >= 60 and size[1] >= 24:
            draw.rectangle((x + 4, y + 4, x + size[0] - 5, y + 21), fill=BACK)
            fit_line(draw, (x + 8, y + 5), told, 13, INK, size[0] - 16)
    return picture


def pack_words(pack: MemoryPack, count: int, grid: Size) -> list[str]:
    """What a pack holds, in three lines: frames and tokens, the cost beside a pair, and what bounds its history."""
    tiles = pack.tiles(count, grid)
    tokens, pair = sum(tile.tokens for tile in tiles), 2 * grid[0] * grid[1]
    kind = "one canvas" if pack.packing == "canvas" else "references" + (", a pyramid" if pack.pyramid else "")
    most = pack.history(grid)
    told = f"{len(tiles)} of {count} earlier frame{plural(count)} as {kind}: {tokens:,} tokens"
    bound = "every earlier frame is remembered, so its cost grows with the film"
    if most is not None:
        why = "no frame may take more" if most == pack.limit else "the next would have less than one 2x2 patch"
        bound = f"at most {most} frame{plural(most)}: {why}"
    return [told, f"the pair itself has {pair:,}; memory adds {tokens / pair:.0%}", bound]


def _canvas(pack: MemoryPack, tiles: Sequence[PackTile], grid: Size, inner: int) -> tuple[list[Size], float, int]:
    """(x, y) of every tile, pixels per patch, and where the canvas ends."""
    rows, cols = pack.canvas(grid)
    scale = min(inner / cols, 640 / rows)
    places = [(_PAD + round(tile.col * scale), _HEAD + round(tile.row * scale)) for tile in tiles]
    return places, scale, _HEAD + round(rows * scale)


def _rows(tiles: Sequence[PackTile], inner: int) -> tuple[list[Size], float, int]:
    """The same for references, side by side in rows; the largest are drawn three to a row."""
    scale = (inner - 2 * _GAP) / 3 / max((tile.cols for tile in tiles), default=1)
    places, x, y, row = [], _PAD, _HEAD, 0
    for tile in tiles:
        wide, high = max(90, round(tile.cols * scale)), round(tile.rows * scale) + _CAPTION
        if x + wide > _PAD + inner + 1:
            x, y, row = _PAD, y + row + _GAP, 0
        places.append((x, y))
        x, row = x + wide + _GAP, max(row, high)
    return places, scale, y + row


def _hatch(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], x: int) -> None:
    """One diagonal, cut off at the edges of `box`."""
    left, top, right, bottom = box
    start, end = max(x, left), min(x + bottom - top, right)
    if start < end:
        draw.line((start, top + start - x, end, top + end - x), fill=LINE)
