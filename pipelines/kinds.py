"""The kinds of film that this package makes, and their folders. A new stage is one file and one word in a line here."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..execution import folder_check, manifest, run_folder
from ..execution.run_folder import RunFolder
from ..execution.stage import FilmKind, Kinds
from .stages.clips import Clips
from .stages.decode import Decode
from .stages.extension import Append, Extension, Given
from .stages.join import Join
from .stages.keyframes import Keyframes
from .stages.pairs import Pairs
from .stages.prompts import Prompts
from .stages.scan import Scan
from .stages.segments import Backward, Segments
from .stages.sheet import PairSheet, Sheet, TextSheet, Weights
from .stages.upscale import ShotWindows, Upscaled, UpscaledFilm, Windows

__all__ = ["KINDS", "check_outside", "check_run", "open_run", "owns"]

KINDS = Kinds(
    FilmKind("film", "a film with keyframes", (Keyframes, Clips, Join, Sheet, ShotWindows, UpscaledFilm)),
    FilmKind(
        "pairs", "a film of start and end frames", (Pairs, Prompts, Clips, Join, PairSheet, ShotWindows, UpscaledFilm)
    ),
    FilmKind("tell", "a told film", (Segments, Backward, Decode, Join, TextSheet, Weights)),
    FilmKind("upscale", "an upscaled video", (Scan, Windows, Upscaled)),
    FilmKind("extend", "an extended video", (Given, Extension, Append)),
)


def check_run(
    path: str | os.PathLike[str], *, resume: bool, task: str = "film", field: str = "--out"
) -> dict[str, Any] | None:
    """Refuse (InputError) a folder that a film cannot be made in; see `folder_check.check_run`."""
    return folder_check.check_run(path, KINDS, resume=resume, task=task, field=field)


def open_run(
    path: str | os.PathLike[str], *, resume: bool, task: str = "film", field: str = "--out"
) -> AbstractContextManager[RunFolder]:
    """Open the folder of a film for one run; see `run_folder.open_run`."""
    return run_folder.open_run(path, KINDS, resume=resume, task=task, field=field)


def owns(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> bool:
    """Whether `path` is one of the files that a film in `folder` writes; see `folder_check.owns`."""
    return folder_check.owns(folder, path, KINDS)


def check_outside(folder: Path, field: str) -> None:
    """Refuse (InputError) a place among the files of a film; see `manifest.check_outside`."""
    manifest.check_outside(folder, field, KINDS)
