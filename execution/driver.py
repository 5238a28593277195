"""Drives a film through its stages: what is pending, in what order, and what the manifest is told.

This is the only place that goes from "pending" to "finished", and the only process that writes the manifest, whoever
makes the tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .pool import Crew, Executor, Outcome, Pool
from .run_folder import RunFolder
from .stage import Stage, Task

__all__ = ["ATTEMPTS", "Progress", "TasksFailed", "run_stages"]

ATTEMPTS = 3
"""How often a task is tried by workers. In one process a failure ends the run at once, because it would fail again."""
_TOLD = 3
"""Reasons of failures that are told."""


class Progress(Protocol):
    """Called as work goes on: `done` of `total` units of a stage."""

    def __call__(self, stage: str, done: float, total: float, note: str = "") -> None: ...


class TasksFailed(Exception):
    """Some tasks failed for good; all that could be made without them is in the folder. One line for people."""


@dataclass(eq=False)
class _Item:
    """A task and how far it has come.

    Attributes:
        inputs: those of each of its results, once they are asked for.
        kept: it is there already.
        settled: all of it is there, and all that it needs: what needs it may begin.
    """

    task: Task
    stage: Stage
    inputs: Mapping[str, Mapping[str, Any]] | None = None
    kept: bool = False
    running: bool = False
    settled: bool = False
    attempts: int = 0
    failure: str | None = None


@dataclass
class _Bar:
    """The progress of a stage, in its tasks' units."""

    total: float = 0.0
    done: float = 0.0
    begun: bool = False
    running: dict[str, float] = field(default_factory=dict)
    note: str = ""


def run_stages(run: RunFolder, executor: Executor, crew: Crew, progress: Progress, say: Callable[[str], None]) -> None:
    """Make all that is missing or out of date.

    Tasks begin in the order of their stages and of the film, as soon as what they need is there and a worker is free.

    Args:
        run: the open folder.
        executor: who makes the tasks.
        crew: makes the runner of each process, with all stages in order.
        progress, say: where progress and lines for people go.

    Raises:
        InputError: something given cannot be used.
        TasksFailed: tasks failed for good; everything else is finished.
        Exception: what a task raised in this process.
    """
    runner = crew()
    driver = _Driver(list(runner.stages.values()), run, progress, say)
    with executor.open(crew, runner, run, driver) as pool:
        driver.drive(pool)


class _Driver:
    """The listener of its pool, too: what workers report ends up in the bars of the stages."""

    def __init__(self, stages: Sequence[Stage], run: RunFolder, progress: Progress, say: Callable[[str], None]) -> None:
        self._run, self._progress, self.say = run, progress, say
        self._items = [_Item(task, stage) for stage in stages for task in stage.tasks(run)]
        self._by_key = {item.task.key: item for item in self._items}
        self._open = list(self._items)
        self._settled: set[str] = set()
        self._bars = {stage.name: _Bar() for stage in stages}
        for item in self._items:
            self._bars[item.stage.name].total += item.task.units

    def drive(self, pool: Pool) -> None:
        """Hand out tasks until all are settled, or none can be made any more."""
        self._look()
        while True:
            for item in self._open:
                if self._ready(item) and pool.free(item.task):
                    item.running = True
                    pool.start(item.task)
            if not any(item.running for item in self._open):
                break
            for outcome in pool.wait():
                self._settle(outcome)
            self._look()
        if self._open:
            raise TasksFailed(_failures(self._open))

    def report(self, task: Task, done: float, note: str = "") -> None:
        """`done` of the task's units are done."""
        bar = self._bars[task.stage]
        bar.begun, bar.running[task.key], bar.note = True, done, note or bar.note
        self._show(task.stage)

    def _show(self, stage: str) -> None:
        bar = self._bars[stage]
        self._progress(stage, bar.done + sum(bar.running.values()), bar.total, bar.note)

    def _look(self) -> None:
        """Ask for the inputs of all tasks that can tell them, and find those that are there already."""
        before = -1
        while before != len(self._settled):  # one that is there may let the next one tell
            before = len(self._settled)
            for item in self._open:
                if item.inputs is None and self._settled.issuperset(item.task.asks):
                    item.inputs = item.stage.inputs(item.task, self._run)
                    # A list: any() would stop at the first, and each says why it is made again.
                    wanted = [self._pending(item, name) for name in item.task.records]
                    item.kept = bool(wanted) and not any(wanted)
                    if item.kept:
                        self._skip(item)
                if item.kept and self._settled.issuperset(item.task.needs):
                    item.settled = True
                    self._settled.update(item.task.records)
            self._open = [item for item in self._open if not item.settled]

    def _pending(self, item: _Item, name: str) -> bool:
        """Whether a result has to be made; says why if it was made before."""
        assert item.inputs is not None
        reason = self._run.why(name, item.inputs[name], item.task.records[name], item.stage.wanted)
        if reason is not None and item.stage.announced and self._run.record(name) is not None:
            self.say(f"{name} again: {reason}")
        return reason is not None

    def _skip(self, item: _Item) -> None:
        bar = self._bars[item.stage.name]
        if bar.begun:
            bar.done += item.task.units
            self._show(item.stage.name)
        else:
            bar.total -= item.task.units

    def _ready(self, item: _Item) -> bool:
        waiting = not (item.running or item.kept or item.failure) and item.inputs is not None
        return waiting and self._settled.issuperset(item.task.needs)

    def _settle(self, outcome: Outcome) -> None:
        item, task = self._by_key[outcome.task.key], outcome.task
        item.running = False
        bar = self._bars[task.stage]
        reported = bar.running.pop(task.key, None)
        if outcome.failure is not None:
            item.attempts += 1
            if item.attempts == ATTEMPTS:
                item.failure = outcome.failure
            return
        assert item.inputs is not None
        seconds = outcome.seconds / max(1, len(task.records))
        for (name, files), figures in zip(task.records.items(), outcome.figures, strict=True):
            self._run.finish(name, item.inputs[name], files, seconds, **figures)
        item.settled = True
        self._settled.update(task.records)
        self._open.remove(item)
        bar.done += task.units
        if reported is not None:
            self._show(task.stage)


def _failures(unfinished: Sequence[_Item]) -> str:
    """What failed, by shot, and how much could not be made for want of it."""
    failed = [item for item in unfinished if item.failure]
    lines: dict[str, list[str]] = {}
    for item in failed:
        lines.setdefault(str(item.failure), []).extend(item.task.shots or [item.task.key])
    told = [f"shots {', '.join(dict.fromkeys(shots))}: {reason}" for reason, shots in lines.items()]
    if len(told) > _TOLD:  # reasons that name files are as many as shots
        told[_TOLD:] = [f"{len(told) - _TOLD} more like that"]
    said = "; ".join(told)
    waiting = len(unfinished) - len(failed)
    return f"{said} ({ATTEMPTS} attempts)" + (
        f"; {waiting} more of the film's tasks need what failed" if waiting else ""
    )
