"""Workers on a Ray cluster, or on a Ray that is started on this machine for one film.

Each worker is an actor that loads a stage's models once. It looks whether it sees the film's folder: if it does, it
works in it as a process of this machine does; if not, what it reads and what it makes travels through Ray's object
store. Whoever makes what, only the driver writes to the film's folder.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any

from ..core.errors import InputError
from ..core.files import sha256_file, write_atomic
from .pool import Crew, Here, Listener, Outcome, Runner
from .run_folder import SCRATCH, RunFolder
from .stage import Task
from .workers import Desk, Message, attempt, collect, reason_of, settle_in

__all__ = ["Actor", "RayExecutor", "RayWorkers"]

_POLL = 0.2
"""Seconds after which the driver looks for progress again."""


@dataclass(frozen=True)
class RayExecutor:
    """Makes a film by the workers of a Ray cluster.

    Attributes:
        address: of the cluster, such as ``auto`` or ``ray://host:10001``; None starts a Ray here and ends it with the
            film.
        workers: how many at most; None takes as many as the cluster has GPUs, or CPU cores where none is used.
        shared: whether the workers see the film's folder; None has each look for itself.
    """

    address: str | None = None
    workers: int | None = None
    shared: bool | None = None

    @contextlib.contextmanager
    def open(self, crew: Crew, runner: Runner, run: RunFolder, listener: Listener) -> Iterator[RayWorkers]:
        """The cluster's workers; each starts with its first task.

        Raises:
            InputError: Ray is not installed, or there is no cluster at the address.
        """
        ray = _ray()
        ours = not ray.is_initialized()
        if ours:
            _connect(ray, self.address, self.workers)
        try:
            with RayWorkers(ray, crew, runner, run, listener, self.workers, self.shared) as workers:
                yield workers
        finally:
            if ours:
                ray.shutdown()


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise InputError("--ray", "needs Ray", "not installed", "pip install 'anchorshot[ray]'") from None


def _connect(ray: Any, address: str | None, workers: int | None) -> None:
    """Join a cluster, or start a Ray here that reports nothing to anybody."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        os.environ.setdefault("RAY_worker_niceness", "0")  # this film's workers are all there is to it
        quiet |= {"include_dashboard": False, "num_cpus": max(workers or 0, os.cpu_count() or 1)}
    elif not _answers(address):
        fix = "start it with `ray start --head`, or leave the address out"
        raise InputError("--ray", "must be the address of a Ray cluster (nobody answers)", address, fix)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=address or "local", **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError, OSError) as error:
        fix = "start it with `ray start --head`, or leave the address out"
        raise InputError("--ray", f"must be the address of a Ray cluster ({reason_of(error)})", address, fix) from None
    finally:
        for number, handler in handlers.items():  # Ray takes SIGTERM; only the main thread may give it back
            with contextlib.suppress(ValueError, TypeError):
                signal.signal(number, handler)


def _answers(address: str) -> bool:
    """Whether somebody listens at ``host:port`` or ``ray://host:port``; Ray itself would try for minutes."""
    host, separator, port = address.rpartition("://")[2].rpartition(":")
    if not separator or not port.isdigit():
        return True  # such as ``auto``, which Ray looks up at once
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=10):
            return True
    except (OSError, OverflowError):
        return False


class Actor:
    """A worker; Ray makes it where there is room.

    Args:
        crew: makes the film's runner.
        film: the film's folder, where the driver sees it.
        token: the name of a file in it, whose content is its own name.
        shared: whether the folder is seen here; None looks for the token.
        name: this worker's.
        threads: CPU threads.
        messages: a queue for what is said on the way.
    """

    def __init__(
        self, crew: Crew, film: str, token: str, shared: bool | None, name: str, threads: int, messages: Any
    ) -> None:
        settle_in(threads)
        mark = Path(film, SCRATCH, token)
        with contextlib.suppress(OSError):
            shared = mark.read_text() == token if shared is None else shared
        self._shared = bool(shared)
        self._film = Path(film) if self._shared else Path(tempfile.mkdtemp(prefix="anchorshot-"))
        self._own = self._film / SCRATCH / name
        self._runner = cache(crew)
        self._messages = messages

    def shares(self) -> bool:
        """Whether it sees the film's folder."""
        return self._shared

    def make(self, task: Task, files: Mapping[str, bytes]) -> tuple[Message, dict[str, bytes]]:
        """Make a task.

        Args:
            task: what to make.
            files: files of the film that it reads, and that were not sent before; where the folder is not shared.

        Returns:
            The last message about it, and the files that it wrote, where the folder is not shared.
        """
        for name, data in files.items():
            write_atomic(self._film / name, data)
        desk = Desk(self._film, self._own, partial(self._say, task.key))
        message = attempt(self._runner, task, desk, self._shared)
        made: dict[str, bytes] = {}
        if not self._shared and message[0] == "done":
            made = {name: (self._own / name).read_bytes() for name in task.files}
            shutil.rmtree(self._own, ignore_errors=True)
        return message, made

    def _say(self, key: str, message: Message) -> None:
        with contextlib.suppress(Exception):  # a driver that no longer listens is no reason to fail
            self._messages.put_nowait((key, message))

    def leave(self) -> None:
        """Remove the copies of the film's files that this worker was sent or made."""
        if not self._shared:
            shutil.rmtree(self._film, ignore_errors=True)


@dataclass(eq=False)
class _Worker:
    """One actor, and what it is doing.

    Attributes:
        sent: SHA-256 of the files that it was sent, where it does not see the film's folder.
    """

    actor: Any
    name: str
    stage: str = ""
    shared: bool | None = None
    sent: dict[str, str] = field(default_factory=dict)
    task: Task | None = None
    result: Any = None


