"""Sizes of the pocket pair model's frames, and the memory packs that it is trained on."""

from __future__ import annotations

from functools import cache

from ...memory.memory_pack import MemoryPack, PackTile

__all__ = ["GRID", "PACKS", "tiles_of"]

GRID = (5, 10)
"""(rows, columns) of tokens of a frame."""

PACKS = {
    "canvas": MemoryPack("canvas"),
    "pyramid": MemoryPack("references", pyramid=True),
}
"""Packings that are trained, the paper's and the published one."""


@cache
def tiles_of(packing: str) -> tuple[PackTile, ...]:
    """All places of a packing."""
    pack = PACKS[packing]
    return tuple(pack.tiles(99, GRID))
