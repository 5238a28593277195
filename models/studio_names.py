"""The studios by name. Nothing heavy is imported, so that a typo is answered at once."""

from __future__ import annotations

import os
from pathlib import Path

from ..core.errors import InputError, closest

__all__ = ["STUDIOS", "built_in", "find_studio"]

STUDIOS = Path(__file__).resolve().parent.parent / "studios"
"""Where the files of the built-in ones lie."""


def find_studio(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a built-in studio (`pocket`, …) or of a path. Raises InputError if there is none."""
    text = os.fspath(name_or_path)
    path = Path(text)
    if path.suffix.lower() in (".yaml", ".yml") or len(path.parts) > 1:
        if not path.is_file():
            raise InputError("studio", "file must exist", text, f"check the path, or use {' or '.join(built_in())}")
        return path
    if text in built_in():
        return STUDIOS / f"{text}.yaml"
    near = closest(text, built_in())
    fix = f"did you mean {near}?" if near else f"use {', '.join(built_in())}, or the path of a studio .yaml"
    raise InputError("studio", "must be a built-in studio or a YAML file", text, fix)


def built_in() -> list[str]:
    """Names of the studios that come along."""
    return sorted(path.stem for path in STUDIOS.glob("*.yaml"))