class RayWorkers:
    """The pool of a cluster's actors. What needs no model is made in this process."""

    def __init__(
        self,
        ray: Any,
        crew: Crew,
        runner: Runner,
        run: RunFolder,
        listener: Listener,
        workers: int | None,
        shared: bool | None,
    ) -> None:
        import torch

        self._ray, self._crew, self._runner, self._run, self._listener = ray, crew, runner, run, listener
        self._here = Here(runner, run, listener)
        self._shared, self._threads = shared, torch.get_num_threads()
        wanted = [stage.resources for stage in runner.stages.values() if stage.parts]
        gpu = crew.device == "cuda"
        self._needs = {
            "num_cpus": max((need.cpus for need in wanted), default=1),
            "num_gpus": max((need.gpus for need in wanted), default=0) if gpu else 0,
        }
        there = ray.cluster_resources()
        room = there.get("GPU", 0) / self._needs["num_gpus"] if gpu else there.get("CPU", 1) / self._needs["num_cpus"]
        self._most = max(1, int(room) if workers is None else workers)
        self._workers: list[_Worker] = []
        self._started = 0
        self._messages: Any = None
        self._token = f"seen-{secrets.token_hex(8)}"

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in list(self._workers):
            if worker.task is None and not worker.shared:
                with contextlib.suppress(Exception):
                    self._ray.get(worker.actor.leave.remote(), timeout=5)
            self._end(worker)
        if self._messages is not None:
            self._messages.shutdown(force=True)
        shutil.rmtree(self._run.path / SCRATCH, ignore_errors=True)

    def free(self, task: Task) -> bool:
        """Whether a worker is idle, or may still be started."""
        if self._stays(task):
            return self._here.free(task)
        return len(self._workers) < self._most or any(worker.task is None for worker in self._workers)

    def start(self, task: Task) -> None:
        """Hand a task to the worker that has its models, if that is idle; else to a new one, or any."""
        if self._stays(task):
            self._here.start(task)
            return
        idle = [worker for worker in self._workers if worker.task is None]
        worker = next((worker for worker in idle if worker.stage == task.stage), None)
        if worker is None:
            worker = self._spawn() if len(self._workers) < self._most else idle[0]
        worker.task, worker.stage = task, task.stage
        self._send(worker, task)

    def wait(self) -> Sequence[Outcome]:
        """Make what is made here, or wait for the workers."""
        if found := self._here.wait():
            return found
        while True:
            busy = {worker.result: worker for worker in self._workers if worker.task is not None}
            ready, _ = self._ray.wait(list(busy), timeout=_POLL)
            self._listen()
            if found := [outcome for result in ready if (outcome := self._take(busy[result])) is not None]:
                return found

    def _stays(self, task: Task) -> bool:
        return task.in_driver or not self._runner.stages[task.stage].parts

    def _spawn(self) -> _Worker:
        self._runner.empty()
        if self._messages is None:
            from ray.util.queue import Queue

            self._messages = Queue(actor_options={"num_cpus": 0})
            mark = self._run.path / SCRATCH / self._token
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_text(self._token)
            self._listener.say("starting workers on Ray")
        name = f"{self._token}-{self._started}"  # of this run alone: those of a killed one may still be writing
        self._started += 1
        actor = (
            self._ray.remote(Actor)
            .options(**self._needs, max_restarts=0)
            .remote(
                self._crew,
                str(self._run.path.absolute()),
                self._token,
                self._shared,
                name,
                self._threads,
                self._messages,
            )
        )
        worker = _Worker(actor, name)
        self._workers.append(worker)
        worker.result = actor.shares.remote()
        return worker

    def _send(self, worker: _Worker, task: Task) -> None:
        """Send a task, once it is known whether its files have to go along; `_take` sends it where it is not."""
        if worker.shared is None:
            return
        files: dict[str, bytes] = {}
        if not worker.shared:
            for name in self._runner.stages[task.stage].reads(task):
                digest = sha256_file(self._run.path / name)
                if worker.sent.get(name) != digest:
                    files[name] = (self._run.path / name).read_bytes()
                    worker.sent[name] = digest
        worker.result = worker.actor.make.remote(task, files)

    def _take(self, worker: _Worker) -> Outcome | None:
        """What a worker's answer means; None where it is the answer to whether it sees the folder."""
        task = worker.task
        assert task is not None
        try:
            answer = self._ray.get(worker.result)
        except Exception as error:  # the actor died, or its machine, or it could not be made
            self._end(worker)
            return Outcome(task, failure=f"its worker ended ({reason_of(error).split('. ')[0]})")
        if worker.shared is None:
            worker.shared = bool(answer)
            self._send(worker, task)
            return None
        message, made = answer
        worker.task = None
        own = self._run.path / SCRATCH / worker.name
        match message:
            case ("done", seconds, figures):
                for name, data in made.items():
                    write_atomic(own / name, data)
                collect(task, own, self._run)
                return Outcome(task, seconds, figures)
            case ("refused", error):
                raise error
        _, reason, spoilt = message
        if spoilt:
            self._end(worker)
        return Outcome(task, failure=reason)

    def _listen(self) -> None:
        """Hand on what workers said since the last time."""
        if self._messages is None:
            return
        tasks = {worker.task.key: worker.task for worker in self._workers if worker.task is not None}
        with contextlib.suppress(Exception):  # progress is no reason to fail
            for key, message in self._messages.get_nowait_batch(self._messages.qsize()):
                match message:
                    case ("report", done, note) if key in tasks:
                        self._listener.report(tasks[key], done, note)
                    case ("say", line):
                        self._listener.say(line)

    def _end(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        with contextlib.suppress(Exception):
            self._ray.kill(worker.actor)
