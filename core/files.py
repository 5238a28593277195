"""Files that are either whole or not there, and their content hashes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from .documents import regular_file
from .errors import InputError

__all__ = [
    "TEMPORARY", "atomic_path", "check_folder", "file_identity", "is_temporary", "model_files", "sha256_file",
    "sync_file", "write_atomic",
]  # fmt: skip

TEMPORARY = re.compile(r"\.tmp-\d+-[0-9a-f]{12}(\.\w+)?")
"""Names that `atomic_path` gives to files that are not finished."""
_BLOCK = 1 << 20
_HASHED_WHOLE = 64 << 20
_MODEL_SUFFIXES = (".safetensors", ".json", ".model")
_MOST_ENTRIES = 20_000  # a model's folder has some dozen


def sync_file(path: Path) -> None:
    """Flush a file's content to the disk. Raises OSError where that fails: what was written may not be there."""
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    """Flush a folder's list of names; not every system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` in one step, on any error it is removed.

    The temporary name keeps the suffix (``.mp4``, ``.png``), because writers choose their format by it, and starts
    with a dot, so that a listing of finished outputs never shows half a file. Missing parent folders are made. A
    body that writes nothing leaves `path` untouched and raises `FileNotFoundError`.

    Raises:
        OSError: the disk is full or fails (also when the content is flushed), or a folder stands at `path`.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # No part of the target's own name beyond the suffix: a long name plus a prefix could pass the 255-byte limit.
    temporary = target.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(6)}{target.suffix}")
    try:
        yield temporary
        sync_file(temporary)  # content before name: a power cut must not leave a whole name on empty content
        os.replace(temporary, target)
        _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> Path:
    """Write `data` (text as UTF-8 with plain ``\\n``) to `path` so that a reader sees the old or the new file, whole.

    Returns the path written. Raises OSError as `atomic_path`.
    """
    target = Path(path)
    with atomic_path(target) as temporary:
        temporary.write_bytes(data.encode("utf-8") if isinstance(data, str) else bytes(data))
    return target


def is_temporary(path: Path) -> bool:
    """Whether `path` is a regular file (no link) by a name of `TEMPORARY`."""
    try:
        return TEMPORARY.fullmatch(path.name) is not None and stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def check_folder(path: str | os.PathLike[str], field: str) -> None:
    """Refuse what is no folder that files can be written in, and cannot become one. Nothing is made.

    Raises:
        InputError: a file or a link to nothing in its place or on the way, no permission, or a path that the system
            does not take.
    """
    folder = Path(path)
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        usable, reason = os.access(there, os.W_OK | os.X_OK), f"{there} cannot be written to"
        with contextlib.suppress(FileNotFoundError):
            os.lstat(folder)  # names that are too long and the like show only here
        if not there.is_dir():
            usable, reason = False, f"{there} is a file"
        elif os.path.lexists(folder) and not folder.exists():
            usable, reason = False, "a link to nothing is in its place"
    except (OSError, ValueError) as error:
        usable, reason = False, getattr(error, "strerror", None) or str(error)
    if not usable:
        raise InputError(field, "must be a writable folder", str(path), f"choose another ({reason})")


def sha256_file(path: str | os.PathLike[str], field: str = "file") -> str:
    """Return the SHA-256 of the file's content as 64 lower-case hex digits; memory does not grow with its size.

    Raises:
        InputError: no regular file, see `regular_file`; a pipe or device would never end.
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with regular_file(path, field).open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def model_files(path: Path, field: str = "file") -> list[Path]:
    """What of a model's file or folder its results depend on: the file, or the folder's weights and settings.

    Raises:
        InputError: neither a regular file nor a folder, or a folder with more in it than a model has.
    """
    if not path.is_dir():
        return [regular_file(path, field, "model file")]
    found, seen = [], 0
    for folder, _, names in os.walk(path):
        seen += 1 + len(names)
        if seen > _MOST_ENTRIES:
            fix = "name the model's own folder, or its file"
            raise InputError(field, f"must be a model's folder, with at most {_MOST_ENTRIES} files", str(path), fix)
        found += [Path(folder, name) for name in names if name.endswith(_MODEL_SUFFIXES)]
    return sorted(found)


def file_identity(file: Path) -> str:
    """A text that changes with a file: its hash; above 64 MiB size, time of change and the hash of its first MiB.

    Raises:
        InputError: no regular file.
        OSError: it cannot be read.
    """
    state = regular_file(file, "file", "model file").stat()
    if state.st_size <= _HASHED_WHOLE:
        return sha256_file(file)
    with file.open("rb") as opened:
        head = hashlib.sha256(opened.read(_BLOCK)).hexdigest()
    return f"{state.st_size}|{state.st_mtime_ns}|{head}"
