"""Tiles over the frame: each is upscaled on its own, and neighbours are blended where they overlap.

Memory then follows the tile. A tile reads some pixels beyond those that it gives (`reach`), so a method that looks no
farther than that makes the same frame with tiles as without. A network looks at all of its tile; what it makes near an
edge differs most from what it makes of whole frames. So of what neighbours share only the middle is blended, and the
rest of it is computed for its surroundings and thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from ...core.errors import InputError

__all__ = ["Span", "Tile", "plan_tiles", "upscale_tiles"]

Size = tuple[int, int]
"""(height, width) in pixels."""

_BLEND = 16
"""Most pixels of the source that two tiles are blended over; at most a quarter of what they share."""


@dataclass(frozen=True)
class Span:
    """One tile along one side, in pixels of the source.

    Attributes:
        start, stop: what it reads.
        first, last: what it gives.
        shared: how many of the first pixels that it gives the tile before it gives, too.
    """

    start: int
    stop: int
    first: int
    last: int
    shared: int


@dataclass(frozen=True)
class Tile:
    """One tile of a frame."""

    rows: Span
    columns: Span


def plan_tiles(size: Size, target: Size, tile: int, overlap: int, *, reach: int = 0, align: int = 1) -> list[Tile]:
    """Cut frames into tiles, row by row.

    Args:
        size: of a frame of the source.
        target: of the upscaled frame.
        tile: longest side of a tile in pixels of the source; 0 takes the frame whole.
        overlap: pixels of the source that neighbours share: in the middle they are blended.
        reach: pixels around a tile that it reads besides; how far the method looks.
        align: what tiles begin at are multiples of this. It grows to where both sizes have whole pixels, so a side
            whose two lengths have no common divisor is not cut.

    Raises:
        InputError: tiles too small for their overlap and reach.
    """
    if overlap < 0:
        raise InputError("tile_overlap", "must be at least 0 pixels", overlap, "use e.g. 16")
    rows, columns = (
        _spans(length, Fraction(wanted, length), tile, overlap, reach, align)
        for length, wanted in zip(size, target, strict=True)
    )
    return [Tile(row, column) for row in rows for column in columns]


def _spans(length: int, ratio: Fraction, tile: int, overlap: int, reach: int, align: int) -> list[Span]:
    grid = math.lcm(align, ratio.denominator)
    if not tile or length <= tile or grid >= length:
        return [Span(0, length, 0, length, 0)]
    edge = -(-reach // grid) * grid
    shared = -(-overlap // grid) * grid
    side = tile // grid * grid
    least = 2 * edge + max(2 * shared, grid)
    if side <= least:
        fix = f"use at least {least + grid}, 0 for none, or a smaller overlap"
        raise InputError("tile", f"must be larger than {least} pixels of the source, for its overlap", tile, fix)
    # Equal tiles on the grid; the last one may be shorter.
    count = math.ceil((length - 2 * edge - shared) / (side - 2 * edge - shared))
    step = -(-(length - 2 * edge - shared) // count // grid) * grid
    found = list[Span]()
    while not found or found[-1].last < length:
        number = len(found)
        first = edge + number * step if number else 0
        last = edge + (number + 1) * step + shared
        if last + edge >= length:
            last = length
        read = max(0, first - edge), min(length, last + edge)
        found.append(Span(*read, first, last, shared if number else 0))
    return _blended_in_the_middle(found, shared, ratio.denominator)


def _blended_in_the_middle(spans: list[Span], shared: int, grid: int) -> list[Span]:
    """The same tiles, which give less of what they share: each throws away what lies near its edge."""
    blend = max(min(_BLEND, shared // 4), min(shared, grid))
    margin = (shared - blend) // 2 // grid * grid
    found = []
    for i, span in enumerate(spans):
        first = span.first + (margin if i else 0)
        last = span.last - (margin if i + 1 < len(spans) else 0)
        found.append(Span(span.start, span.stop, first, last, span.shared - 2 * margin if i else 0))
    return found


def upscale_tiles(
    upscale: Callable[[Tensor, Mapping[int, Tensor], Size], Iterator[Tensor]],
    frames: Tensor,
    keyframes: Mapping[int, Tensor],
    target: Size,
    tiles: list[Tile],
) -> Iterator[Tensor]:
    """The frames of one window, upscaled tile by tile; a single tile streams.

    Args:
        upscale: (frames, keyframes, size) → parts `[t, 3, H, W]`.
        frames: `[T, 3, h, w]` in 0…1.
        keyframes: `[3, H, W]` of the target's size, by frame of the window.
        target: (H, W).
        tiles: of `plan_tiles`.
    """
    if len(tiles) == 1:
        yield from upscale(frames, keyframes, target)
        return
    scale = tuple(Fraction(after, before) for after, before in zip(target, frames.shape[-2:], strict=True))
    canvas = frames.new_empty(len(frames), 3, *target)
    strip = canvas
    for i, tile in enumerate(tiles):
        read_y, read_x = (_scaled(span.start, span.stop, by) for span, by in _sides(tile, scale))
        give_y, give_x = (_scaled(span.first, span.last, by) for span, by in _sides(tile, scale))
        rows, columns = tile.rows, tile.columns
        if i == 0 or tiles[i - 1].rows != rows:
            strip = frames.new_empty(len(frames), 3, give_y.stop - give_y.start, target[1])
        source = frames[..., rows.start : rows.stop, columns.start : columns.stop]
        own = {index: picture[:, read_y, read_x] for index, picture in keyframes.items()}
        parts = upscale(source, own, (read_y.stop - read_y.start, read_x.stop - read_x.start))
        inner_y = slice(give_y.start - read_y.start, give_y.stop - read_y.start)
        inner_x = slice(give_x.start - read_x.start, give_x.stop - read_x.start)
        begin = 0
        for part in parts:
            end = begin + len(part)
            _lay(strip[begin:end, ..., give_x], part[..., inner_y, inner_x], int(columns.shared * scale[1]), -1)
            begin = end
        if i + 1 == len(tiles) or tiles[i + 1].rows != rows:
            _lay(canvas[..., give_y, :], strip, int(rows.shared * scale[0]), -2)
    yield canvas


def _sides(tile: Tile, scale: tuple[Fraction, ...]) -> Iterator[tuple[Span, Fraction]]:
    return zip((tile.rows, tile.columns), scale, strict=True)


def _scaled(start: int, stop: int, by: Fraction) -> slice:
    return slice(int(start * by), int(stop * by))


def _lay(place: Tensor, part: Tensor, shared: int, dim: int) -> None:
    """Lay `part` over `place`, whose first `shared` pixels along `dim` are there already and are blended with it."""
    if shared:
        weights = torch.arange(1, shared + 1, dtype=part.dtype, device=part.device) / (shared + 1)
        weights = weights if dim == -1 else weights[:, None]
        old = place.narrow(dim, 0, shared)
        # a + w (b − a): where both are equal, nothing changes, not even by rounding.
        old += weights * (part.narrow(dim, 0, shared) - old)
    length = part.shape[dim]
    place.narrow(dim, shared, length - shared).copy_(part.narrow(dim, shared, length - shared))
