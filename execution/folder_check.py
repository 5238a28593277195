"""Whether a film may be made in a folder: what is there, whose it is, and which of its files a film would replace."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..core.files import check_folder
from .manifest import FORMAT, MANIFEST, check_outside, is_ours, read_manifest
from .stage import Kinds

__all__ = ["LOCK", "SCRATCH", "check_run", "in_the_way", "owns"]

LOCK = ".lock"
SCRATCH = ".tmp-work"
"""Where workers write what is not finished yet; nothing of it outlives the run."""


def check_run(
    path: str | os.PathLike[str], kinds: Kinds, *, resume: bool, task: str = "film", field: str = "--out"
) -> dict[str, Any] | None:
    """Refuse a folder that a film cannot be made in, as `open_run` does, without changing anything.

    Returns:
        The manifest of the film that is there, or None.

    Raises:
        InputError: see `open_run`.
    """
    folder = Path(path)
    check_folder(path, field)
    check_outside(folder, field, kinds)
    manifest = _read(folder, field, resume, kinds)
    if manifest is None:
        names = (*kinds.files, *kinds.folders, MANIFEST)
        if not (folder / LOCK).is_file():  # what a killed run leaves before its manifest is there
            names = (*names, SCRATCH)
        taken = [name for name in names if os.path.lexists(folder / name)]
        if taken:
            fix = "choose an empty folder"
            raise InputError(field, "holds files that no film of ours left there", f"{taken[0]} in {path}", fix)
        return None
    _check_places(folder, field, kinds)
    if resume and (other := _task(manifest, task, kinds)) != task:
        fix = "choose another folder, or leave --resume out to make it anew"
        raise InputError(field, f"must hold {kinds[task].title}", f"{kinds[other].title} in {path}", fix)
    return manifest


def owns(folder: str | os.PathLike[str], path: str | os.PathLike[str], kinds: Kinds) -> bool:
    """Whether `path` is one of the files that a film in `folder` writes, replaces or removes; links are followed."""
    name, parent = os.path.basename(path), os.path.dirname(os.path.abspath(path))
    places = {os.path.abspath(path), os.path.realpath(path), os.path.join(os.path.realpath(parent), name)}
    for root in (os.path.abspath(folder), os.path.realpath(folder)):
        for place in map(Path, places):
            if place.is_relative_to(root):
                inner = place.relative_to(root).as_posix()
                if inner in (MANIFEST, LOCK) or inner.split("/")[0] == SCRATCH or kinds.owns(inner):
                    return True
    return False


def _check_places(folder: Path, field: str, kinds: Kinds) -> None:
    """Refuse files where our folders should be and folders where our files should be: no run could go through."""
    scratch = folder / SCRATCH
    if os.path.lexists(scratch) and (scratch.is_symlink() or not scratch.is_dir()):
        raise InputError(field, f"must have a plain folder as its {SCRATCH}", str(scratch), "move it away")
    for name in kinds.folders:
        if os.path.lexists(folder / name) and not (folder / name).is_dir():
            raise InputError(field, f"must have a folder as its {name}", f"a file: {folder / name}", "move it away")
    inner = [path for name in kinds.folders if (folder / name).is_dir() for path in (folder / name).iterdir()]
    for path in (*(folder / name for name in (*kinds.files, MANIFEST, LOCK)), *inner):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and (path.parent == folder or kinds.owns(name)):
            raise in_the_way(field, name, path)


def in_the_way(field: str, name: str, path: Path) -> InputError:
    """The error of a folder that stands where a file of the film belongs."""
    return InputError(field, f"must have a file as its {name}", f"a folder: {path}", "move it away")


def _read(folder: Path, field: str, resume: bool, kinds: Kinds) -> dict[str, Any] | None:
    """The manifest, None if no film of ours is there; a broken one is refused on resuming, and as good as empty to a
    fresh run.
    """
    if not os.path.lexists(folder / MANIFEST):
        return None
    try:
        return read_manifest(folder, kinds)
    except InputError as error:
        if resume:
            rule = f"has a manifest that cannot be resumed ({error.field[:80]}: {error.rule})"
            fix = "start over without --resume, or choose another folder"
            raise InputError(field, rule, str(folder / MANIFEST), fix) from None
        return {"format": FORMAT} if is_ours(folder) else None


def _task(manifest: Mapping[str, Any], wanted: str, kinds: Kinds) -> str:
    """Which kind of film a manifest is of; those without stages are of any."""
    stages = manifest.get("stages", {})
    if not stages:
        return wanted
    return str(manifest.get("task") or kinds.kind_of(stages) or wanted)
