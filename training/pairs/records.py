"""Data sets of shots: which file shows the start and the end of a shot, which show the middle, and what is told.

A JSONL file has one shot to a line; a JSON file is a list of them. There are two spellings, that of this package

    {"movie": "m0042", "shot": 7, "text": "…", "attributes": {"scale": "close-up"}, "seconds": 2.75, "frames": 66,
     "start": "m0042/007_first.png", "end": "m0042/007_last.png", "inner": ["m0042/007_12.png", …]}

and those of the published inference records (STAGE), to which the two frames are added:

    {"idx": 7, "prompt": "…", "control_img_list": ["last_of_before.png", "hero.png"], "start": "…", "end": "…"}

Paths are relative to the file. Other fields are left alone.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.documents import as_array, as_integer, as_number, as_object, as_text, parse_json, read_bytes
from ...core.errors import InputError

__all__ = ["ShotRecord", "held_out", "read_records"]

_MAX_BYTES = 4 << 30
_FIELDS = "movie, shot, text or prompt, attributes, seconds, frames, start, end, inner, clip, control_img_list"


@dataclass(frozen=True)
class ShotRecord:
    """A shot of a data set.

    Attributes:
        movie: what it is from; shots remember earlier ones of the same movie.
        shot: its number in the movie: larger is later.
        text: D_i, the description.
        attributes: C_i in words, or empty.
        whole: `text` is the whole prompt already.
        seconds, frames: the shot's length; 0 where it is not told.
        start, end: pictures; None where `clip` shows them.
        inner: pictures between them, in the order of time.
        clip: a video of the shot.
        control: pictures that it remembers in the place of earlier shots, the end of the one before first; None: the
            movie's earlier shots.
        where: file and line, for errors.
    """

    movie: str
    shot: int
    text: str
    attributes: str = ""
    whole: bool = False
    seconds: float = 0.0
    frames: int = 0
    start: Path | None = None
    end: Path | None = None
    inner: tuple[Path, ...] = ()
    clip: Path | None = None
    control: tuple[Path, ...] | None = None
    where: str = ""

    @property
    def pictures(self) -> list[Path]:
        """All files that it names."""
        named = (self.start, self.end, self.clip, *self.inner, *(self.control or ()))
        return [path for path in named if path is not None]

    @property
    def told(self) -> str:
        """Description and attributes as one text."""
        return " ".join(part for part in (self.text, self.attributes) if part)


def read_records(path: Path, field: str = "data.file") -> dict[str, list[ShotRecord]]:
    """The shots of a data set by movie, each movie in its order.

    Raises:
        InputError: no such file, broken JSON, a field of another type, a shot that is there twice or shows no frames.
    """
    movies: dict[str, list[ShotRecord]] = defaultdict(list)
    for number, (where, entry) in enumerate(_entries(path, field)):
        record = _record(entry, where, path.parent, number)
        movies[record.movie].append(record)
    if not movies:
        raise InputError(field, "must hold at least one shot", path.name, f"write shots with {_FIELDS}")
    for movie, shots in movies.items():
        shots.sort(key=lambda record: record.shot)
        for before, after in zip(shots, shots[1:], strict=False):
            if before.shot == after.shot:
                rule = f"numbers of the shots of {movie} must differ"
                raise InputError("shot", rule, after.shot, f"see {before.where}", after.where)
    return dict(movies)


def held_out(movies: Sequence[str], share: float) -> set[str]:
    """Movies to keep for tests: a share of them that depends on nothing but their names."""
    return {movie for movie in movies if int.from_bytes(hashlib.sha256(movie.encode()).digest()[:8]) < share * 2**64}


def _entries(path: Path, field: str) -> Iterator[tuple[str, Any]]:
    raw = read_bytes(path, field, limit=_MAX_BYTES, what="data set")
    if path.suffix.lower() == ".json":
        for i, entry in enumerate(as_array(parse_json(raw, path.name), path.name)):
            yield f"{path.name} [{i}]", entry
        return
    for i, line in enumerate(raw.split(b"\n")):
        if line.strip():
            where = f"{path.name} line {i + 1}"
            yield where, parse_json(line, where)


def _record(entry: Any, where: str, folder: Path, number: int) -> ShotRecord:
    data = as_object(entry, where)
    at = _At(data, where, folder)
    whole = "prompt" in data
    record = ShotRecord(
        movie=at.text("movie", ""),
        shot=at.integer("shot", at.integer("idx", number)),
        text=at.text("prompt" if whole else "text"),
        attributes=_attributes(data.get("attributes"), f"{where}: attributes"),
        whole=whole,
        seconds=at.number("seconds"),
        frames=at.integer("frames", 0),
        start=at.path("start"),
        end=at.path("end"),
        inner=at.paths("inner") or (),
        clip=at.path("clip"),
        control=at.paths("control_img_list"),
        where=where,
    )
    if record.clip is None and (record.start is None or record.end is None):
        missing = "start" if record.start is None else "end"
        raise InputError(missing, "is required without clip", None, "name the picture, or a video of the shot", where)
    if record.clip is not None and (record.start or record.end or record.inner):
        raise InputError("clip", "must not stand beside start, end and inner", str(record.clip), "keep one", where)
    return record


@dataclass(frozen=True)
class _At:
    """Fields of one entry."""

    data: Mapping[str, Any]
    where: str
    folder: Path

    def text(self, name: str, missing: str | None = None) -> str:
        if name not in self.data:
            if missing is None:
                raise InputError(name, "is required", None, f"the fields are {_FIELDS}", self.where)
            return missing
        return as_text(self.data[name], f"{self.where}: {name}")

    def integer(self, name: str, missing: int) -> int:
        return as_integer(self.data[name], f"{self.where}: {name}", 0) if name in self.data else missing

    def number(self, name: str) -> float:
        return as_number(self.data[name], f"{self.where}: {name}", 0) if name in self.data else 0.0

    def path(self, name: str) -> Path | None:
        value = self.data.get(name)
        return None if value is None else self.folder / as_text(value, f"{self.where}: {name}")

    def paths(self, name: str) -> tuple[Path, ...] | None:
        value = self.data.get(name)
        if value is None:
            return None
        field = f"{self.where}: {name}"
        return tuple(self.folder / as_text(one, f"{field}[{i}]") for i, one in enumerate(as_array(value, field)))


def _attributes(value: Any, field: str) -> str:
    """C_i as words: a text as it is, of an object its values."""
    if value is None or isinstance(value, str):
        return value or ""
    return ", ".join(as_text(word, f"{field}.{name}") for name, word in as_object(value, field).items() if word)
