"""What is left of windows and tiles in upscaled clips: ``python -m anchorshot.benchmarks.upscale_seams``.

Upscales clips of the pocket world in one piece and in windows, or in tiles, with the studio's model, and prints how far
the two differ outside of what is blended, in 1/255: the mean, the 99.9th percentile and the largest difference of
squares of 8×8 pixels, the largest of a pixel, and the share of pixels that differ by more than one code. With it the
seconds, each against those of the clip in one piece, and the PSNR of both against the truth.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..models.studio import Studio, load_studio
from ..pipelines.upscale.model_upscaler import ModelUpscaler
from ..pipelines.upscale.tiles import plan_tiles
from ..pipelines.upscale.upscalers import Tiling, upscale_window
from ..pipelines.upscale.windows import plan_windows
from ..pocket.bank import to_tensor
from ..pocket.render import render_clip
from ..pocket.world import make_story

__all__ = ["Difference", "difference", "in_tiles", "in_windows"]

SCALE = 2
KEYFRAMES: dict[str, tuple[int, ...]] = {"none": (), "first": (0,), "often": (0, 20, 41, 63, 80, 97)}
FRAMES, WINDOWS = 113, ((93, 41), (93, 29), (93, 17), (17, 4))
"""Frames of a clip that is cut into windows, and most frames and overlap of these."""
Pair = tuple[int, int]
TILES = ((112, 16), (112, 48), (176, 80), (240, 112))
"""Longest side and overlap of tiles, in pixels of a source of twice the pocket's width."""


class Difference(NamedTuple):
    """In 1/255: of squares of 8×8 pixels, and of pixels; and the share of pixels that differ by over one code."""

    mean: float
    most: float
    largest: float
    pixel: float
    over: float


def difference(parts: Tensor, whole: Tensor, where: Tensor) -> Difference:
    """How far frames `[T, 3, H, W]` in 0…1 differ where the mask `[T, 1, H, W]` is 1."""
    apart = (parts - whole).abs() * 255 * where
    outside = functional.avg_pool2d(where, 8) == 1
    squares = functional.avg_pool2d(apart.mean(1, keepdim=True), 8)[outside]
    pixels = apart.amax(1, keepdim=True)[where == 1]
    most = squares.quantile(0.999) if len(squares) < 10**7 else squares.kthvalue(int(0.999 * len(squares))).values
    over = (pixels > 1).double().mean()
    return Difference(squares.mean().item(), most.item(), squares.max().item(), pixels.max().item(), over.item())


def in_windows(
    studio: Studio, frames: Tensor, keyframes: Mapping[int, Tensor], window: int, overlap: int
) -> tuple[Tensor, Tensor]:
    """A shot in windows, joined as the command joins them, and where nothing is blended `[T, 1, 1, 1]`."""
    upscaler, unblended = ModelUpscaler(studio), torch.ones(len(frames), 1, 1, 1)
    size = (SCALE * frames.shape[-2], SCALE * frames.shape[-1])
    out = torch.zeros(len(frames), 3, *size)
    for own in plan_windows(len(frames), [], sorted(keyframes), window, overlap):
        seen = [k for k in (own.before, *own.keyframes, own.after) if k is not None]
        pictures = {k - own.start: keyframes[k] for k in seen}
        made = torch.cat([*upscale_window(
            upscaler, frames[own.start : own.stop], pictures, size, colour=studio.defaults.upscale.colour_cell
        )])  # fmt: skip
        weight = torch.ones(own.frames, 1, 1, 1)
        weight[: own.unused] = 0
        blended = slice(own.unused, own.unused + own.blend)
        weight[blended, 0, 0, 0] = torch.arange(1, own.blend + 1) / (own.blend + 1)
        unblended[own.start :][blended] = 0
        out[own.start : own.stop] = torch.lerp(out[own.start : own.stop], made, weight)
    return out, unblended


