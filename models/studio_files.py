"""Where a studio's model files are looked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import InputError
from .studio_config import StudioConfig

__all__ = ["find_file", "model_roots"]


def model_roots(config: StudioConfig, file: Path, models_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """Folders in which a studio's relative paths are looked for, in order.

    An explicit `models_dir` (the call's, else the file's, relative to the file) stands alone. Without one:
    ANCHORSHOT_MODELS (folders separated as in PATH), then COMFYUI_PATH's `models`.
    """
    if models_dir is not None:
        return [Path(models_dir).expanduser()]
    if config.models_dir is not None:
        return [file.parent / Path(config.models_dir).expanduser()]
    roots = [Path(p).expanduser() for p in os.environ.get("ANCHORSHOT_MODELS", "").split(os.pathsep) if p.strip()]
    if comfyui := os.environ.get("COMFYUI_PATH", "").strip():
        roots.append(Path(comfyui).expanduser() / "models")
    return roots


def find_file(field: str, names: Sequence[str], roots: Sequence[Path], studio: Path) -> Path:
    """The first of a studio's alternatives that exists in one of the folders.

    Args:
        field: what names it, such as ``keyframe.file``.
        names: the alternatives, absolute or relative to one of the folders.
        roots: the folders, in order.
        studio: the studio's file, for messages.

    Raises:
        InputError: none of them is there.
    """
    for name in names:
        path = Path(name).expanduser()
        for candidate in [path] if path.is_absolute() else [root / path for root in roots]:
            if _exists(candidate):
                return candidate
    shown = names[0] if len(names) == 1 else f"{names[0]} or {len(names) - 1} alternatives"
    if roots:
        fix = f"put it under {' or '.join(map(str, roots))}, or correct the name in {studio.name}"
    else:
        fix = f"set models_dir in {studio.name}, or the environment's ANCHORSHOT_MODELS or COMFYUI_PATH"
    raise InputError(field, "file must exist", shown, fix, studio.name)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, a zero byte
        return False
