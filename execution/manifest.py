"""What `manifest.json` may hold: read as if somebody else had written it, because somebody may have.

Every value is checked for its type before anything uses it, so a damaged or edited manifest is refused in one line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..core.documents import as_array, as_integer, as_number, as_object, as_text, parse_json, read_bytes
from ..core.errors import InputError
from .stage import Kinds, Record

__all__ = [
    "FORMAT",
    "LISTS",
    "MANIFEST",
    "check_outside",
    "is_ours",
    "numbers",
    "parse_manifest",
    "read_manifest",
    "texts",
]

MANIFEST = "manifest.json"
FORMAT = 1
LISTS = ("again", "stale", "removed")
"""Lists of names in a manifest: stages to make again, stages of an earlier film, files to remove."""
_MAX_BYTES = 64 << 20  # a film of 1000 shots with three keyframes each has about 10 MB
_MAX_VALUES = 6_000_000
_DIGEST = re.compile(r"[0-9a-f]{64}")


def read_manifest(folder: Path, kinds: Kinds) -> dict[str, Any]:
    """The manifest of a folder.

    Raises:
        InputError: it is missing, no regular file, too large, no JSON, of another format, or a value has a type that no
            manifest of ours has; names the value.
    """
    raw = read_bytes(folder / MANIFEST, MANIFEST, limit=_MAX_BYTES, what="manifest")
    return parse_manifest(parse_json(raw, MANIFEST, max_values=_MAX_VALUES), kinds)


def is_ours(folder: Path) -> bool:
    """Whether a `manifest.json` that may be damaged is one of ours: its words, or the lock that a run leaves, say so.

    Other programs have files of that name, too.
    """
    if (folder / ".lock").is_file():
        return True
    try:
        raw = read_bytes(folder / MANIFEST, MANIFEST, limit=_MAX_BYTES, what="manifest")
    except InputError:
        return False
    return b'"format"' in raw and (b'"stages"' in raw or b'"task"' in raw)


def check_outside(folder: Path, field: str, kinds: Kinds) -> None:
    """Refuse (InputError) a place among the keyframes, clips, … of a film: its files would be taken for the film's."""
    for place in {Path(os.path.abspath(folder)), Path(os.path.realpath(folder))}:
        for inner, film in pairwise((place, *place.parents)):
            if inner.name in kinds.folders and os.path.lexists(film / MANIFEST) and is_ours(film):
                fix = f"choose a folder outside of {inner}"
                raise InputError(field, "must not lie among another film's own files", str(folder), fix)


def parse_manifest(data: Any, kinds: Kinds) -> dict[str, Any]:
    """`data` if every value of it has the type that this module's users rely on, else InputError."""
    manifest = as_object(data, "manifest")
    if manifest.get("format") != FORMAT:
        raise InputError("format", f"must be {FORMAT}", manifest.get("format"), "make the film anew")
    if "task" in manifest and manifest["task"] not in list(kinds.kinds):
        raise InputError("task", f"must be one of {', '.join(kinds.kinds)}", manifest["task"], "make the film anew")
    _check_takes(manifest.get("takes", {}), "takes")
    if "earlier" in manifest:
        earlier = as_object(manifest["earlier"], "earlier")
        as_object(earlier.get("facts"), "earlier.facts")
        _check_takes(earlier.get("takes"), "earlier.takes")
    for name in LISTS:
        for i, entry in enumerate(as_array(manifest.get(name, []), name)):
            as_text(entry, f"{name}[{i}]")
    for stage, entry in as_object(manifest.get("stages", {}), "stages").items():
        _check_record(as_object(entry, f"stages.{stage}"), f"stages.{stage}", kinds)
    return manifest


def _check_record(entry: Mapping[str, Any], where: str, kinds: Kinds) -> None:
    unknown = sorted(entry.keys() - Record.__dataclass_fields__.keys())
    if unknown:
        raise InputError(f"{where}.{unknown[0]}", "is not a field of a stage", unknown[0], "make the film anew")
    for name in ("inputs", "outputs"):
        as_object(entry.get(name), f"{where}.{name}")
    for name, digest in entry["outputs"].items():
        if not _DIGEST.fullmatch(as_text(digest, f"{where}.outputs.{name}")):
            raise InputError(f"{where}.outputs.{name}", "must be a SHA-256", digest, "make the film anew")
    as_number(entry.get("seconds", 0.0), f"{where}.seconds", low=0)
    for name, value in as_object(entry.get("info", {}), f"{where}.info").items():
        if check := kinds.figures.get(name):
            check(value, f"{where}.info.{name}")
    if "studio" in entry["inputs"]:
        as_text(entry["inputs"]["studio"], f"{where}.inputs.studio")


def _check_takes(takes: Any, where: str) -> None:
    for shot, take in as_object(takes, where).items():
        as_integer(take, f"{where}.{shot}", low=1, high=2**31)


def texts(value: Any, where: str) -> None:
    """Refuse (InputError) what is no list of texts."""
    for i, text in enumerate(as_array(value, where)):
        as_text(text, f"{where}[{i}]")


def numbers(value: Any, where: str) -> None:
    """Refuse (InputError) what is no list of numbers."""
    for i, number in enumerate(as_array(value, where)):
        as_number(number, f"{where}[{i}]")
