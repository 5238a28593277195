"""What every command shares: the device and its threads, the studio, and progress for people."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..core.errors import InputError, printable
from ..models.studio_names import find_studio
from .streams import Failure, reason_of
from .targets import JsonFile

if TYPE_CHECKING:
    from ..models.studio import Studio

__all__ = ["StageProgress", "check_studio", "console", "open_studio", "pick_device", "print_files", "resumable"]

# What is printed comes from users' files: a name in square brackets is no markup.
console = Console(highlight=False, markup=False, emoji=False)

_QUIET = 30.0
"""Longest time without a word where there is no terminal, in seconds, as long as something goes on."""


class StageProgress:
    """One bar per stage with the time left; without a terminal, one line on stderr per finished thing instead.

    Args:
        unit: what is counted, in the singular; "" where it differs from stage to stage.
    """

    def __init__(self, unit: str = "") -> None:
        self._live, self._unit = console.is_terminal, unit
        self._bars = Progress(
            TextColumn("{task.description:<10}", markup=False),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            *([TextColumn(f"{unit}s")] if unit else []),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=console,
            disable=not self._live,
        )
        self._tasks: dict[str, TaskID] = {}
        self._began = self._told = time.monotonic()

    def __enter__(self) -> StageProgress:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def update(self, stage: str, done: float, total: float, note: str = "") -> None:
        """Set how much of `stage` is done; the stage's clock starts with its first update."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, note=note)
        self._bars.update(self._tasks[stage], completed=done, total=total, note=note)
        if not self._live and time.monotonic() - self._told > _QUIET:
            counted = f"{stage}: {self._unit} {done:g}" if self._unit else f"{stage} {done:g}"
            self._tell(f"{counted} of {total:g}" + (f", {note}" if note else ""))

    def finished(self, stage: str, seconds: float) -> None:
        """A stage such as ``s01/keyframe-0`` is finished, after so many seconds."""
        if not self._live:
            self._tell(f"{stage} made in {seconds:.1f} s")

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        console.print(Text(printable(line)), soft_wrap=True)

    def _tell(self, line: str) -> None:
        self._told = time.monotonic()
        print(f"{self._told - self._began:8.1f} s  {printable(line)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def resumable(out: Path) -> Iterator[StageProgress]:
    """Progress of work in a run folder; Ctrl-C and a full disk say how to go on."""
    how = f"what is finished stays; add --resume to the same command to go on in {out}"
    try:
        with StageProgress("step") as progress:
            yield progress
    except KeyboardInterrupt:
        raise KeyboardInterrupt(how) from None
    except Exception as error:
        reason = reason_of(error)
        if reason is None:
            raise
        raise Failure(f"{reason}; {how}") from error


def check_studio(name: str) -> Path:
    """The file of a studio; refuses (InputError) one that is not there in the moment that a typo deserves."""
    return find_studio(name)


def pick_device(name: str, option: str = "--device") -> str:
    """`auto` → the fastest device there is; anything else is checked.

    Raises:
        InputError: no such device here, or one that cannot compute.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.ones(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(option, "must be a device of this machine", name, f"use cpu ({reason})") from None
    return name


def open_studio(options: argparse.Namespace, target: JsonFile) -> Studio:
    """The studio of a command, on its device, with as many threads as are good for it; see `pick_threads`.

    Raises:
        InputError: no such studio or device, a fault in its file, or --json is one of its files.
    """
    from ..models.studio import load_studio

    studio = load_studio(options.studio, device=pick_device(options.device))
    with contextlib.suppress(InputError):  # missing files are named by the work that needs them
        target.keep_off([*studio.files(), *studio.files("recogniser")])
    pick_threads(options.threads, studio)
    return studio


def pick_threads(wanted: int | None, studio: Studio) -> None:
    """Set torch's threads: those `wanted`; else one for a tiny studio on the CPU, whose tensors are too small to share.

    OMP_NUM_THREADS stands above the choice for tiny studios, and torch's own is left to all others.
    """
    import torch

    if wanted is not None:
        torch.set_num_threads(wanted)
        return
    with contextlib.suppress(InputError):
        if studio.device.type == "cpu" and not os.environ.get("OMP_NUM_THREADS") and studio.is_tiny():
            torch.set_num_threads(1)


def print_files(folder: Path, names: list[str]) -> None:
    """Say where the results are, one a line."""
    for name in names:
        console.print(Text(printable(str(folder / name))), soft_wrap=True)
