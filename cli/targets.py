"""Where a command's results go: looked at before any work starts, so that hours of it do not end in a bad path."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..core.files import write_atomic
from .streams import Failure, reason_of

__all__ = ["JsonFile", "check_inputs", "printed_anyway"]

_FIELD = "--json"
Owns = Callable[[Path], bool]


class JsonFile:
    """The file of `--json`.

    A new file appears whole at the end. A pipe, a terminal or another stream is written to as it stands, and never
    replaced. What is no JSON is never replaced either.

    Args:
        path: the file, or None: then nothing is written.
        inputs: files that the command reads.
        owns: whether a path is one of the files that the command writes elsewhere.

    Raises:
        InputError: a folder, a block device, an input or output of the command, a file that holds no JSON, a manifest,
            or a place that cannot be written to.
    """

    def __init__(self, path: Path | None, inputs: Iterable[Path] = (), owns: Owns = lambda path: False) -> None:
        self._target: Path | None = None
        self._stream: int | None = None
        if path is None:
            return
        try:
            mode = _mode(path)
            if _is_stream(path, mode):
                self._stream = _open_stream(path)
                return
            self._target = Path(os.path.realpath(path)) if path.is_symlink() else path
            _check_file(self._target, mode)
            self.keep_off(inputs)
            if owns(self._target):
                raise InputError(_FIELD, "must not be a file of the command's own", str(path), "give another name")
            _try_to_write(self._target)
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(
                _FIELD, "must be a file that can be written", str(path), f"choose another ({reason})"
            ) from None

    def keep_off(self, inputs: Iterable[Path]) -> None:
        """Refuse (InputError) to replace one of these files."""
        if self._target is None or not self._target.exists():
            return
        for path in inputs:
            with contextlib.suppress(OSError):
                if self._target.samefile(path):
                    fix = "give the name of a new file"
                    raise InputError(_FIELD, "must not be a file that the command reads", str(self._target), fix)

    def write(self, data: Any) -> None:
        """Write `data` as JSON; raises OSError."""
        text = (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        if self._target is not None:
            write_atomic(self._target, text)
        elif self._stream is not None:
            sys.stdout.flush()  # which may be the same
            with os.fdopen(self._stream, "wb") as stream:
                self._stream = None
                stream.write(text)


@contextlib.contextmanager
def printed_anyway(show: Callable[[], None], kept: str = "") -> Iterator[None]:
    """Show results also where the block, which writes them to --json, fails; then that is told (Failure).

    Args:
        show: prints the results.
        kept: what is there all the same, for the message.
    """
    try:
        yield
    except Exception as error:
        reason = reason_of(error)
        if reason is None:
            raise
        raise Failure(f"--json could not be written ({reason}){kept and f'; {kept}'}") from error
    finally:
        show()


def check_inputs(inputs: Iterable[tuple[str, Path]], owns: Owns) -> None:
    """Refuse (InputError) an input, given with the name of its field, that the command itself would replace."""
    for field, path in inputs:
        if owns(path):
            raise InputError(field, "must not be a file that the command replaces", str(path), "copy it elsewhere")


def _mode(path: Path) -> int | None:
    """What stands at `path`, None for nothing; links are followed."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_stream(path: Path, mode: int | None) -> bool:
    """Whether `path` is written to as it stands."""
    if mode is None or not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISREG(mode)):
        return False
    return not stat.S_ISREG(mode) or _descriptor(path) is not None


def _descriptor(path: Path) -> int | None:
    """The number of the open file that a path such as /dev/stdout or /dev/fd/3 leads to, None for any other."""
    place = os.path.abspath(path)
    for _ in range(40):
        folder, name = os.path.split(place)
        if os.path.realpath(folder) == f"/proc/{os.getpid()}/fd" and name.isdecimal():
            return int(name)
        if not os.path.islink(place):
            break
        place = os.path.join(folder, os.readlink(place))
    return None


def _open_stream(path: Path) -> int:
    """Open a stream now, while nothing is lost yet; without waiting for a reader."""
    own = _descriptor(path)
    if own is not None:
        return os.dup(own)  # opened anew, a file would be written from its start, over what is printed
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_NONBLOCK", 0))
    os.set_blocking(descriptor, True)
    return descriptor


def _check_file(path: Path, mode: int | None) -> None:
    if mode is None:
        return
    if stat.S_ISDIR(mode):
        raise InputError(_FIELD, "must be a file, not a folder", str(path), "add a file name")
    if not stat.S_ISREG(mode):
        raise InputError(_FIELD, "must be a file or a stream", f"a device or socket: {path}", "give a file name")
    if path.name == "manifest.json":
        raise InputError(_FIELD, "must not replace a film's manifest", str(path), "give another name")
    if not os.access(path, os.W_OK):
        raise InputError(_FIELD, "must be a file that can be written", str(path), "change its permissions")
    with path.open("rb") as file:
        start = file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")
    if start and start[:1] not in (b"{", b"["):
        raise InputError(_FIELD, "must not replace a file that holds no JSON", str(path), "give the name of a new file")


def _try_to_write(path: Path) -> None:
    """Make a file in the folder, or in the one that its folders will be made in, and remove it."""
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if not there.is_dir():
        raise InputError(_FIELD, "must lie in a folder", str(path), f"{there} is a file")
    trial = there / f".tmp-{os.getpid()}-{secrets.token_hex(6)}{path.suffix}"
    try:
        trial.touch(exist_ok=False)
    finally:
        trial.unlink(missing_ok=True)
