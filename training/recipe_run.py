"""What every run of a recipe file begins with: its folder, its processes, and how long it trains."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from accelerate import PartialState

from ..models.studio_config import StudioConfig, read_studio
from .checkpoint import check_folder
from .loop import LoopConfig, train
from .recipe import Recipe

__all__ = ["RecipeRun", "begin", "folder_of", "studio_of"]

#: how long processes wait while the main one prepares a data set
_PATIENCE = timedelta(hours=48)


class _Recipe(Protocol):
    @property
    def name(self) -> str: ...


R = TypeVar("R", bound=_Recipe)


def folder_of(path: Path, read: Callable[[Path], _Recipe], out: Path | None = None, resume: bool = False) -> Path:
    """The folder that a run of a recipe file would write to.

    Args:
        path: the recipe.
        read: reads it.
        out: the folder; default ``runs/<name>``.
        resume: whether a checkpoint may be in it.

    Raises:
        InputError: a faulty recipe, or checkpoints in the way without `resume`.
    """
    folder = out or Path("runs") / read(path).name
    check_folder(folder, resume)
    return folder


@dataclass(frozen=True)
class RecipeRun(Generic[R]):
    """A run that has begun.

    Attributes:
        recipe: what its file says.
        folder: where it writes.
        processes: those that share its batches.
        steps: train only so many, as a trial; None: as the recipe says.
    """

    recipe: R
    folder: Path
    processes: PartialState
    steps: int | None

    @property
    def weights(self) -> Path | None:
        """Where weights go; a trial writes none."""
        return None if self.steps is not None else self.folder / "weights"

    def train(self, job: Recipe[Any, Any], config: LoopConfig, shard: bool) -> None:
        """Train; see `loop.train`."""
        config = replace(config, shard=shard)
        if self.steps is not None:
            config = replace(config, steps=min(self.steps, config.steps), warmup=min(5, config.warmup), log_every=1)
        train(job, config, self.folder, cpu=self.processes.device.type == "cpu")


def begin(
    path: Path,
    read: Callable[[Path], R],
    out: Path | None,
    resume: bool,
    device: str,
    steps: int | None,
    threads: int | None,
) -> RecipeRun[R]:
    """Begin a run in this process; the other processes do the same, and may come when the main one writes already.

    Args:
        path: the recipe.
        read: reads it.
        out, resume: see `folder_of`.
        device: ``auto`` lets accelerate choose, ``cpu`` stays on the CPU.
        steps: of a trial.
        threads: CPU threads of each process; None leaves them as they are.

    Raises:
        InputError: see `folder_of`.
    """
    main = os.environ.get("RANK", "0") == "0"
    folder = folder_of(path, read, out, resume or not main)
    processes = PartialState(cpu=device == "cpu", timeout=_PATIENCE)
    if threads is not None:
        torch.set_num_threads(threads)
    return RecipeRun(read(path), folder, processes, steps)


def studio_of(recipe: Path, studio: str) -> tuple[StudioConfig, Path]:
    """The studio that a recipe names: a file beside it, or one of the names that come along."""
    beside = recipe.parent / studio
    return read_studio(beside if beside.is_file() else studio)
