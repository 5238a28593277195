"""What the processes of workers share, whether this machine or Ray starts them: where they write, and what they say."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..core.files import atomic_path
from .pool import Runner
from .run_folder import RunFolder
from .stage import Task

__all__ = ["Desk", "Message", "attempt", "collect", "reason_of", "settle_in"]

Message = tuple[Any, ...]
"""What a worker says about its task: ``("report", done, note)`` and ``("say", line)``; last of all ``("done", seconds,
figures)``, ``("refused", error)``, which ends the run, or ``("failed", reason, spoilt)``, where a spoilt worker had
better be replaced."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_FULL_WINDOWS = (19, 39, 112)
"""Windows' own numbers for a write-protected disk and two kinds of full one."""


class Desk:
    """The workspace of a worker: it reads the film's finished files, and writes to a folder of its own.

    Args:
        film: the film's folder, or a copy of what is needed of it.
        own: where outputs go, by their names in the film.
        send: takes messages to the driver.
    """

    def __init__(self, film: Path, own: Path, send: Callable[[Message], None]) -> None:
        self._film, self._own, self._send = film, own, send

    def source(self, name: str) -> Path:
        """Where a finished file lies."""
        return self._film / name

    def target(self, name: str) -> Path:
        """Where to write a file."""
        path = self._own / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def report(self, done: float, note: str = "") -> None:
        """How far the task is."""
        self._send(("report", done, note))

    def say(self, line: str) -> None:
        """A line for people."""
        self._send(("say", line))


def settle_in(threads: int) -> None:
    """Make a fresh process compute as the driver does: bytes depend on the number of threads."""
    import torch

    torch.set_num_threads(threads)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def attempt(crew: Callable[[], Runner], task: Task, desk: Desk, shared: bool = True) -> Message:
    """Make a task; returns the last message about it.

    Args:
        crew: gives the runner.
        task: what to make.
        desk: where.
        shared: whether it writes to the film's own disk: where that is full, no worker can make anything.
    """
    try:
        seconds, figures = crew().run(task, desk)
    except InputError as error:
        return "refused", error
    except Exception as error:
        if shared and (full := _full_disk(error)):
            return "refused", full
        # Out of memory, or an error of a GPU: what spoilt this task may spoil the next one, too.
        return "failed", reason_of(error), isinstance(error, (MemoryError, RuntimeError))
    return "done", seconds, figures


def _full_disk(error: Exception) -> OSError | None:
    """The error as one that any process can read, if it says that a disk is full or cannot be written to."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror, error.filename) if error.errno in _FULL else None
    # safetensors has an error of its own, with the system's number in its text.
    found = re.search(r"I/O error: (.+) \(os error (\d+)\)", str(error))
    if type(error).__name__ != "SafetensorError" or found is None:
        return None
    number = int(found[2])
    return OSError(errno.ENOSPC, found[1]) if number in (_FULL_WINDOWS if os.name == "nt" else _FULL) else None


def reason_of(error: BaseException) -> str:
    """One line about an error."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def collect(task: Task, own: Path, run: RunFolder) -> None:
    """Move what a worker wrote to its place in the film's folder, file by file."""
    for name in task.files:
        made, place = own / name, run.file(name)
        try:
            os.replace(made, place)
        except OSError:  # the film's folders may lie on several disks
            with atomic_path(place) as temporary:
                shutil.copyfile(made, temporary)
            with contextlib.suppress(OSError):
                made.unlink()
