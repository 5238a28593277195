"""Shot lists as tables: CSV, TSV, cells pasted from a spreadsheet, Markdown tables.

They come from people, and from StudioBinder, Kitsu and the like: column names differ (`columns`), numbers have decimal
commas, cells are empty, exports add lines of their own.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from typing import Any

from .brackets import transition_of
from .builder import Builder, Story
from .columns import COLUMNS, Roles, assign, known_columns
from .errors import InputError, shorten
from .headings import is_heading
from .lengths import looks_like_number
from .limits import MAX_KEYFRAMES, MAX_SHOTS
from .terms import camera_term, fold_term

__all__ = ["csv_story", "table_like"]

_SEP = re.compile(r"sep=(.|\\t)", re.IGNORECASE)
_RULE = re.compile(r"\|?(?:\s*:?-{1,}:?\s*\|)+\s*(?::?-{1,}:?)?\s*")
_LONGEST_RULE = 20_000
_BAR = re.compile(r"(?<!\\)\|")
_COMMENTS = ("#", '"#')
_MAX_CELLS = 200  # columns of a row

Row = tuple[int, list[str]]


def table_like(text: str, *, header: bool = False) -> bool:
    """Whether a text is a table by its look; one that cannot be read is no plain text either.

    Args:
        text: the whole text.
        header: only what opens with a header row that names columns of a shot list.
    """
    lines = _head(text, 12)
    if not lines:
        return False
    if _SEP.fullmatch(lines[0]):
        return True
    if lines[0].startswith("|") and lines[0].count("|") > 1:
        return not header or len(known_columns(lines[0].split("|"))) > 1
    tables = {mark: [[cell.strip() for cell in _split(line, mark)] for line in lines] for mark in "\t;,"}
    if any(_is_header(cells[0]) for cells in tables.values()):
        return True
    if header:
        return False
    if any("\t" in line.strip() for line in lines[:2]):
        return True
    # Prose may hold the same number of commas in every line, but has an empty line between shots.
    if "\n\n" in text[: sum(map(len, lines)) + 2 * len(lines)].replace("\r", "").strip():
        return False
    return any(_in_columns(cells) for mark, cells in tables.items() if mark != "\t")


def _is_header(cells: Sequence[str]) -> bool:
    roles = known_columns(cells)
    brief = all(len(cell.split()) <= 4 and not cell.endswith((".", "!", "?")) for cell in cells)
    return len(cells) > 1 and brief and (len(roles) > 1 or bool({"scene", "action"} & roles))


def _in_columns(rows: Sequence[Sequence[str]]) -> bool:
    """Whether rows have the same number of short cells, or a number in the first."""
    width = len(rows[0])
    if len(rows) < 2 or width < 2 or any(len(row) != width for row in rows):
        return False
    if all(looks_like_number(row[0]) for row in rows[1:]):
        return True
    words = sum(len(cell.split()) for row in rows for cell in row)
    return width > 2 and len(rows) > 2 and words <= 3 * width * len(rows)


def csv_story(text: str, name: str, title: str = "") -> Story:
    """Read a table of shots.

    The first row that is not a comment names the columns, in any order (`columns.COLUMNS` and what others call them);
    at least one says what is seen. Every further row is one shot. Commas, semicolons, tabs or Markdown's bars separate.
    Keyframes are times with ``;`` between, each optionally ``time=image``.

    Returns: see `builder.Story`. The columns that nothing takes are listed in one note.

    Raises:
        InputError: no header, a repeated or misspelt column, a row too wide, a value that cannot be read.
    """
    build = Builder(name, title)
    header: list[str] | None = None
    first = 0
    rows: list[Row] = []
    delimiter, lines = _lines(text, build)
    for line, row in lines:
        cells = [" ".join(cell.split()) for cell in row]
        if not any(cells):
            continue
        if cells[0].startswith("#") and not (header is None and len(known_columns(cells)) > 1):
            # A comment is one text: put together what the separator cut, less the empty cells that spreadsheets add.
            build.setting(delimiter.join(row).strip()[1:].rstrip(delimiter), line)
        elif header is None and len(list(filter(None, cells))) == 1 and len(cells) > 1 and not known_columns(cells):
            build.notes.append(f"left out the line before the header (line {line})")
        elif header is None:
            header, first = _header(cells), line
        else:
            rows.append((line, _fit(cells, header, delimiter, build.at(line))))
            if len(rows) > MAX_SHOTS:
                fix = "split the film into several storyboards"
                raise InputError("shots", f"must hold at most {MAX_SHOTS}", "more rows", fix, build.at(line))
    if header is not None:
        roles = assign(header, [cells for _, cells in rows], build.at(first))
        _rate(roles, rows, build)
        ids = _ids(roles, rows)
        for (line, cells), shot_id in zip(rows, ids, strict=True):
            build.add(_shot(cells, roles, shot_id, build, line), line)
        _say_left_out(roles, build)
    return build.done(f"start with a header row such as {','.join(COLUMNS[:4])}, then one row per shot")


def _head(text: str, count: int) -> list[str]:
    """The first lines that are neither empty nor comments."""
    lines = (line.strip(" \r\n") for line in io.StringIO(text[:20_000], newline=None))
    told = (line for line in lines if line.strip() and not line.startswith(_COMMENTS))
    return list(islice(told, count))


def _split(line: str, mark: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=mark), [])
    except csv.Error:
        return [line]


def _lines(text: str, build: Builder) -> tuple[str, Iterator[Row]]:
    """The separator, and the rows with their line numbers."""
    head = _head(text, 1)
    first = head[0] if head else ""
    if first.startswith("|") and first.count("|") > 1:
        return "|", _markdown(text)
    named = _SEP.fullmatch(first.strip('"'))
    if named:
        delimiter = "\t" if named[1] == "\\t" else named[1]
        start = text.index(first)
        # The line stays, empty, so that line numbers are right.
        text = text[:start] + text[start + len(first) :]
    else:
        delimiter = max("\t;,", key=lambda mark: len(_split(first, mark)))
    return delimiter, _csv(text, delimiter, build)


def _csv(text: str, delimiter: str, build: Builder) -> Iterator[Row]:
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    except (TypeError, ValueError):
        rule = "names a separator that cannot be one"
        raise InputError(build.name, rule, delimiter, "write sep=, or sep=; in the first line") from None
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            rule = f"is not valid CSV: {shorten(str(error), 120)}"
            raise InputError(build.at(line), rule, None, "check the quotes there") from None
        if row is None:
            return
        if len(row) > _MAX_CELLS and any(cell.strip() for cell in row[_MAX_CELLS:]):
            raise InputError(build.at(line), f"must have at most {_MAX_CELLS} cells", len(row), "remove columns")
        yield line, row[:_MAX_CELLS]


def _markdown(text: str) -> Iterator[Row]:
    for line, row in enumerate(text.splitlines(), 1):
        row = row.strip()
        if row and not (row.startswith("|") and len(row) < _LONGEST_RULE and _RULE.fullmatch(row)):
            cells = _BAR.split(row.strip("|")) if row.startswith("|") else [row]
            yield line, [cell.replace("\\|", "|").strip(" *`") for cell in cells[:_MAX_CELLS]]


def _header(cells: Sequence[str]) -> list[str]:
    end = len(cells)
    while end and not cells[end - 1]:
        end -= 1
    return [shorten(cell, 60) for cell in cells[:end]]


def _fit(cells: list[str], header: list[str], delimiter: str, where: str) -> list[str]:
    """The cells of a row, as many as the header has."""
    width = len(header)
    if len(cells) > width and any(cells[width:]):
        # Times of keyframes in the last column need no quotes for the separators among them.
        if delimiter == ";" and header[-1].lower() == "keyframes":
            return [*cells[: width - 1], ";".join(cells[width - 1 :])]
        rule = f"has {len(cells)} cells for {width} columns"
        raise InputError(where, rule, cells[-1] or cells[width], "put text that holds the separator in double quotes")
    return cells[:width] + [""] * (width - len(cells))


def _rate(roles: Roles, rows: Sequence[Row], build: Builder) -> None:
    """Take the frame rate from a column of it, if the list does not set one itself."""
    position = roles.at.get("fps")
    if position is None:
        return
    values = {cells[position]: line for line, cells in rows if cells[position]}
    if len(values) > 1:
        line = max(values.values())
        fix = "a film has one rate: set it as # fps: 24, and remove the column"
        raise InputError("fps", "must be the same in all rows", ", ".join(list(values)[:4]), fix, build.at(line))
    for value, line in values.items():
        if "fps" not in build.data:
            build.setting(f"fps: {value.lower().removesuffix('fps')}", line)


def _ids(roles: Roles, rows: Sequence[Row]) -> list[str]:
    """An id for every row, or nothing; with the scene's number before it where shots count anew in each scene."""
    position, scene = roles.at.get("id"), roles.at.get("number")
    if position is None:
        return [""] * len(rows)
    raw = [cells[position] for _, cells in rows]
    if not any(raw):
        return raw
    ids = [_id(value) if _id(value) else value for value in raw]
    given = [value.lower() for value in ids if value]
    if scene is not None and len(set(given)) < len(given):
        number, joined = "", []
        for (_, cells), value in zip(rows, ids, strict=True):
            number = cells[scene] or number  # merged cells are empty from the second row on
            joined.append(_id(f"{number}-{value}") if value else "")
        return joined
    return ids


