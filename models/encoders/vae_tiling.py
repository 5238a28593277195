"""Large frames through a VAE in overlapping tiles, blended where they overlap: memory follows the tile, not the frame.

A network that looks far (attention over the frame, norms over it) sees only its tile, so tiled results are close to
whole ones but not the same; nothing here is used for a frame that fits in one tile. diffusers' own `enable_tiling` is
not taken: its last row and column of tiles may be a sliver of one latent, which is blended over pixels that were right;
its sizes for video count patches for pixels; and it holds all tiles of all frames at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["OVERLAP", "StreamDecoder", "Tiling", "assemble", "cut", "decode_tiles"]

OVERLAP = 4
"""Neighbours overlap by at least a fourth of a tile's side, as in diffusers."""


@dataclass(frozen=True)
class Tiling:
    """When frames are cut into tiles, and how large those are.

    Attributes:
        mode: `on`: every frame larger than a tile. `off`: none. `auto`: those of more than `largest` pixels, and those
            for which the device has not the memory left that a whole one is reckoned to take.
        tile: side of a tile in pixels.
        largest: pixels of the largest frame that `auto` takes whole; None: what the VAE says.
    """

    mode: Literal["auto", "on", "off"] = "auto"
    tile: int = 512
    largest: int | None = None

    def wanted(self, pixels: int, largest: int, need: float, device: torch.device) -> bool:
        """Whether a frame of `pixels`, which takes about `need` bytes on `device` as a whole, is cut."""
        if self.mode != "auto":
            return self.mode == "on"
        free = _free_memory(device)
        return pixels > (self.largest or largest) or (free is not None and need > free)


class StreamDecoder(Protocol):
    """A causal decoder that keeps what it needs of the past, so that a video can come in parts."""

    def __call__(self, z: Tensor) -> Tensor:
        """The next latent frames `[B, C, f, h, w]` → their pixels `[B, 3, t, H, W]` in −1…1, fp32."""
        ...

    def park(self) -> None:
        """Move the past to the host's memory until the next call."""
        ...


class _Span(NamedTuple):
    start: int
    weights: Tensor


def cut(height: int, width: int, side: int, scale: int = 1) -> list[tuple[slice, slice, Tensor]]:
    """Cut a frame into tiles of equal size that overlap evenly.

    Args:
        height, width: of the frame, in latent pixels.
        side: of a tile, in latent pixels, at least 4; a frame that is smaller one way is not cut that way.
        scale: the weights are for `scale` times finer pixels.

    Returns:
        (rows, columns, weights `[rows · scale, columns · scale]`) of each tile. Weights fall off linearly towards a
        tile's inner edges, and add up to 1 everywhere.
    """
    ys, xs = _spans(height, side, scale), _spans(width, side, scale)
    return [
        (
            slice(y.start, y.start + len(y.weights) // scale),
            slice(x.start, x.start + len(x.weights) // scale),
            y.weights[:, None] * x.weights,
        )
        for y, x in product(ys, xs)
    ]


def _spans(length: int, side: int, scale: int) -> list[_Span]:
    if length <= side:
        return [_Span(0, torch.ones(length * scale))]
    overlap = max(1, side // OVERLAP)
    count = math.ceil((length - overlap) / (side - overlap))
    starts = [round(i * (length - side) / (count - 1)) for i in range(count)]
    place = (torch.arange(side * scale) + 0.5) / scale
    weights = []
    for start in starts:
        up = place if start else torch.full_like(place, math.inf)  # the frame's own edge is no edge of a tile
        down = side - place if start + side < length else torch.full_like(place, math.inf)
        weights.append((torch.minimum(up, down) / overlap).clamp(max=1))
    total = torch.zeros(length * scale)
    for start, weight in zip(starts, weights, strict=True):
        total[start * scale : (start + side) * scale] += weight
    return [
        _Span(start, weight / total[start * scale : (start + side) * scale])
        for start, weight in zip(starts, weights, strict=True)
    ]


def assemble(run: Callable[[slice, slice], Tensor], height: int, width: int, side: int, scale: int = 1) -> Tensor:
    """Run a network on every tile and blend what comes out.

    Args:
        run: takes rows and columns of latent pixels, returns `[…, rows · scale, columns · scale]`.
        height, width, side, scale: see `cut`.

    Returns:
        `[…, height · scale, width · scale]`, where `run` leaves its results.
    """
    out: Tensor | None = None
    for rows, columns, weights in cut(height, width, side, scale):
        part = run(rows, columns)
        if out is None:
            out = part.new_zeros(*part.shape[:-2], height * scale, width * scale)
        inner = out[..., rows.start * scale : rows.stop * scale, columns.start * scale : columns.stop * scale]
        inner.addcmul_(part, weights.to(part))
    assert out is not None, "a frame has at least one tile"
    return out


def decode_tiles(
    make: Callable[[], StreamDecoder], z: Tensor, side: int, scale: int, at_once: int, window: int
) -> Iterator[Tensor]:
    """Decode a video tile by tile, `window` latent frames at a time.

    A tile goes through a whole window before the next one begins, so that one tile's past is all that the device
    holds. It holds no pixels: those of a window are put together in the host's memory, where between two windows the
    tiles' pasts wait, too.

    Args:
        make: makes a decoder at its beginning.
        z: `[B, C, F, h, w]`, as the decoder takes it.
        side: of a tile in latent pixels. scale: pixels of a latent pixel's side.
        at_once: latent frames in one call.

    Yields:
        Pixels `[B, 3, t, H, W]` in −1…1 of one window after the other, on the CPU.
    """
    waiting: dict[tuple[int, int], StreamDecoder] = {}
    windows = z.split(window, 2)
    for number, part in enumerate(windows, 1):

        def run(rows: slice, columns: slice, part: Tensor = part, last: bool = number == len(windows)) -> Tensor:
            key = rows.start, columns.start
            decoder = waiting.pop(key, None) or make()
            frames = [decoder(piece).cpu() for piece in part[..., rows, columns].split(at_once, 2)]
            if not last:
                decoder.park()
                waiting[key] = decoder
            return torch.cat(frames, 2)

        yield assemble(run, z.shape[-2], z.shape[-1], side, scale)


def _free_memory(device: torch.device) -> float | None:
    """Bytes that can still be taken on a device; None where that cannot be told."""
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + idle
    if device.type != "cpu":
        return None
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            facts = dict(line.split(":", 1) for line in lines)
        return float(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        return None
