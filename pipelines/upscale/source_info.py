"""What is known of a video that is upscaled, before its windows are planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

from ...core.documents import as_array, as_integer, as_object, as_text, parse_json, read_bytes
from ...core.errors import InputError

__all__ = ["ScanJob", "SourceInfo", "read_scan"]

_BYTES = 256 << 20  # a day at 60 frames a second has a fifth of it
_VALUES = 20_000_000


@dataclass(frozen=True)
class ScanJob:
    """A video that is to be looked at.

    Attributes:
        path: its file.
        identity: what tells it from others.
        cuts: frames that shots begin at; None: they are found.
    """

    path: Path
    identity: str
    cuts: tuple[int, ...] | None = None


@dataclass(frozen=True)
class SourceInfo:
    """What is known of a video once all of it was looked at.

    Attributes:
        path: its file.
        cuts: frames that a new shot begins at.
        base: seconds of a tick.
        ticks: when each frame appears.
        last: ticks that the last frame stays; 0: the file does not say.
    """

    path: Path
    cuts: tuple[int, ...]
    base: Fraction
    ticks: list[int]
    last: int = 0

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.ticks)

    @cached_property
    def times(self) -> Sequence[Fraction]:
        """When each frame appears, in seconds."""
        return [self.base * tick for tick in self.ticks]


def read_scan(file: Path, path: Path) -> SourceInfo:
    """What a scan of the video at `path` has found.

    Raises:
        InputError: the file holds something else.
    """
    name = file.name
    data = as_object(parse_json(read_bytes(file, name, limit=_BYTES), name, max_values=_VALUES), name)
    try:
        base = Fraction(as_text(data.get("base"), "base"))
    except (ValueError, ZeroDivisionError):
        raise InputError("base", "must be a fraction", data.get("base"), "begin anew, without --resume") from None
    ticks = [as_integer(tick, "ticks") for tick in as_array(data.get("ticks"), "ticks")]
    cuts = tuple(as_integer(cut, "cuts", 0, len(ticks) - 1) for cut in as_array(data.get("cuts"), "cuts"))
    return SourceInfo(path, cuts, base, ticks, as_integer(data.get("last"), "last", 0))
