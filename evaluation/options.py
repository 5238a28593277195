"""Options of a suite: one pydantic model that also says how each stands on the command line, and whose it is.

The command builds its flags from these models, and what is asked of the wrong suite is refused here, for the command
and for Python alike. Nothing heavy is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from ..core.errors import InputError
from ..core.validation import to_input_error

__all__ = [
    "ANY_NUMBER",
    "Flag",
    "Option",
    "Options",
    "Owner",
    "check_owner",
    "find",
    "flag_options",
    "names",
    "numbers",
    "whole",
    "width_by_height",
]

ANY_NUMBER = 2**31 - 1
"""The largest number that the command takes; a suite may allow less."""


@dataclass(frozen=True)
class Flag:
    """How an option stands on the command line; metadata of a field of `Options`.

    Attributes:
        text: the help.
        metavar: name of its value; None for a switch.
        name: of the flag without dashes, and of the field in errors; None takes the field's name.
        whole: (least, largest) whole number that is taken.
        read: turns (flag, text) into the value, or raises InputError that names the flag; None keeps the text.
        reads_file: whether the value is a file or folder that the suite reads.
        owner: what the option is for, in the error that refuses it elsewhere; "" takes the suites that have it.
        last: whether it follows the options of the single suites in the help.
    """

    text: str
    metavar: str | None = None
    name: str | None = None
    whole: tuple[int, int] | None = None
    read: Callable[[str, str], Any] | None = None
    reads_file: bool = False
    owner: str = ""
    last: bool = False


class Options(BaseModel):
    """Options of one suite.

    Attributes:
        heading: heading of the suite's own options in the command's help; "" leaves them among the general ones.
        defaults: values that a field of None stands for, by field; the help tells them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, populate_by_name=True)

    heading: ClassVar[str] = ""
    defaults: ClassVar[Mapping[str, int]] = {}

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Self:
        """Check values by field.

        Raises:
            InputError: a value that does not fit; it names the option.
        """
        try:
            return cls.model_validate({name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            raise to_input_error(error, lambda location: cls, {}, "") from None


class Owner(Protocol):
    """What has options: a suite of the evaluation, or of the benchmarks."""

    @property
    def name(self) -> str:
        """What the user calls it."""
        ...

    @property
    def options(self) -> type[Options]:
        """Its options."""
        ...


@dataclass(frozen=True)
class Option:
    """One flag of a command, with all suites that take it.

    Attributes:
        field: of the models.
        flag: how the first of its suites describes it.
        owners: names of the suites that take it.
        help: for all of them.
        heading: of the group that it stands in, "" for the general options.
    """

    field: str
    flag: Flag
    owners: tuple[str, ...]
    help: str
    heading: str

    @property
    def name(self) -> str:
        """The flag with its dashes."""
        return f"--{_label(self.field, self.flag)}"


def flag_options(suites: Sequence[Owner]) -> list[Option]:
    """The flags of a command that runs one of these suites, in the order of its help."""
    fields = dict.fromkeys(name for suite in suites for name in suite.options.model_fields)
    found = [_option(name, suites) for name in fields if any(_flag(suite, name) for suite in suites)]
    return sorted(found, key=lambda option: option.flag.last)


S = TypeVar("S", bound="Owner")


def find(suites: Sequence[S], name: str, field: str = "suite") -> S:
    """The suite called `name`.

    Raises:
        InputError: none is; it names `field`.
    """
    for suite in suites:
        if suite.name == name:
            return suite
    raise InputError(field, f"must be one of {', '.join(s.name for s in suites)}", name, "choose one of them")


def check_owner(suites: Sequence[Owner], name: str, given: Mapping[str, Any], dashes: str = "") -> None:
    """Refuse options that only other suites take.

    Args:
        suites: all that there are.
        name: the one that is run.
        given: values by field; None and False count as not given.
        dashes: stands before an option's name in the error.

    Raises:
        InputError: the first such option; TypeError for one that no suite has.
    """
    fields = find(suites, name).options.model_fields
    for field, value in given.items():
        if value is None or value is False or field in fields:
            continue
        owners = [suite for suite in suites if field in suite.options.model_fields]
        if not owners:
            raise TypeError(f"no suite takes {field!r}")
        flag = _flag(owners[0], field)
        names = " and ".join(suite.name for suite in owners)
        owner = flag.owner if flag and flag.owner else f"the suite{'s' if len(owners) > 1 else ''} {names}"
        shown = value if isinstance(value, str | int | list | tuple) else _shown(value)
        raise InputError(f"{dashes}{_label(field, flag)}", f"is for {owner}", shown, "leave it out")


def whole(low: int, high: int = ANY_NUMBER) -> BeforeValidator:
    """Lets only whole numbers in a range pass."""

    def check(value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InputError("", f"must be a whole number from {low} to {high}", value, "choose one in that range")
        return value

    return BeforeValidator(check)


def numbers(flag: str, text: str) -> list[int]:
    """Read whole numbers, at least 1, between commas."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 0 < int(part) < 10_000 for part in parts):
        raise InputError(flag, "must be numbers separated by commas", text, "write e.g. 8,16,32,48")
    return [int(part) for part in parts]


def names(flag: str, text: str) -> list[str]:
    """Read names between commas."""
    return [name.strip() for name in text.split(",")]


def width_by_height(flag: str, text: str) -> tuple[int, int]:
    """Read `WxH` as (height, width)."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() and 0 < int(side) < 100_000 for side in sides):
        raise InputError(flag, "must be width x height in pixels", text, "write e.g. 832x480")
    return int(sides[1]), int(sides[0])


def _option(field: str, suites: Sequence[Owner]) -> Option:
    owners = [suite for suite in suites if field in suite.options.model_fields]
    texts = {suite.name: flag.text for suite in owners if (flag := _flag(suite, field)) is not None}
    flag = next(flag for suite in owners if (flag := _flag(suite, field)) is not None)
    if len(set(texts.values())) == 1:
        text = flag.text
    else:
        text = "; ".join(f"{name}: {text}" for name, text in texts.items())
    if default := _defaults(field, owners):
        text = f"{text} (default: {default})"
    heading = owners[0].options.heading if len(owners) == 1 and len(suites) > 1 else ""
    return Option(field, flag, tuple(texts), text, heading)


def _defaults(field: str, owners: Sequence[Owner]) -> str:
    """``8; storytelling 4``: what a field of None stands for, then the suites where it is something else."""
    values = {suite.name: suite.options.defaults.get(field) for suite in owners}
    first = next(iter(values.values()), None)
    if first is None:
        return ""
    others = [f"{name} {value}" for name, value in values.items() if value not in (None, first)]
    return "; ".join([str(first), *others])


def _flag(suite: Owner, field: str) -> Flag | None:
    info = suite.options.model_fields.get(field)
    return None if info is None else next((part for part in info.metadata if isinstance(part, Flag)), None)


def _label(field: str, flag: Flag | None) -> str:
    return flag.name if flag is not None and flag.name else field.replace("_", "-")


def _shown(value: object) -> str:
    return str(value) if isinstance(value, Path) else repr(value)
