"""`anchorshot upscale`: a video or a finished film in, a larger one out."""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from ..core.documents import regular_file
from ..core.errors import InputError, printable
from ..pipelines.kinds import check_run, owns
from .console import check_studio, console, open_studio, print_files, resumable
from .film_paths import hand_over
from .targets import JsonFile, check_inputs

if TYPE_CHECKING:
    from ..models.studio import Studio
    from ..pipelines.upscale.job import UpscaleOptions

__all__ = ["read_size", "run"]


def run(options: argparse.Namespace) -> None:
    """Upscale the video and show what was made."""
    video: Path = options.video
    out = options.out if options.out is not None else Path("output") / f"{video.resolve().stem}_upscaled"
    size, cuts = read_size(options.size), _cuts(options.cuts)
    if not options.keyframes.strip():
        fix = "give the path of a folder"
        raise InputError("--keyframes", "must be a folder, auto or none", options.keyframes, fix)
    studio_file = check_studio(options.studio)
    if not video.is_dir():
        regular_file(video, "VIDEO", "video file")
    check_run(out, resume=options.resume, task="upscale")
    inputs = [("VIDEO", video), ("--studio", studio_file)]
    check_inputs(inputs, partial(owns, out))
    target = JsonFile(options.json, [path for _, path in inputs], partial(owns, out))
    # Only sound arguments are worth the seconds that the model libraries take to import.
    from ..pipelines.upscale_video import upscale_video

    studio = open_studio(options, target)
    with resumable(out) as progress:
        summary = upscale_video(
            video,
            studio,
            out,
            scale=options.scale,
            size=size,
            keyframes=options.keyframes,
            cuts=cuts,
            options=_options(options, studio),
            keep_windows=options.keep_windows,
            resume=options.resume,
            progress=progress.update,
            say=progress.say,
            on_finish=progress.finished,
        )
    hand_over(target, summary, out, _show)


def read_size(text: str | None, field: str = "--size", example: str = "1920x1080") -> tuple[int, int] | None:
    """(width, height) of ``1920x1080``. Raises InputError for any other text."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,5})[x×]([0-9]{1,5})", text.strip().lower())
    if match is None:
        raise InputError(field, "must be WIDTHxHEIGHT in pixels", text, f"write e.g. {example}")
    return int(match[1]), int(match[2])


def _cuts(text: str) -> Any:
    if text in ("auto", "none"):
        return text
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise InputError("--cuts", "must be auto, none, or frames from 0", text, "write e.g. 48,97")
    return [int(part) for part in parts]


def _options(options: argparse.Namespace, studio: Studio) -> UpscaleOptions:
    from ..pipelines.upscale.job import UpscaleOptions

    names = ("window", "overlap", "tile", "tile_overlap")
    given = {name: getattr(options, name) for name in names}
    try:
        found = UpscaleOptions.of(studio, options.method, **given, colour=0 if options.no_colour_fix else None)
    except InputError as error:
        raise InputError(f"--{error.field.replace('_', '-')}", error.rule, error.value, error.fix) from None
    if options.tile_overlap is not None and not found.tile:
        raise InputError("--tile-overlap", "goes with --tile", options.tile_overlap, "add e.g. --tile 320")
    return found


def _show(summary: dict[str, Any], out: Path) -> None:
    """What came out, in a line, then where it is."""
    (width, height), (before_w, before_h) = summary["size"], summary["source_size"]
    counts = [(summary[name], name[:-1]) for name in ("frames", "shots", "windows", "keyframes")]
    told = ", ".join(f"{count} {name}{'s' * (count != 1)}" for count, name in counts)
    by = summary["studio"] or summary["method"]
    line = f"{summary['title']} · {before_w}×{before_h} → {width}×{height} by {by} · {told}"
    console.print(Text(printable(line)), soft_wrap=True)
    print_files(out, summary["files"])