def _id(text: str) -> str:
    if re.search(r"\.\.|[/\\]", text):  # a path, not a number such as 1.1
        return text
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text[:80]).strip("-_")[:60]


def _shot(cells: Sequence[str], roles: Roles, shot_id: str, build: Builder, line: int) -> dict[str, Any]:
    def cell(role: str) -> str:
        return cells[roles.at[role]] if role in roles.at else ""

    shot: dict[str, Any] = {"id": shot_id} if shot_id else {}
    for column, positions in roles.texts.items():
        told = [cells[position] for position in positions if cells[position]]
        if column == "scene" and len(told) > 0 and is_heading(told[0]) and not cell("place"):
            shot["place"] = build.place(told.pop(0), line)
        for text in told:
            build.refuse_number(text, column, line)
        if told:
            shot[column] = build.prose(" ".join(_sentences(told)), column, line)
    if camera := _camera(cells, roles, build, line):
        shot["camera"] = camera
    if cell("place"):
        shot["place"] = build.place(cell("place"), line)
    if cell("transition"):
        shot["transition"] = transition_of(cell("transition")) or cell("transition")
    for column in ("frames", "seed"):
        if cell(column):
            shot[column] = build.number(cell(column), column, line, whole=True)
    if "frames" not in shot and (seconds := _seconds(cell, build, line)) is not None:
        shot["seconds"] = seconds
    if cell("keyframes"):
        shot["keyframes"] = _keyframes(cell("keyframes"), build, line)
    return shot


