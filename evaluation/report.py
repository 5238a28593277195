"""What a suite leaves in a folder: the figures as JSON, plots, and a sheet of the frames that were measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..core.files import atomic_path, write_atomic
from ..media.frames import to_uint8
from .suite import Suite

__all__ = ["CLIPS_SHOWN", "FRAMES_SHOWN", "PartialReport", "Strip", "variant_label", "write_report", "write_sheet"]

_PAPER, _INK, _MARK = "#15171c", "#f2f3f5", "#ffb000"
_LABEL, _GAP, _EDGE, _ROW_GAP = 190, 4, 24, 22
FRAMES_SHOWN, CLIPS_SHOWN = 12, 4
"""So many frames of a row, so many clips or films."""

Strip = tuple[str, Tensor, Sequence[int]]
"""One row of a sheet: its label, pictures `[n, 3, H, W]`, and the positions of those that get a frame around them."""


class PartialReport:
    """``SUITE_partial.json``: what a run has found so far, written anew as it goes on and removed once it is done.

    It has the rows of ``SUITE.json`` for the stories that are finished, "complete": false, and how many were asked
    for, "stories_asked". A run that was interrupted leaves it behind.

    Args:
        folder: where it lies; made if it is missing.
        facts: what stands before the figures: suite, studio, seed, set.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.path, self._facts = folder / f"{facts['suite']}_partial.json", dict(facts)
        self.kept = ""

    def keep(self, found: Mapping[str, Any], asked: int) -> None:
        """Write the figures of the stories that are finished, whole or not at all."""
        result = {**self._facts, "complete": False, "stories_asked": asked, **found}
        write_atomic(self.path, json.dumps(result, indent=1, allow_nan=False) + "\n")
        self.kept = f"{found['stories']} of {asked} stories are in {self.path}"

    def remove(self) -> None:
        """Remove the file, once the run is complete."""
        self.path.unlink(missing_ok=True)


def write_report(suite: Suite[Any], result: Mapping[str, Any], frames: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``SUITE.json``, ``SUITE.png`` and ``SUITE_frames.png``, each whole or not at all; returns their paths.

    Args:
        suite: says what is plotted and shown.
        result: what `run` returns.
        frames: `Result.frames`.
        folder: made if it is missing.
    """
    from .plots import draw_plots

    data = write_atomic(folder / f"{suite.name}.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    plot = folder / f"{suite.name}.png"
    with atomic_path(plot) as temporary:
        draw_plots(suite.panels(result)).savefig(temporary, format="png", dpi=110)
    return [data, plot, write_sheet(folder / f"{suite.name}_frames.png", suite.strips(result, frames))]


def write_sheet(path: Path, groups: Sequence[Sequence[Strip]]) -> Path:
    """Draw groups of labelled strips under one another and write them as PNG."""
    strips = [strip for group in groups for strip in group]
    height, width = strips[0][1].shape[-2:]
    columns = max(len(frames) for _, frames, _ in strips)
    size = (
        2 * _EDGE + _LABEL + columns * (width + _GAP) - _GAP,
        2 * _EDGE + len(strips) * (height + _GAP) - _GAP + (len(groups) - 1) * _ROW_GAP,
    )
    page = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(17)
    y = _EDGE
    for group in groups:
        for label, frames, marked in group:
            draw.text((_EDGE, y + height // 2), label, _INK, font, anchor="lm")
            for i, frame in enumerate(frames):
                x = _EDGE + _LABEL + i * (width + _GAP)
                page.paste(Image.fromarray(to_uint8(frame), "RGB"), (x, y))
                if i in marked:
                    draw.rectangle((x - 2, y - 2, x + width + 1, y + height + 1), outline=_MARK, width=2)
            y += height + _GAP
        y += _ROW_GAP
    with atomic_path(path) as temporary:
        page.save(temporary, format="PNG")
    return path


def variant_label(variant: str) -> str:
    """A variant's name on the sheet."""
    return {"truth": "ground truth", "ground_truth": "VAE only"}.get(variant, variant.replace("_", " "))