def in_tiles(studio: Studio, frames: Tensor, keyframes: Mapping[int, Tensor], tiling: Tiling) -> tuple[Tensor, Tensor]:
    """A clip in tiles, and where nothing is blended `[1, 1, H, W]`."""
    low, size = tuple(frames.shape[-2:]), (SCALE * frames.shape[-2], SCALE * frames.shape[-1])
    upscaler, unblended = ModelUpscaler(studio), torch.ones(1, 1, *size)
    colour = studio.defaults.upscale.colour_cell
    made = torch.cat([*upscale_window(upscaler, frames, keyframes, size, tiling, colour=colour)])
    for tile in plan_tiles((low[0], low[1]), size, tiling.tile, tiling.overlap, align=upscaler.align):
        for span, dim in ((tile.rows, 2), (tile.columns, 3)):
            if span.shared:
                unblended.narrow(dim, SCALE * span.first, SCALE * span.shared).zero_()
    return made, unblended


def _clip(seed: int, frames: int, wide: int = 1) -> tuple[Tensor, Tensor]:
    """A held-out clip, large and small; `wide` of them side by side."""
    shots = [make_story(seed + 1000 * n, 1, "test").shots[0] for n in range(wide)]
    large = torch.cat([to_tensor(render_clip(shot, frames, scale=SCALE)[0]) for shot in shots], -1)
    return large, functional.avg_pool2d(large, SCALE).mul(255).round() / 255


def _psnr(frames: Tensor, truth: Tensor) -> float:
    return -10 * torch.log10((frames - truth).square().mean()).item()


def _tell(what: str, found: Difference, seconds: float, psnr: float) -> None:
    told = f"{found.mean:.3f} | {found.most:.2f} | {found.largest:.2f} | {found.pixel:.1f} | {found.over:.5%}"
    print(f"| {what} | {told} | {seconds:.2f} | {psnr:.2f} |", flush=True)


def _compare(
    what: str,
    studio: Studio,
    seeds: Sequence[int],
    frames: int,
    keys: Sequence[int],
    cuts: Sequence[Pair],
    wide: int = 1,
) -> None:
    """Print how a clip of so many frames differs where it is cut so: windows, or tiles of one that is `wide`."""
    print(f"\n{what}\n\n| | mean | 99.9 % | largest | pixel | over 1 | time | PSNR |\n|" + " --- |" * 8)
    for seed in seeds:
        truth, small = _clip(seed, frames, wide)
        pictures = {k: truth[k] for k in keys}
        began = time.process_time()
        whole = in_windows(studio, small, pictures, 0, 0)[0]
        taken = time.process_time() - began
        print(f"| clip {seed} in one piece | | | | | | 1 | {_psnr(whole, truth):.2f} |", flush=True)
        for first, shared in cuts:
            began = time.process_time()
            if wide > 1:
                made, where = in_tiles(studio, small, pictures, Tiling(first, shared))
            else:
                made, where = in_windows(studio, small, pictures, first, shared)
            found = difference(made, whole, where.expand(frames, 1, *whole.shape[-2:]))
            label = f"{'tiles' if wide > 1 else 'windows'} of {first}, sharing {shared}"
            _tell(label, found, (time.process_time() - began) / taken, _psnr(made, truth))


def _pair(text: str) -> Pair:
    first, shared = text.split(",")
    return int(first), int(shared)


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studio", default="pocket")
    parser.add_argument("--near", type=int, help="latents attended to on each side; 0: all")
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--what", choices=["windows", "tiles"])
    parser.add_argument("--cuts", type=_pair, nargs="*", metavar="N,SHARED", help="windows or tiles, such as 93,41")
    parser.add_argument("--keyframes", choices=list(KEYFRAMES), nargs="*", default=list(KEYFRAMES))
    options = parser.parse_args(argv)
    studio = load_studio(options.studio)
    if options.near is not None:
        own = studio.defaults.upscale.model_copy(update={"near": options.near or None})
        studio.defaults = studio.defaults.model_copy(update={"upscale": own})
    seeds = range(7, 7 + options.clips)
    if options.what != "tiles":
        for name in options.keyframes:
            keys = [k for k in KEYFRAMES[name] if k < options.frames]
            _compare(f"Windows, keyframes: {name}", studio, seeds, options.frames, keys, options.cuts or WINDOWS)
    if options.what != "windows":
        _compare("Tiles, keyframe: first", studio, seeds, 17, [0], options.cuts or TILES, 2)


if __name__ == "__main__":
    main()
