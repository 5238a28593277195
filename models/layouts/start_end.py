"""How a shot's start and end frame and its memory lie in one sequence of tokens (STAGE §4.1): segments, position ids.

Pure tensor arithmetic shared by both hosts. Positions are integer triples (frame, row, column), centred on the middle
of an image as Qwen-Image does; text stands behind the largest image on all three axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from einops import rearrange
from torch import Tensor

from ...core.errors import InputError
from .pairs import PATCH, Size, pack_latent

__all__ = [
    "Centring",
    "GuidanceAgainst",
    "PairLayoutName",
    "Packing",
    "ReferenceTimestep",
    "Segment",
    "SegmentModel",
    "Tile",
    "centred",
    "frame_ids",
    "pair_ids",
    "patchify",
    "reference_ids",
    "text_ids",
    "text_start",
    "unpatchify",
]

PairLayoutName = Literal["stacked", "sequence"]
"""Where the end frame stands: below the start frame, in one image of double height, or behind it as the next frame.

The paper does not say; the published weights were trained with ``stacked``.
"""

GuidanceAgainst = Literal["text", "memory", "both"]
"""What the branch that guidance leads away from lacks: the shot's text, in whose place stands a negative prompt (as
published), the memory, or both. Where memory is lacking, guidance leads towards what is remembered."""

Packing = Literal["references", "canvas"]
"""Memory as images of their own, each with its frame id, or as tiles of one canvas (STAGE Eq. 1)."""

Centring = Literal["qwen", "comfyui"]
"""Which row and column of an image has position 0. The two differ by one where a side has an odd number of tokens:
Qwen-Image's reference code puts the larger half at negative positions, ComfyUI the smaller one. Sides that are
multiples of 32 pixels have even numbers, and there both are the same."""

ReferenceTimestep = Literal["zero", "shared"]
"""What clean segments are modulated at: t = 0 (Qwen-Image-Edit-2511), or the t of the noisy ones (-2509 and before)."""


@dataclass(frozen=True)
class Segment:
    """Tokens of one image and where they stand.

    Attributes:
        tokens: `[B, N, 64]`, from `patchify`.
        ids: `[N, 3]`, integer (frame, row, column); best on the CPU, where models look them up.
        clean: a remembered frame without noise; the others are predicted.
    """

    tokens: Tensor
    ids: Tensor
    clean: bool = False


class Tile(Protocol):
    """A remembered frame's place (`memory.memory_pack.PackTile`), in tokens."""

    @property
    def rows(self) -> int:
        """Height."""
        ...

    @property
    def cols(self) -> int:
        """Width."""
        ...

    @property
    def frame(self) -> int:
        """Frame id, from 1."""
        ...

    @property
    def row(self) -> int:
        """Top edge on the canvas."""
        ...

    @property
    def col(self) -> int:
        """Left edge on the canvas."""
        ...


class SegmentModel(Protocol):
    """A velocity network over segments."""

    config: Any

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        ...

    def forward_segments(
        self,
        segments: Sequence[Segment],
        prompt_embeds: Tensor,
        prompt_mask: Tensor | None,
        timestep: Tensor,
        image_mask: Tensor | None = None,
    ) -> list[Tensor]:
        """Velocity v = noise − data of every noisy segment, each `[B, n, 64]`, in their order."""
        ...


def patchify(latent: Tensor) -> Tensor:
    """Image latent `[B, C, H, W]` to tokens `[B, H/2·W/2, 4C]` (2×2 patches, row by row).

    Raises:
        InputError: if H or W is odd.
    """
    return pack_latent(latent)


def unpatchify(tokens: Tensor, size: Size) -> Tensor:
    """Inverse of `patchify`; `size` is (H, W) of the latent."""
    rows, cols = size[0] // PATCH, size[1] // PATCH
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, w=cols, p=PATCH, q=PATCH)


def centred(count: int, centring: Centring = "qwen", device: torch.device | None = None) -> Tensor:
    """Positions of `count` rows or columns around 0: int64 `[count]`."""
    before = count - count // 2 if centring == "qwen" else count // 2
    return torch.arange(count, device=device) - before


def frame_ids(grid: Size, frame: int = 0, *, centring: Centring = "qwen", device: torch.device | None = None) -> Tensor:
    """Position ids of one image of (rows, columns) tokens, centred on itself: int64 `[rows·columns, 3]`."""
    rows, cols = (centred(n, centring, device) for n in grid)
    return _grid_ids(frame, rows, cols)


def pair_ids(
    grid: Size,
    layout: PairLayoutName = "stacked",
    *,
    centring: Centring = "qwen",
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """Position ids of a start and an end frame of (rows, columns) tokens: two int64 `[rows·columns, 3]`.

    ``stacked``: one image of double height with frame id 0, so the start frame has rows −h … −1 and the end frame
    0 … h−1. ``sequence``: frame ids 0 and 1, each centred on itself.

    Raises:
        InputError: another layout.
    """
    if layout == "sequence":
        start, end = (frame_ids(grid, frame, centring=centring, device=device) for frame in (0, 1))
        return start, end
    if layout != "stacked":
        raise InputError("layout", "must be stacked or sequence", layout, "choose one of them")
    both = frame_ids((2 * grid[0], grid[1]), centring=centring, device=device)
    start, end = both.chunk(2)
    return start, end


def reference_ids(
    tiles: Sequence[Tile],
    grid: Size,
    layout: PairLayoutName = "stacked",
    packing: Packing = "references",
    *,
    centring: Centring = "qwen",
    device: torch.device | None = None,
) -> list[Tensor]:
    """Position ids of remembered frames, one int64 `[rows·columns, 3]` for every tile.

    Args:
        tiles: places of the frames, from the memory pack.
        grid: (rows, columns) of the canvas: those of a start frame.
        layout: of the pair. Its frame ids come first, so references begin at 1 where it is stacked, else at 2.
        packing: ``references``: every frame is centred on itself; ``canvas``: all stand on one centred grid.
    """
    taken = {"stacked": 0, "sequence": 1}[layout]
    if packing == "references":
        return [frame_ids((t.rows, t.cols), t.frame + taken, centring=centring, device=device) for t in tiles]
    rows, cols = (centred(n, centring, device) for n in grid)
    return [_grid_ids(t.frame + taken, rows[t.row : t.row + t.rows], cols[t.col : t.col + t.cols]) for t in tiles]


def text_start(ids: Sequence[Tensor]) -> int:
    """First position of the text: half the longest side of any image (segments with one frame id are one image)."""
    together = torch.cat(list(ids))
    longest = 0
    for frame in together[:, 0].unique():
        places = together[together[:, 0] == frame, 1:]
        longest = max(longest, int((places.amax(0) - places.amin(0)).max()) + 1)
    return longest // 2


def text_ids(length: int, start: int, device: torch.device | None = None) -> Tensor:
    """Position ids of the text, the same on all three axes: int64 `[length, 3]`."""
    return (torch.arange(length, device=device) + start)[:, None].expand(-1, 3)


def _grid_ids(frame: int, rows: Tensor, cols: Tensor) -> Tensor:
    ids = torch.empty(len(rows), len(cols), 3, dtype=torch.int64, device=rows.device)
    ids[..., 0] = frame
    ids[..., 1] = rows[:, None]
    ids[..., 2] = cols[None]
    return ids.flatten(0, 1)
