"""What a studio's video model can film: which set by default, films of what size and length. Nothing is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....core.errors import InputError
from ....models.layouts.pairs import PATCH
from ....pipelines.story_stage import story_grid, story_parts
from ....pocket.world import HEIGHT, WIDTH

if TYPE_CHECKING:
    from ....models.studio import Studio

__all__ = [
    "FRAMES",
    "check_files",
    "check_frames",
    "check_pocket_size",
    "check_size",
    "choose_set",
    "natural_length",
    "size_multiple",
]

FRAMES = 17
"""Length of a segment of the pocket world: the longest single chunk that the pocket model was trained on."""

_LEAST = 64
"""Shortest side: below, LPIPS' AlexNet has nothing left to compare."""


def choose_set(studio: Studio, name: str | None = None) -> str:
    """The set that is filmed: `name`, or by default `pocket` where the studio can make its films, else `benchmark`.

    Raises:
        InputError: `pocket`, whose size or length this studio cannot make, or a VAE's file that cannot be read.
    """
    if name not in (None, "pocket"):
        return str(name)
    grid = story_grid(studio)
    fault = f"segments of {FRAMES} frames, and the studio's have {grid}n+1" if (FRAMES - 1) % grid else None
    if fault is None and (HEIGHT % (side := size_multiple(studio)) or WIDTH % side):
        fault = f"films of {WIDTH}x{HEIGHT}, and the studio's sides are multiples of {side}"
    if fault is None:
        return "pocket"
    if name is not None:
        rule = f"must be one that {studio.name} can make: pocket has {fault}"
        raise InputError("set", rule, name, "use benchmark, or leave it out")
    return "benchmark"


def check_files(studio: Studio, clip: bool = True) -> None:
    """Look for the files that films need.

    Args:
        studio: the models.
        clip: whether the studio's CLIP is needed.

    Raises:
        InputError: the first that is missing.
    """
    parts, text = story_parts(studio), studio.config.keyframe_text
    pooled = "keyframe_text" in parts and text is not None and text.clip_text is None  # then by the studio's CLIP
    studio.check(*(part for part in parts if part != "clip" or clip or pooled))


def natural_length(studio: Studio) -> tuple[tuple[int, int], int]:
    """(height, width) and frames of a segment that a studio's video model was made for."""
    if studio.name == "pocket":
        return (HEIGHT, WIDTH), FRAMES
    channels, pixels = studio.latent_pixel()
    (height, width), frames, _ = studio.backbone.native(channels)
    side, grid = pixels * PATCH, story_grid(studio)  # of no effect on the models known here
    return (_near(height, side), _near(width, side)), (frames - 1) // grid * grid + 1


def size_multiple(studio: Studio) -> int:
    """What height and width in pixels must divide by: a patch of the VAE's latent cells."""
    return studio.latent_pixel()[1] * PATCH


def check_size(studio: Studio, size: tuple[int, int]) -> None:
    """Refuse a (height, width) that the studio cannot make or that is too small to score (InputError)."""
    side = size_multiple(studio)
    if min(size) < _LEAST or any(value % side for value in size):
        near = "x".join(str(_near(value, side)) for value in reversed(size))
        seen = "x".join(str(value) for value in reversed(size))
        raise InputError("size", f"must be multiples of {side}, at least {_LEAST}", seen, f"use {near}")


def check_pocket_size(prompt_set: str, size: object, frames: object) -> None:
    """Refuse a size or length for the pocket world, whose films have their own (InputError)."""
    shown = "x".join(map(str, reversed(size))) if isinstance(size, tuple) else size
    for name, value in (("size", shown), ("frames", frames)):
        if value is not None and prompt_set == "pocket":
            raise InputError(name, "is for a set of prompt pairs", value, "leave it out, or tell the set benchmark")


def check_frames(studio: Studio, frames: int) -> None:
    """Refuse a segment's length off the grid of the studio's video model (InputError)."""
    grid = story_grid(studio)
    whole = isinstance(frames, int) and not isinstance(frames, bool)
    if not whole or frames < 1 or (frames - 1) % grid:
        lower = max(0, (frames - 1) // grid) * grid + 1 if whole else 1
        rule = f"must be {grid}n+1, as {studio.name}'s VAE needs"
        raise InputError("frames", rule, frames, f"use {lower} or {lower + grid}")


def _near(value: int, side: int) -> int:
    """The multiple of `side` next to `value` that is large enough."""
    return max(-(-_LEAST // side), round(value / side)) * side
