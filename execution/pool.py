"""Who makes tasks: what every pool can do, the runner inside each of its processes, and the pool of this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .run_folder import RunFolder
from .stage import Stage, Task

__all__ = ["Crew", "Executor", "Here", "Listener", "LocalExecutor", "Outcome", "Pool", "Runner"]


class Listener(Protocol):
    """Hears how far tasks are."""

    def report(self, task: Task, done: float, note: str = "") -> None:
        """`done` of the task's units are done."""

    def say(self, line: str) -> None:
        """A line for people."""


class Runner:
    """Makes tasks one after the other in one process, and keeps the models of the stage that it is at.

    Args:
        stages: one object of every stage.
        release: lets go of these parts of the studio, of all where none is named.
    """

    def __init__(self, stages: Sequence[Stage], release: Callable[..., None]) -> None:
        self.stages = {stage.name: stage for stage in stages}
        self._release = release
        self._parts: tuple[str, ...] = ()

    def run(self, task: Task, workspace: Any) -> tuple[float, list[dict[str, Any]]]:
        """Make a task; returns the seconds that it took and the figures of each of its results."""
        stage = self.stages[task.stage]
        self._make_room(stage.parts)
        begin = time.perf_counter()
        figures = [dict(found) for found in stage.make(task, workspace)]
        return time.perf_counter() - begin, figures

    def empty(self) -> None:
        """Release all models: those that were needed for planning take room from the workers'."""
        self._release()
        self._parts = ()

    def _make_room(self, parts: tuple[str, ...]) -> None:
        """Release what the stage before used and this one does not: on a large studio both do not fit."""
        unused = [part for part in self._parts if part not in parts]
        if unused:
            self._release(*(unused if parts else ()))
        self._parts = parts


class Crew(Protocol):
    """Makes a film's runner, in whatever process it is called; can be pickled."""

    @property
    def device(self) -> str:
        """The kind of device that the models compute on, such as ``cpu`` or ``cuda``."""

    def __call__(self, device: str | None = None) -> Runner:
        """A runner whose models compute on `device`, by default where the studio says."""


@dataclass
class Outcome:
    """What became of a task.

    Attributes:
        seconds: how long it took.
        figures: those of each of its results.
        failure: why it failed, in a few words; None if it did not. Its files are in their places then.
    """

    task: Task
    seconds: float = 0.0
    figures: Sequence[dict[str, Any]] = ()
    failure: str | None = None


class Pool(Protocol):
    """Makes tasks. An error of the input ends `wait` as `InputError`; other failures become outcomes."""

    def free(self, task: Task) -> bool:
        """Whether `task` can be started now."""

    def start(self, task: Task) -> None:
        """Have a task made; what it reads is in the folder."""

    def wait(self) -> Sequence[Outcome]:
        """Block until something is finished; returns that."""


class Executor(Protocol):
    """Opens a pool for one film; closing it ends all of its workers at once."""

    def open(self, crew: Crew, runner: Runner, run: RunFolder, listener: Listener) -> AbstractContextManager[Pool]:
        """A pool that works in the folder of `run`; `runner` is this process's own."""


class _InPlace:
    """The workspace of this process: outputs are written where they belong, each in one step."""

    def __init__(self, task: Task, run: RunFolder, listener: Listener) -> None:
        self._task, self._run, self._listener = task, run, listener

    def source(self, name: str) -> Path:
        """Where a finished file lies."""
        return self._run.path / name

    def target(self, name: str) -> Path:
        """Where to write a file."""
        return self._run.file(name)

    def report(self, done: float, note: str = "") -> None:
        """How far the task is."""
        self._listener.report(self._task, done, note)

    def say(self, line: str) -> None:
        """A line for people."""
        self._listener.say(line)


class Here:
    """The pool of this process: a task is made while `wait` is called. Whatever goes wrong is raised as it is."""

    def __init__(self, runner: Runner, run: RunFolder, listener: Listener) -> None:
        self._runner, self._run, self._listener = runner, run, listener
        self._task: Task | None = None

    def free(self, task: Task) -> bool:
        """Whether nothing is being made: this process makes one task at a time."""
        return self._task is None

    def start(self, task: Task) -> None:
        """Take a task on."""
        self._task = task

    def wait(self) -> Sequence[Outcome]:
        """Make it."""
        task, self._task = self._task, None
        if task is None:
            return []
        return [Outcome(task, *self._runner.run(task, _InPlace(task, self._run, self._listener)))]

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class LocalExecutor:
    """Makes everything in this process."""

    def open(self, crew: Crew, runner: Runner, run: RunFolder, listener: Listener) -> AbstractContextManager[Pool]:
        """The pool of this process."""
        return Here(runner, run, listener)
