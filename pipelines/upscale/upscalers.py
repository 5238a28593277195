"""What can make a window's frames larger: interpolation here, the model in `model_upscaler`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ...media.frames import check_finite
from .colour import keep_colour
from .tiles import Size, plan_tiles, upscale_tiles

__all__ = ["INTERPOLATIONS", "Interpolation", "Tiling", "Upscaler", "upscale_window"]

Report = Callable[[float], None]
INTERPOLATIONS = ("bicubic", "lanczos")


class Upscaler(Protocol):
    """Makes a window's frames larger, in one piece or one tile of it.

    Attributes:
        reach: how many pixels of the source around a pixel it looks at; what needs more sees a seam at tiles.
        align: tiles begin at multiples of so many pixels of the source.
        keeps_colour: whether the colours of its frames are the source's as they come.
    """

    @property
    def reach(self) -> int: ...

    @property
    def align(self) -> int: ...

    @property
    def keeps_colour(self) -> bool: ...

    def __call__(self, frames: Tensor, keyframes: Mapping[int, Tensor], size: Size, report: Report) -> Iterator[Tensor]:
        """Upscale `[T, 3, h, w]` in 0…1 to `size` = (H, W), given some frames `[3, H, W]` of that size by their index.

        An index below 0 or from T on is that of a frame of the same shot before or after these.

        Yields parts `[t, 3, H, W]` in order; `report` is told the share that is done, 0…1.
        """
        ...


@dataclass(frozen=True)
class Interpolation:
    """Interpolation of single frames: torch's bicubic (a = −0.75), or Pillow's Lanczos (three lobes)."""

    method: Literal["bicubic", "lanczos"]

    @property
    def reach(self) -> int:
        """Two pixels, or three lobes."""
        return 2 if self.method == "bicubic" else 3

    @property
    def align(self) -> int:
        """Any pixel."""
        return 1

    @property
    def keeps_colour(self) -> bool:
        """Nothing to correct."""
        return True

    def __call__(self, frames: Tensor, keyframes: Mapping[int, Tensor], size: Size, report: Report) -> Iterator[Tensor]:
        """Frame by frame; keyframes are not looked at."""
        for i, frame in enumerate(frames):
            yield self._resize(frame[None], size).clamp(0, 1)
            report((i + 1) / len(frames))

    def _resize(self, frame: Tensor, size: Size) -> Tensor:
        if self.method == "bicubic":
            return functional.interpolate(frame, size, mode="bicubic", align_corners=False, antialias=False)
        planes = [Image.fromarray(plane) for plane in frame[0].cpu().numpy()]
        resized = [np.asarray(plane.resize(size[::-1], Image.Resampling.LANCZOS)) for plane in planes]
        return torch.from_numpy(np.stack(resized))[None].to(frame.device)


@dataclass(frozen=True)
class Tiling:
    """How frames are cut.

    Attributes:
        tile: longest side of a tile in pixels of the source; 0 takes frames whole.
        overlap: pixels of the source that neighbours share and are blended over.
    """

    tile: int = 0
    overlap: int = 0


def upscale_window(
    upscaler: Upscaler,
    frames: Tensor,
    keyframes: Mapping[int, Tensor],
    size: Size,
    tiling: Tiling | None = None,
    *,
    colour: int = 8,
    report: Report = lambda share: None,
    where: str = "",
) -> Iterator[Tensor]:
    """The frames of one window, larger: in tiles, and in the colours of the source.

    Args:
        upscaler: makes the frames.
        frames: `[T, 3, h, w]` in 0…1.
        keyframes: `[3, H, W]` in 0…1, by frame of the window; below 0 or from T on they are frames around it.
        size: (H, W).
        tiling: how frames are cut; None takes them whole.
        colour: side of the cells, in pixels of the source, whose mean colour the result is given, unless the upscaler
            keeps colours itself; 0 leaves them as they come.
        report: told the share that is done, 0…1.
        where: what errors call the window.

    Yields:
        Parts `[t, 3, H, W]` in 0…1, in order.

    Raises:
        InputError: tiles too small, or a model that makes NaN.
    """
    cut = tiling or Tiling()
    tiles = plan_tiles(
        (frames.shape[-2], frames.shape[-1]), size, cut.tile, cut.overlap, reach=upscaler.reach, align=upscaler.align
    )
    done = -1

    def upscale(part: Tensor, pictures: Mapping[int, Tensor], wanted: Size) -> Iterator[Tensor]:
        nonlocal done
        done += 1
        before = done
        return upscaler(part, pictures, wanted, lambda share: report((before + share) / len(tiles)))

    begin = 0
    for part in upscale_tiles(upscale, frames, keyframes, size, tiles):
        check_finite(part, "upscale", where)
        source = frames[begin : begin + len(part)]
        begin += len(part)
        yield keep_colour(part, source.to(part), colour) if colour and not upscaler.keeps_colour else part
