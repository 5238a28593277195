"""What films are made of: stages, the tasks of each stage, and the kinds of film that stages make up.

A stage describes itself: which files it writes, which parts of a studio it uses, what there is to do, what each task is
made from, and how it is made. A driver (`driver.run_stages`) plans the tasks and keeps the manifest; a pool (`pool`,
`local`, `ray`) makes them, in this process or in others. Nothing outside a stage's own file knows its name.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

__all__ = ["FilmKind", "Kinds", "Record", "Records", "Resources", "Stage", "Task", "Workspace"]


@dataclass(frozen=True)
class Record:
    """What the manifest has of one finished result.

    Attributes:
        inputs: everything it was made from, as plain JSON values by name.
        outputs: SHA-256 of each file it wrote, by path relative to the folder.
        seconds: how long it took.
        info: figures to report (tokens, times, seeds …).
    """

    inputs: dict[str, Any]
    outputs: dict[str, str]
    seconds: float = 0.0
    info: dict[str, Any] = field(default_factory=dict)


class Records(Protocol):
    """What a stage may ask of the film's folder when it plans; see `run_folder.RunFolder`."""

    def record(self, result: str) -> Record | None:
        """What is known about a finished result, such as ``s01/clip``."""

    def take(self, shot: str) -> int:
        """Which take of a shot this is, from 1."""


class Workspace(Protocol):
    """Where a task reads and writes, and whom it tells how far it is."""

    def source(self, name: str) -> Path:
        """Where a finished file of the film lies, such as ``keyframes/s01_00.png``."""

    def target(self, name: str) -> Path:
        """Where to write a file of the film; its folder is there."""

    def report(self, done: float, note: str = "") -> None:
        """`done` of the task's `units` are done."""

    def say(self, line: str) -> None:
        """A line for people."""


@dataclass(frozen=True)
class Task:
    """What a stage makes in one go. It is plain data, so it can be sent to another process.

    Attributes:
        stage: name of its stage.
        key: its own name, such as ``s01/clip``.
        records: the files of each result that it enters in the manifest, by the result's name; usually one, several
            where keyframes are made together. A task without records is made in every run and enters nothing.
        asks: results that must be finished before its inputs are asked for, because these hold their hashes.
        needs: results that must be finished before it is made, besides those.
        units: how much work it is, for the progress bar.
        in_driver: made by the process that writes the manifest, such as what needs no model.
        detail: whatever the stage wants to know when it makes the task.
    """

    stage: str
    key: str
    records: Mapping[str, tuple[str, ...]]
    asks: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    units: float = 1
    in_driver: bool = False
    detail: Any = None

    @property
    def files(self) -> list[str]:
        """All files that it writes."""
        return [name for names in self.records.values() for name in names]

    @property
    def shots(self) -> list[str]:
        """Ids of the shots that it belongs to."""
        return list(dict.fromkeys(name.rpartition("/")[0] for name in (*self.records, self.key) if "/" in name))


@dataclass(frozen=True)
class Resources:
    """What one worker of a stage wants: CPU cores, and GPUs where the studio computes on them."""

    cpus: float = 1
    gpus: float = 1


