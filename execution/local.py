"""Worker processes on this machine: one for each device, or several on one.

A worker loads a stage's models once and keeps them. Tasks are handed out one by one, so a fast worker makes more of
them than a slow one.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .pool import Crew, Here, Listener, Outcome, Runner
from .processes import process_context, without_interrupts
from .run_folder import SCRATCH, RunFolder
from .stage import Task
from .workers import Desk, Message, attempt, collect, settle_in

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

__all__ = ["WorkerExecutor", "Workers"]

_POLL = 0.5
"""Seconds after which a driver that waits looks up, because Ctrl-C does not end a wait on Windows."""


@dataclass(frozen=True)
class WorkerExecutor:
    """Makes a film by worker processes on this machine.

    Attributes:
        devices: where each worker computes; None leaves it to the studio. There are as many workers as devices.
        threads: CPU threads of each; None takes as many as this process has.
    """

    devices: Sequence[str | None]
    threads: int | None = None

    def open(self, crew: Crew, runner: Runner, run: RunFolder, listener: Listener) -> Workers:
        """The workers; each starts with its first task."""
        import torch

        return Workers(crew, runner, run, listener, self.devices, self.threads or torch.get_num_threads())


@dataclass(eq=False)
class _Worker:
    """One process, and what it is doing.

    Attributes:
        own: the folder that it writes to.
        stage: the stage whose models it has.
    """

    process: BaseProcess
    connection: Connection
    own: Path
    device: str | None
    stage: str
    task: Task | None = None


class Workers:
    """The pool of worker processes. What needs no model is made in this process."""

    def __init__(
        self,
        crew: Crew,
        runner: Runner,
        run: RunFolder,
        listener: Listener,
        devices: Sequence[str | None],
        threads: int,
    ) -> None:
        self._crew, self._run, self._listener, self._threads = crew, run, listener, threads
        self._here = Here(runner, run, listener)
        self._runner = runner
        self._devices = list(devices)  # those without a worker
        self._workers: list[_Worker] = []
        self._started = 0
        # Another name in every run: the workers of a killed one may still be writing.
        self._scratch = run.path / SCRATCH / secrets.token_hex(6)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in list(self._workers):
            self._end(worker)
        shutil.rmtree(self._run.path / SCRATCH, ignore_errors=True)

    def free(self, task: Task) -> bool:
        """Whether a worker is idle, or may still be started."""
        if self._stays(task):
            return self._here.free(task)
        return bool(self._devices) or any(worker.task is None for worker in self._workers)

    def start(self, task: Task) -> None:
        """Hand a task to the worker that has its models, if that is idle; else to a new one, or any."""
        if self._stays(task):
            self._here.start(task)
            return
        idle = [worker for worker in self._workers if worker.task is None]
        worker = next((worker for worker in idle if worker.stage == task.stage), None)
        if worker is None:
            worker = self._spawn() if self._devices else idle[0]
        worker.task, worker.stage = task, task.stage
        with contextlib.suppress(OSError):  # it has just died, which `wait` finds out
            worker.connection.send(task)

    def wait(self) -> Sequence[Outcome]:
        """Make what is made here, or wait for the workers."""
        if found := self._here.wait():
            return found
        while True:
            handles: dict[Any, _Worker] = {}
            for worker in self._workers:
                if worker.task is not None:
                    handles[worker.connection] = handles[worker.process.sentinel] = worker
            ready = {id(handles[handle]): handles[handle] for handle in wait(list(handles), timeout=_POLL)}
            if found := [outcome for worker in ready.values() for outcome in self._hear(worker)]:
                return found

    def _stays(self, task: Task) -> bool:
        return task.in_driver or not self._runner.stages[task.stage].parts

    def _hear(self, worker: _Worker) -> Iterator[Outcome]:
        """Take in all that a worker has to say."""
        task = worker.task
        assert task is not None
        while True:
            try:
                if not worker.connection.poll():
                    if worker.process.is_alive() or worker.connection.poll():
                        return
                    raise EOFError
                message: Message = worker.connection.recv()
            except (EOFError, OSError):
                worker.process.join()
                code = worker.process.exitcode or 0
                how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
                self._replace(worker)
                yield Outcome(task, failure=f"its worker {how}")
                return
            match message:
                case ("report", done, note):
                    self._listener.report(task, done, note)
                case ("say", line):
                    self._listener.say(line)
                case ("done", seconds, figures):
                    worker.task = None
                    collect(task, worker.own, self._run)
                    yield Outcome(task, seconds, figures)
                    return
                case ("refused", error):
                    raise error
                case ("failed", reason, spoilt):
                    worker.task = None
                    if spoilt:
                        self._replace(worker)
                    yield Outcome(task, failure=reason)
                    return

    def _spawn(self) -> _Worker:
        self._runner.empty()
        if not self._started:
            count = len(self._devices)
            self._listener.say(f"starting {count} worker{'s' if count > 1 else ''}")
        context = process_context()
        ours, theirs = context.Pipe()
        own = self._scratch / str(self._started)
        self._started += 1
        device = self._devices.pop(0)
        arguments = (theirs, self._crew, self._run.path.absolute(), own.absolute(), device, self._threads)
        process = context.Process(target=_serve, args=arguments, name=f"anchorshot-worker-{own.name}", daemon=True)
        with without_interrupts():
            process.start()
        theirs.close()  # so that its end is noticed
        worker = _Worker(process, ours, own, device, "")
        self._workers.append(worker)
        return worker

    def _replace(self, worker: _Worker) -> None:
        """End a worker; another may start on its device."""
        self._end(worker)
        shutil.rmtree(worker.own, ignore_errors=True)
        self._devices.insert(0, worker.device)

    def _end(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.process.kill()  # nothing that it has not handed over counts
        worker.process.join(5)
        worker.connection.close()


def _serve(connection: Connection, crew: Crew, film: Path, own: Path, device: str | None, threads: int) -> None:
    """The life of a worker: tasks come, messages go; it ends with its driver."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        settle_in(threads)
        runner = cache(partial(crew, device))  # made with the first task, so that its errors are the task's
        desk = Desk(film, own, connection.send)
        while True:
            connection.send(attempt(runner, connection.recv(), desk))
    except (EOFError, OSError):  # the driver is gone
        return
