"""What a suite of the evaluation is: one object that names its options, runs, and shows its figures.

Adding a suite is a folder under `suites` with such an object, and a line in `suites.SUITES`: the command, the table,
the plots and the report ask the object. Nothing heavy is imported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import AfterValidator

from ..core.errors import InputError
from .folder import report_names
from .options import ANY_NUMBER, Flag, Options, names, whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..models.studio import Studio
    from ..pipelines.job import Progress
    from ..pocket.recogniser import Recogniser
    from .report import Strip

__all__ = ["Column", "Columns", "Panel", "Result", "Row", "Run", "Suite", "SuiteOptions", "named_set"]

Row = dict[str, Any]
"""A row of the report: `variant`, and its figures."""
Column = Callable[[Mapping[str, Any]], str]
"""What a table shows of a row."""
Columns = Mapping[str, Column]
"""A table: its columns by heading. One is called `variant`."""
Panel = Callable[["Axes"], None]
"""Draws one plot."""


def _some(variants: Sequence[str]) -> Sequence[str]:
    if not variants:
        raise InputError("", "must name at least one", variants, "leave it out to run all")
    return variants


class SuiteOptions(Options):
    """Options that all suites take.

    Attributes:
        seed: which held-out stories, and the noise; two seeds share no story of the pocket world.
        stories: how many stories, or clips.
        shots: shots or segments of each.
        variants: the rows that are run; None runs all.
    """

    defaults: ClassVar[Mapping[str, int]] = {"seed": 0, "stories": 16, "shots": 8}

    seed: Annotated[int, whole(0), Flag("which held-out stories", "N", whole=(0, ANY_NUMBER))] = 0
    stories: Annotated[int | None, whole(1), Flag("how many stories", "N", whole=(1, ANY_NUMBER))] = None
    shots: Annotated[
        int | None, whole(1), Flag("shots in each story, that is image-text pairs", "N", whole=(1, ANY_NUMBER))
    ] = None
    variants: Annotated[
        tuple[str, ...] | None,
        AfterValidator(_some),
        Flag("only these rows, e.g. goldenmem,none", "LIST", read=names, last=True),
    ] = None

    def number(self, name: str) -> int:
        """`stories` or `shots`, or the default of this suite."""
        value = getattr(self, name)
        return int(self.defaults[name] if value is None else value)


@dataclass(frozen=True)
class Run:
    """What a run is given besides options: where results go, who hears of progress, and who reads frames.

    Attributes:
        out: folder of the report, for a suite that keeps what is finished before the end; None writes nothing.
        progress: called with what is done.
        recogniser: reads the frames of the pocket world; None takes the pocket studio's.
    """

    out: Path | None = None
    progress: Progress | None = None
    recogniser: Recogniser | None = None

    def classifier(self) -> Recogniser:
        """The network that reads frames.

        Raises:
            InputError: its file is missing.
        """
        if self.recogniser is not None:
            return self.recogniser
        from .stories import shipped_recogniser

        return shipped_recogniser()


@dataclass(frozen=True)
class Result:
    """What a run has found.

    Attributes:
        figures: "rows", and what else the suite reports; plain JSON.
        stories, shots: how many were measured, and how long the longest is.
        frames: per variant, and under `truth` where it is known: frames or clips of a few stories, for `Suite.strips`.
        prompt_set: name of the set of stories; None where the suite has only one.
        finish: called once the report is written.
    """

    figures: Mapping[str, Any]
    stories: int
    shots: int
    frames: Mapping[str, Any]
    prompt_set: str | None = None
    finish: Callable[[], None] = lambda: None

    def report(self) -> dict[str, Any]:
        """What the report has of it: plain JSON."""
        named = {} if self.prompt_set is None else {"set": self.prompt_set}
        return {"stories": self.stories, "shots": self.shots, **named, **self.figures}


O = TypeVar("O", bound=SuiteOptions)  # noqa: E741


class Suite(ABC, Generic[O]):
    """One suite. Its methods import what is heavy when they are called.

    Attributes:
        name: what the user calls it.
        options: its options.
        variants: the rows of its table, without those that take a number.
        subject: what is counted as "stories", for the title of the table.
    """

    name: ClassVar[str]
    options: type[O]
    variants: ClassVar[tuple[str, ...]]
    subject: ClassVar[str] = "held-out stories"

    def files(self) -> tuple[str, ...]:
        """What the suite writes in the folder of its report."""
        return report_names(self.name)

    def check(self, studio: Studio) -> None:
        """Refuse a studio that cannot do what the suite measures, before anything is loaded.

        Raises:
            InputError: what it lacks.
        """
        studio.check_task(self.name)

    @abstractmethod
    def run(self, studio: Studio, options: O, run: Run) -> Result:
        """Measure a studio.

        Raises:
            InputError: what the studio cannot do, or a file that is missing; before models are loaded.
        """

    @abstractmethod
    def tables(self, result: Mapping[str, Any]) -> Sequence[Columns]:
        """The columns that matter, as tables of 80 characters."""

    @abstractmethod
    def panels(self, result: Mapping[str, Any]) -> Sequence[Panel]:
        """The plots; those without data are left out."""

    @abstractmethod
    def strips(self, result: Mapping[str, Any], frames: Mapping[str, Any]) -> Sequence[Sequence[Strip]]:
        """Groups of rows of the sheet, from `Result.frames`."""

    def note(self, result: Mapping[str, Any]) -> str:
        """A line under the table; "" for none."""
        return ""


def named_set(name: str, known: Sequence[str]) -> str:
    """A set's name in the report: one that is known, or that of its file or folder."""
    return name if name in known else Path(name).resolve().name