class Stage(ABC):
    """One kind of work in a film. Its object is made in every process that makes its tasks.

    Attributes:
        name: its name, also that of its progress bar.
        folders: its folders in the film's own, and the suffix of the files in each.
        files: its files beside those folders; ``*`` stands for the number of a page.
        records: what its results are called after the shot's id and a slash, as a regular expression; where a result
            belongs to the whole film, its whole name.
        figures: figures of its results that are read again, and the check that reads them from a manifest.
        wanted: figures without which a result counts as not made.
        announced: whether people are told why a result is made again.
        resources: what a worker wants for it.
    """

    name: ClassVar[str]
    folders: ClassVar[Mapping[str, str]] = {}
    files: ClassVar[tuple[str, ...]] = ()
    records: ClassVar[str] = ""
    figures: ClassVar[Mapping[str, Callable[[Any, str], object]]] = {}
    wanted: ClassVar[tuple[str, ...]] = ()
    announced: ClassVar[bool] = True
    resources: ClassVar[Resources] = Resources()

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts of the studio that it uses; a stage without any is made by the driver's process."""
        return ()

    @abstractmethod
    def tasks(self, run: Records) -> Sequence[Task]:
        """All that the film needs of this stage, in film order, whether it is there or not."""

    def inputs(self, task: Task, run: Records) -> Mapping[str, Mapping[str, Any]]:
        """Everything that each result of `task` is made from, as plain JSON values, by the result's name."""
        return {}

    def reads(self, task: Task) -> Sequence[str]:
        """Files of the film that making `task` reads; only those reach a worker without the film's folder."""
        return ()

    @abstractmethod
    def make(self, task: Task, workspace: Workspace) -> Sequence[dict[str, Any]]:
        """Write the files of `task`; returns the figures of each of its results, in the order of `task.records`."""

    @classmethod
    def has(cls, record: str) -> bool:
        """Whether a result in a manifest, such as ``s01/clip``, is one of this stage's."""
        return bool(cls.records) and re.fullmatch(rf"(?:.+/)?(?:{cls.records})", record) is not None


@dataclass(frozen=True)
class FilmKind:
    """A kind of film: the stages that it goes through.

    Attributes:
        name: what the manifest calls it.
        title: what people call it.
        stages: its stages, in order.
        files: its files besides those of its stages.
    """

    name: str
    title: str
    stages: tuple[type[Stage], ...]
    files: tuple[str, ...] = ("summary.json",)


class Kinds:
    """All kinds of film that a folder may hold. What it says of files comes from their stages."""

    def __init__(self, *kinds: FilmKind) -> None:
        self.kinds = {kind.name: kind for kind in kinds}

    def __getitem__(self, name: str) -> FilmKind:
        return self.kinds[name]

    @cached_property
    def stages(self) -> tuple[type[Stage], ...]:
        """The stages of all kinds."""
        return tuple(dict.fromkeys(stage for kind in self.kinds.values() for stage in kind.stages))

    @cached_property
    def folders(self) -> tuple[str, ...]:
        """Folders that a film has in its own."""
        return tuple(dict.fromkeys(name for stage in self.stages for name in stage.folders))

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Files that a film has beside its folders, but for further pages."""
        return tuple(name for name in self._files if "*" not in name)

    @cached_property
    def _files(self) -> tuple[str, ...]:
        own = [name for stage in self.stages for name in stage.files]
        return tuple(dict.fromkeys([*own, *(name for kind in self.kinds.values() for name in kind.files)]))

    @cached_property
    def figures(self) -> dict[str, Callable[[Any, str], object]]:
        """Figures that are read again, and the check of each."""
        return {name: check for stage in self.stages for name, check in stage.figures.items()}

    @cached_property
    def _outputs(self) -> re.Pattern[str]:
        # Ids of shots have at most 64 letters; longer names than a file system takes cannot even be asked for.
        inner = [
            rf"{re.escape(folder)}/[A-Za-z0-9_-]{{1,120}}{re.escape(suffix)}"
            for stage in self.stages
            for folder, suffix in stage.folders.items()
        ]
        return re.compile("|".join([*inner, *(re.escape(name).replace(r"\*", "[0-9]{1,6}") for name in self._files)]))

    def owns(self, name: str) -> bool:
        """Whether a path in a film's folder is an output of a film.

        Only these may ever be replaced or removed, whatever a manifest lists.
        """
        return self._outputs.fullmatch(name) is not None

    def kind_of(self, records: Iterable[str]) -> str | None:
        """The first kind of film that could have all these results, None if no kind could."""
        names = list(records)
        for kind in self.kinds.values():
            if all(any(stage.has(name) for stage in kind.stages) for name in names):
                return kind.name
        return None
