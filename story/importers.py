"""Plain shot lists: a CSV table with a header row, or a text file with one shot per paragraph.

Both say who a character is where it is first mentioned, ``<Mira: a yellow square with a crown> waves on the left.``,
name places by their description, and may start with settings in comment lines: ``# title: …``, ``# fps: …``,
``# size: 160x80``. The result is a storyboard's plain mapping; `Storyboard.parse` checks it like any other.
"""

from __future__ import annotations

import csv
import io
import re
from typing import Any, get_args

from .errors import InputError, closest
from .shot import Angle, Movement, Scale, fold_term
from .timeline import Time, frame_rate

__all__ = ["COLUMNS", "csv_story", "text_story"]

COLUMNS = (
    "id", "place", "scene", "action", "scale", "angle", "movement", "seconds", "frames", "keyframes", "transition",
    "seed",
)  # fmt: skip
_ALIASES = {"shot": "id", "location": "place", "description": "scene", "duration": "seconds"}
_SETTINGS = ("title", "fps", "size")
_DEFINITION = re.compile(r"<([^<>:]*):([^<>]*)>")
_SECONDS = re.compile(r"(-?\d+(?:\.\d+)?)\s*(?:s|sec|seconds?)", re.IGNORECASE)

Story = tuple[dict[str, Any], dict[tuple[Any, ...], int]]


class _Builder:
    """Collects the shots of a list into a storyboard mapping, with the line each came from."""

    def __init__(self, name: str, title: str) -> None:
        self.name = name
        self.data: dict[str, Any] = {"title": title or "Untitled", "characters": {}, "places": {}, "shots": []}
        self.lines: dict[tuple[Any, ...], int] = {}

    def at(self, line: int) -> str:
        return f"{self.name} line {line}"

    def setting(self, comment: str, line: int) -> None:
        """Take ``key: value`` from a comment; other comments are just that."""
        key, colon, value = (part.strip() for part in comment.partition(":"))
        key = key.lower()
        if not colon or key not in _SETTINGS:
            return
        if key == "title":
            self.data["title"] = value
        elif key == "fps":
            self.data["fps"] = self.number(value, "fps", line)
        else:
            sides = re.fullmatch(r"(\d{1,6})\s*[x×,]\s*(\d{1,6})", value)
            if sides is None:
                raise InputError("size", "must be WIDTHxHEIGHT", value, "write e.g. # size: 160x80", self.at(line))
            self.data["size"] = [int(sides[1]), int(sides[2])]
        self.lines[(key,)] = line

    def number(self, text: str, column: str, line: int, whole: bool = False) -> int | float:
        try:
            if "_" in text:
                raise ValueError
            return int(text) if whole or re.fullmatch(r"[+-]?\d{1,18}", text) else float(text)
        except ValueError:
            kind = "whole number" if whole else "number"
            raise InputError(column, f"must be a {kind}", text, "write e.g. 17" if whole else "write e.g. 2.125",
                             self.at(line)) from None  # fmt: skip

    def prose(self, text: str, column: str, line: int) -> str:
        """Take ``<Name: looks>`` definitions out of a text, leaving ``<Name>``."""

        def define(match: re.Match[str]) -> str:
            who, looks = " ".join(match[1].split()), " ".join(match[2].split())
            known = self.data["characters"].setdefault(who, looks)
            if known != looks:
                rule = f"describes <{who}> a second time, before as “{known}”"
                raise InputError(column, rule, looks, f"write <{who}> only", self.at(line))
            self.lines.setdefault(("characters", who), line)
            return f"<{who}>"

        return _DEFINITION.sub(define, text)

    def place(self, words: str, line: int) -> str:
        """The key for a place told by its description; the same words give the same place."""
        words = " ".join(words.split()).rstrip(".")
        for key, known in self.data["places"].items():
            if known.lower() == words.lower():
                return str(key)
        bare = re.sub(r"^(the|a|an)\s+", "", words.lower())
        stem = re.sub(r"[^a-z0-9]+", "-", bare).strip("-")[:40].strip("-") or "place"
        key, n = stem, 2
        while key in self.data["places"]:
            key, n = f"{stem}-{n}", n + 1
        self.data["places"][key] = words
        self.lines[("places", key)] = line
        return key

    def add(self, shot: dict[str, Any], line: int) -> None:
        index = len(self.data["shots"])
        shot.setdefault("id", f"s{index + 1:02d}")
        self.data["shots"].append(shot)
        self.lines[("shots", index)] = line

    def done(self, fix: str) -> Story:
        if not self.data["shots"]:
            raise InputError("shots", "must hold at least one shot", None, fix, self.name)
        return self.data, self.lines


def csv_story(text: str, name: str, title: str = "") -> Story:
    """Read a CSV shot list.

    The first row that is not a comment names the columns (`COLUMNS`, in any order; at least scene or action); every
    further row is one shot. Commas, semicolons or tabs separate. Keyframes are times separated by ``;``, each
    optionally ``time=image``. Seconds may be a timecode ``HH:MM:SS:FF``.

    Returns: the storyboard's mapping, and lines by location.

    Raises:
        InputError: no header, an unknown or repeated column, a row of the wrong width, a value that is no number.
    """
    build = _Builder(name, title)
    header: list[str] | None = None
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise InputError(build.at(line), f"is not valid CSV: {error}", None, "check the quotes there") from None
        if row is None:
            break
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if cells[0].startswith("#"):
            # A comment is one text: put together what the separator cut, less the empty cells that spreadsheets add.
            build.setting(delimiter.join(row).strip()[1:].rstrip(delimiter), line)
        elif header is None:
            header = _header(cells, build.at(line))
        elif len(cells) > len(header) and any(cells[len(header) :]):
            rule = f"has {len(cells)} cells for {len(header)} columns"
            raise InputError(build.at(line), rule, cells[-1], "put text that holds the separator in double quotes")
        else:
            build.add(_row(dict(zip(header, cells, strict=False)), build, line), line)
    return build.done(f"start with a header row such as {','.join(COLUMNS[:4])}, then one row per shot")