def _sentences(texts: Sequence[str]) -> list[str]:
    return [text if text.endswith((".", "!", "?", "…")) or i == len(texts) - 1 else f"{text}."
            for i, text in enumerate(texts)]  # fmt: skip


def _camera(cells: Sequence[str], roles: Roles, build: Builder, line: int) -> dict[str, str]:
    """The camera by its own columns, then by what the columns of all kinds of camera words say."""
    camera: dict[str, str] = {}
    for kind in ("scale", "angle", "movement"):
        if kind in roles.at and (value := cells[roles.at[kind]]):
            found = camera_term(value)
            if found is not None and found[0] != kind and found[0] not in camera:
                camera[found[0]] = found[1]  # OTS as a shot size is an angle
            else:
                camera[kind] = fold_term(value)
    for position in roles.camera:
        for words in filter(None, (part.strip() for part in re.split(r"[;,/+|]", cells[position]))):
            found = camera_term(words)
            if found is None:
                note = f"line {line}: “{shorten(words, 40)}” is no camera term and was left out"
                if len(build.notes) < 8:
                    build.notes.append(note)
            else:
                camera.setdefault(*found)
    return camera


def _seconds(cell: Any, build: Builder, line: int) -> float | None:
    """The length: as time, as a number of frames, or from first to last."""
    if cell("seconds"):
        return build.seconds(cell("seconds"), line)
    if cell("count"):
        return _frames(int(build.number(cell("count"), "frames", line, whole=True)), build)
    if cell("first") and cell("last"):
        first, last = (cell(role) for role in ("first", "last"))
        if all(re.fullmatch(r"[0-9]{1,9}", value) for value in (first, last)):
            return _frames(int(last) - int(first) + 1, build)  # both are seen: 1001 to 1048 are 48 frames
        return _difference(first, last, build, line)
    if cell("start") and cell("end"):
        return _difference(cell("start"), cell("end"), build, line)
    return None


def _frames(count: int, build: Builder) -> float:
    if "fps" not in build.data:
        note = f"frames are counted at {build.rate} a second; write # fps: 24, or what it is, if they are others"
        if note not in build.notes:
            build.notes.append(note)
    return float(Fraction(count) / build.rate)


def _difference(start: str, end: str, build: Builder, line: int) -> float:
    try:
        length = build.seconds(end, line, "end") - build.seconds(start, line, "start")
    except InputError as error:
        if "fps" in build.data:
            raise
        fix = f"{error.fix}; times of a project with another rate need a line `# fps: 24` before the header"
        raise InputError(error.field, error.rule, error.value, fix, error.where) from None
    if length <= 0:
        raise InputError("end", "must come after the start", f"{start} – {end}", "check the times", build.at(line))
    return length


def _keyframes(text: str, build: Builder, line: int) -> list[dict[str, Any]]:
    parts = [part.strip() for part in re.split(r"[;|]|,\s", text)]
    found: list[dict[str, Any]] = []
    for part in filter(None, parts):
        if len(found) >= MAX_KEYFRAMES:
            rule = f"must hold at most {MAX_KEYFRAMES}"
            raise InputError("keyframes", rule, "more", "split the shot in two", build.at(line))
        at, equals, image = (p.strip() for p in part.partition("="))
        seconds = (
            build.seconds(at, line, "keyframes") if ":" in at else build.number(at.rstrip("s "), "keyframes", line)
        )
        found.append({"at": seconds} | ({"image": image} if equals else {}))
    return found


def _say_left_out(roles: Roles, build: Builder) -> None:
    if roles.left_out:
        names = ", ".join(shorten(name, 30) for name in roles.left_out[:20])
        more = f" and {len(roles.left_out) - 20} more" if len(roles.left_out) > 20 else ""
        build.notes.insert(0, f"left out the column{'s' * (len(roles.left_out) > 1)} {names}{more}")
