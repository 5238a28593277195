"""Files that are either whole or not there, and their content hashes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

__all__ = ["atomic_path", "file_identity", "model_files", "sha256_file", "write_atomic"]

_BLOCK = 1 << 20
_HASHED_WHOLE = 64 << 20


def _sync(path: Path, flags: int) -> None:
    """Flush `path` to the disk; file systems that cannot do that for folders are left as they are."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, flags)
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
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # No part of the target's own name beyond the suffix: a long name plus a prefix could pass the 255-byte limit.
    temporary = target.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(6)}{target.suffix}")
    try:
        yield temporary
        _sync(temporary, os.O_RDWR)  # content before name: a power cut must not leave a whole name on empty content
        os.replace(temporary, target)
        _sync(target.parent, os.O_RDONLY)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> Path:
    """Write `data` (text as UTF-8 with plain ``\\n``) to `path` so that a reader sees the old or the new file, whole.

    Returns the path written.
    """
    target = Path(path)
    with atomic_path(target) as temporary:
        temporary.write_bytes(data.encode("utf-8") if isinstance(data, str) else bytes(data))
    return target


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of the file's content as 64 lower-case hex digits; memory does not grow with its size."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def model_files(path: Path) -> list[Path]:
    """What of a model's file or folder its results depend on: the file, or the folder's weights and settings."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in (".safetensors", ".json", ".model"))


def file_identity(file: Path) -> str:
    """A text that changes with a file: its hash; above 64 MiB size, time of change and the hash of its first MiB."""
    state = file.stat()
    if state.st_size <= _HASHED_WHOLE:
        return sha256_file(file)
    with file.open("rb") as opened:
        head = hashlib.sha256(opened.read(_BLOCK)).hexdigest()
    return f"{state.st_size}|{state.st_mtime_ns}|{head}"
