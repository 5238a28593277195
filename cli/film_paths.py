"""The paths of a film's command, checked before any model library is imported, and its results handed over."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from ..pipelines.kinds import check_run, owns
from ..story.storyboard import Storyboard
from .console import check_studio
from .targets import JsonFile, check_inputs, printed_anyway

__all__ = ["check_paths", "hand_over", "images"]


def check_paths(
    options: argparse.Namespace, out: Path, pictures: Iterable[Path] = (), *, resume: bool, task: str
) -> JsonFile:
    """Refuse (InputError) a studio, folder or --json that cannot be used, and inputs that the film would replace.

    Args:
        options: of the command: `story`, `studio` and `json`.
        out: the film's folder.
        pictures: the storyboard's own.
        resume, task: as `open_run` takes them.

    Returns:
        Where --json goes.
    """
    studio = check_studio(options.studio)
    check_run(out, resume=resume, task=task)
    inputs = [("STORY", options.story), ("--studio", studio), *(("image", picture) for picture in pictures)]
    check_inputs(inputs, partial(owns, out))
    return JsonFile(options.json, [path for _, path in inputs], partial(owns, out))


def images(story: Storyboard) -> list[Path]:
    """The storyboard's own pictures."""
    paths = [story.image_path(keyframe) for shot in story.shots for keyframe in shot.keyframes]
    return [path for path in dict.fromkeys(paths) if path is not None]


def hand_over(
    target: JsonFile, summary: dict[str, Any], out: Path, show: Callable[[dict[str, Any], Path], None]
) -> None:
    """Write --json and show the film; a file that cannot be written any more is told after that."""
    with printed_anyway(partial(show, summary, out), f"the film is complete in {out}"):
        target.write(summary)
