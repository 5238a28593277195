"""The memory pack: frames of all earlier shots share about one frame of tokens, the most relevant largest.

Source: STAGE §4.1, Eq. 1: M = SpatialTile_j P(m'_j, A_j), with the frames ranked by relevance and area A_j = 2^−j of
the canvas for rank j = 1, 2, …; downsampling acts on the latent. The published inference passes every remembered frame
as a reference image of its own instead, and can shrink these from the third on. Both ways are here.

Everything counts in patches, the 2×2 latents of one image token. Of the canvas only what tiles cover becomes tokens:
the left-over area is dropped. So is a frame whose share would be less than one patch: the history that a canvas or a
pyramid can hold is bounded; a canvas of N patches holds floor(log2 N) frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from ..core.errors import InputError
from .golden_mem import Level, ResizeMode, Size, resize_context_latent

__all__ = ["Aspect", "MemoryPack", "PackTile", "PackingKind", "canvas_boxes"]

PackingKind = Literal["canvas", "references"]
"""One picture of tiles (the paper), or a reference image for each frame (the published inference)."""

Aspect = Literal["squeeze", "fit"]
"""What a frame does in a tile of another shape: fill it, or keep its own aspect and leave the rest out."""

_PATCH = 2  # latents along a side of one image token


@dataclass(frozen=True)
class PackTile:
    """The place of one remembered frame, in patches.

    Attributes:
        rank: 0 for the most relevant frame.
        rows: height of the frame in the pack.
        cols: its width.
        frame: frame number of its position ids, relative to the pack: 1, 2, … for references, 1 for the whole canvas.
        row: top edge in the canvas; 0 for references.
        col: left edge in the canvas; 0 for references.
    """

    rank: int
    rows: int
    cols: int
    frame: int = 1
    row: int = 0
    col: int = 0

    @property
    def tier(self) -> int:
        """The rank: every frame of a pack may have a size of its own."""
        return self.rank

    @property
    def size(self) -> Size:
        """(rows, cols)."""
        return self.rows, self.cols

    @property
    def tokens(self) -> int:
        """Image tokens of this frame, rows × cols."""
        return self.rows * self.cols


@dataclass(frozen=True)
class MemoryPack:
    """How ranked frames become one memory.

    Attributes:
        packing: ``canvas`` or ``references``.
        pyramid: of references, shrink reference i (from 0) by 2^(i−1) on each side from the third on, as the published
            option does. That one goes on with references of a single patch; here the history ends there.
        aspect: of a canvas, ``squeeze`` fills each tile, ``fit`` keeps the frame's aspect.
        level: shrink the ``latent`` (the paper), or the picture before it is encoded (``pixel``).
        limit: frames remembered at most; all that fit by default.
        area: size of the canvas, or of a full reference, as a fraction of the frame's area; above 0, at most 1. What
            a denoising step pays for memory follows from it: a canvas of 1 adds half of what a pair's own frames have.

    Raises:
        InputError: an unknown word, or a number out of range.
    """

    packing: PackingKind = "canvas"
    pyramid: bool = False
    aspect: Aspect = "squeeze"
    level: Level = "latent"
    limit: int | None = None
    area: float = 1.0

    def __post_init__(self) -> None:
        for field, value, known in (
            ("packing", self.packing, get_args(PackingKind)),
            ("aspect", self.aspect, get_args(Aspect)),
            ("level", self.level, get_args(Level)),
        ):
            if value not in known:
                raise InputError(field, f"must be {' or '.join(known)}", value, "choose one of them")
        if self.limit is not None:
            _at_least("limit", self.limit, 1)
        if not 0.0 < self.area <= 1.0:
            raise InputError("area", "must be above 0 and at most 1", self.area, "1 is one full frame")

    def canvas(self, grid: Size) -> Size:
        """(rows, cols) of the canvas, or of a full reference, for frames of `grid` patches: `area` of the frame."""
        _grid(grid)
        side = math.sqrt(self.area)
        return max(1, math.floor(grid[0] * side + 0.5)), max(1, math.floor(grid[1] * side + 0.5))

    def tiles(self, count: int, grid: Size) -> list[PackTile]:
        """Return the places of the remembered frames, the most relevant first.

        Args:
            count: earlier frames there are, at least 0. Those past `limit`, and those whose share would be less than
                one patch, get no place.
            grid: (rows, cols) of a full frame in patches.

        Raises:
            InputError: `count` or `grid` is out of range.
        """
        _at_least("count", count, 0)
        full = self.canvas(grid)
        wanted = count if self.limit is None else min(count, self.limit)
        if self.packing == "references":
            return self._references(wanted, full)
        boxes = canvas_boxes(wanted, full)
        return [self._placed(rank, box, grid) for rank, box in enumerate(boxes)]

    def tokens(self, count: int, grid: Size) -> int:
        """Return the image tokens that `count` earlier frames cost."""
        return sum(tile.tokens for tile in self.tiles(count, grid))

    @property
    def capacity(self) -> int | None:
        """The limit; what else bounds the history depends on the frames' size (see `history`)."""
        return self.limit

    @property
    def latent_resize(self) -> ResizeMode:
        """How latents are shrunk: to cell means for a canvas, bilinearly for references (as published)."""
        return "area" if self.packing == "canvas" else "bilinear"

    def plan(self, count: int, size_tokens: Size) -> list[PackTile]:
        """`tiles`, as a frame memory asks for them."""
        return self.tiles(count, size_tokens)

    def assign(self, order: Sequence[int], size_tokens: Size) -> list[tuple[int, PackTile]]:
        """Return (frame index, place) for frames given best first."""
        return list(zip(order, self.tiles(len(order), size_tokens), strict=False))

    def history(self, grid: Size) -> int | None:
        """Return how many frames of `grid` patches are remembered at most; None where every one is."""
        if self.packing == "references" and not self.pyramid:
            return self.limit
        rows, cols = self.canvas(grid)
        bound = (rows * cols).bit_length() + 2  # of a pyramid the first two are full
        return len(self.tiles(bound, grid))

    def pack(self, latents: Sequence[Tensor], grid: Size) -> list[tuple[PackTile, Tensor]]:
        """Return every remembered frame with its latent at the size of its place.

        Args:
            latents: `[..., C, h, w]` each, the most relevant first, of any even size: what was shrunk as a picture
                already comes through as it is.
            grid: (rows, cols) of a full frame in patches.

        Returns:
            For each place its latent `[..., C, 2·rows, 2·cols]`: cell means for a canvas, bilinear for references (as
            published).
        """
        return [
            (tile, self.shrink(latent, tile))
            for tile, latent in zip(self.tiles(len(latents), grid), latents, strict=False)
        ]

    def shrink(self, latent: Tensor, tile: PackTile) -> Tensor:
        """Return a latent `[..., C, h, w]` at the size of its place, `[..., C, 2·rows, 2·cols]`, in its own dtype."""
        return resize_context_latent(latent, (_PATCH * tile.rows, _PATCH * tile.cols), self.latent_resize)

    def _references(self, count: int, full: Size) -> list[PackTile]:
        """Places of references: each frame on a grid of its own."""
        tiles: list[PackTile] = []
        for rank in range(count):
            by = 2 ** max(0, rank - 1) if self.pyramid else 1
            if full[0] * full[1] < by * by:
                break
            tiles.append(PackTile(rank, max(1, full[0] // by), max(1, full[1] // by), frame=rank + 1))
        return tiles

    def _placed(self, rank: int, box: tuple[int, int, int, int], grid: Size) -> PackTile:
        """A frame in its box of the canvas, at the top left of it where it does not fill it."""
        row, col, rows, cols = box
        if self.aspect == "fit":
            scale = min(rows / grid[0], cols / grid[1])
            rows = min(rows, max(1, math.floor(grid[0] * scale + 0.5)))
            cols = min(cols, max(1, math.floor(grid[1] * scale + 0.5)))
        return PackTile(rank, rows, cols, 1, row, col)


def canvas_boxes(count: int, canvas: Size) -> list[tuple[int, int, int, int]]:
    """Divide a canvas by alternating halving: box j = 1, 2, … has area 2^−j of it, to the nearest whole edge.

    The longer side is cut first; where the side whose turn it is has one patch, the other one is cut. The box is the
    left or the upper part, what remains is divided further.

    Args:
        count: boxes wanted at most.
        canvas: (rows, cols) in patches.

    Returns:
        (row, col, rows, cols) of each box. The list ends where the next would have less than one patch.
    """
    top, left = 0, 0
    rows, cols = canvas
    area = float(rows * cols)
    boxes: list[tuple[int, int, int, int]] = []
    vertical = rows > cols
    while len(boxes) < count and (area := area / 2) >= 1.0 and rows * cols > 1:
        if (rows if vertical else cols) == 1:
            vertical = not vertical
        # The nearest edge to the exact area, not to half of what is left: rounding errors do not add up. Half an edge
        # is rounded down, so that enough is left for all who follow.
        if vertical:
            edge = min(rows - 1, max(1, math.ceil(area / cols - 0.5)))
            boxes.append((top, left, edge, cols))
            top, rows = top + edge, rows - edge
        else:
            edge = min(cols - 1, max(1, math.ceil(area / rows - 0.5)))
            boxes.append((top, left, rows, edge))
            left, cols = left + edge, cols - edge
        vertical = not vertical
    return boxes


def _at_least(field: str, value: int, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise InputError(field, f"must be a whole number of at least {low}", value, f"use {low} or more")


def _grid(grid: Size) -> None:
    if len(grid) != 2:
        raise InputError("grid", "must be (rows, cols)", grid, "give two numbers")
    for side in grid:
        _at_least("grid", side, 1)