def _delimiter(text: str) -> str:
    first = next((row for row in text.splitlines() if row.strip() and not row.lstrip().startswith(("#", '"#'))), "")
    return max(",;\t", key=first.count)


def _header(cells: list[str], where: str) -> list[str]:
    names: list[str] = []
    for cell in cells:
        column = _ALIASES.get(cell.lower(), cell.lower())
        if column not in COLUMNS:
            near = closest(column, COLUMNS)
            fix = f"did you mean `{near}`?" if near else f"use {', '.join(COLUMNS)}"
            raise InputError(where, "has an unknown column", cell, fix)
        if column in names:
            raise InputError(where, "has a column twice", cell, "keep one of the two")
        names.append(column)
    if "scene" not in names and "action" not in names:
        raise InputError(where, "must have a column scene or action", ", ".join(cells), "add a header row with scene")
    return names


def _row(cells: dict[str, str], build: _Builder, line: int) -> dict[str, Any]:
    filled = {column: text for column, text in cells.items() if text}
    shot: dict[str, Any] = {c: filled[c] for c in ("id", "transition") if c in filled}
    shot.update({c: build.prose(filled[c], c, line) for c in ("scene", "action") if c in filled})
    if camera := {c: filled[c] for c in ("scale", "angle", "movement") if c in filled}:
        shot["camera"] = camera
    if "place" in filled:
        shot["place"] = build.place(filled["place"], line)
    if "seconds" in filled:
        shot["seconds"] = _seconds(filled["seconds"], build, line)
    for column in ("frames", "seed"):
        if column in filled:
            shot[column] = build.number(filled[column], column, line, whole=True)
    if "keyframes" in filled:
        shot["keyframes"] = []
        for part in filter(None, (p.strip() for p in re.split(r"[;|]", filled["keyframes"]))):
            at, equals, image = (p.strip() for p in part.partition("="))
            shot["keyframes"].append({"at": build.number(at, "keyframes", line)} | ({"image": image} if equals else {}))
    return shot


def _seconds(text: str, build: _Builder, line: int) -> float:
    if ":" not in text:
        return float(build.number(text, "seconds", line))
    try:
        rate = frame_rate(build.data.get("fps", 8))
        return Time.from_timecode(text, rate, "seconds").seconds
    except InputError as error:
        raise InputError(error.field, error.rule, error.value, error.fix, build.at(line)) from None


def text_story(text: str, name: str, title: str = "") -> Story:
    """Read a text with one shot per paragraph; blank lines separate, lines that start with ``#`` are comments.

    A paragraph may open with brackets: ``[the desert; close-up; pan left; 2.125 s] <Mira> waves on the left.`` They
    hold, in any order, the place, camera terms, the length and ``cut`` or ``blend``. Without a place the shot stays
    where the one before it was.

    Returns: the storyboard's mapping, and lines by location.

    Raises:
        InputError: no paragraph, an unclosed bracket, two places in one bracket.
    """
    build = _Builder(name, title)
    place: str | None = None
    for line, paragraph in _paragraphs(text, build):
        shot: dict[str, Any] = {}
        if paragraph.startswith("["):
            inside, close, paragraph = paragraph[1:].partition("]")
            if not close:
                fix = "close the bracket after the place"
                raise InputError(build.at(line), "has a [ without a ]", inside[:40], fix)
            shot = _bracket(inside, build, line)
        place = shot.get("place", place)
        if place is not None:
            shot["place"] = place
        shot["scene"] = build.prose(paragraph.strip(), "scene", line)
        build.add(shot, line)
    return build.done("write one paragraph per shot, with blank lines between")


def _paragraphs(text: str, build: _Builder) -> list[tuple[int, str]]:
    found: list[tuple[int, list[str]]] = []
    fresh = True
    for line, row in enumerate(text.splitlines(), 1):
        row = row.strip()
        if row.startswith("#"):
            build.setting(row[1:], line)
        elif not row:
            fresh = True
        elif fresh:
            found.append((line, [row]))
            fresh = False
        else:
            found[-1][1].append(row)
    return [(line, " ".join(rows)) for line, rows in found]


def _bracket(inside: str, build: _Builder, line: int) -> dict[str, Any]:
    shot: dict[str, Any] = {}
    for item in filter(None, (" ".join(p.split()) for p in re.split(r"[;|]", inside))):
        term = fold_term(item)
        field = next((f for f, kind in _CAMERA.items() if term in get_args(kind)), None)
        value: Any
        if field is not None:
            group, key, value = shot.setdefault("camera", {}), field, term
        elif item.lower() in ("cut", "blend"):
            group, key, value = shot, "transition", item.lower()
        elif seconds := _SECONDS.fullmatch(item):
            group, key, value = shot, "seconds", float(seconds[1])
        else:
            group, key, value = shot, "place", build.place(item, line)
        if key in group:
            near = closest(term, [known for kind in _CAMERA.values() for known in get_args(kind)])
            fix = f"did you mean {near}? Otherwise keep one of the two" if near else "keep one of the two"
            raise InputError(build.at(line), f"must not give {key} twice in one bracket", item, fix)
        group[key] = value
    return shot


_CAMERA = {"scale": Scale, "angle": Angle, "movement": Movement}
