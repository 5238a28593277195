"""What every command shares: the device, the JSON file, and progress on stdout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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

from ..story.errors import InputError
from ..story.files import write_atomic

__all__ = ["StageProgress", "check_json_path", "console", "pick_device", "write_json"]

console = Console(highlight=False)


class StageProgress:
    """One bar per stage with the time left; without a terminal, one line per finished thing instead."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

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

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        console.print(Text(line), soft_wrap=True)


@contextmanager
def resumable(out: Path) -> Iterator[StageProgress]:
    """Progress of work in a run folder; Ctrl-C says how to go on."""
    try:
        with StageProgress() as progress:
            yield progress
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"what is finished stays; add --resume to the same command to go on in {out}") from None


def pick_device(name: str) -> str:
    """`auto` → the fastest device there is; anything else is checked.

    Raises:
        InputError: no such device here.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError("--device", "must be a device of this machine", name, f"use cpu ({reason})") from None
    return name


def check_json_path(path: Path | None) -> None:
    """Refuse a file that cannot be written before hours of work end in it."""
    if path is None:
        return
    if path.is_dir():
        raise InputError("--json", "must be a file, not a folder", str(path), "add a file name")
    for parent in path.absolute().parents:
        if parent.exists():
            if not parent.is_dir():
                raise InputError("--json", "must lie in a folder", str(path), f"{parent} is a file")
            return


def write_json(path: Path | None, data: Any) -> None:
    """Write `data` as JSON if a file was asked for."""
    if path is not None:
        write_atomic(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
