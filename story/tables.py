"""Shot lists as tables: CSV, TSV, cells pasted from a spreadsheet, Markdown tables.

They come from people, and from StudioBinder, Kitsu and the like: column names differ (`columns`), numbers have decimal
commas, cells are empty, exports add lines of their own.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from itertools import islice

from ..core.errors import InputError, shorten
from ..core.limits import MAX_SHOTS
from .builder import Builder, Story
from .columns import COLUMNS, known_columns
from .lengths import looks_like_number
from .rows import Row, add_rows

__all__ = ["csv_story", "table_like"]

_SEP = re.compile(r"sep=(.|\\t)", re.IGNORECASE)
_RULE = re.compile(r"\|?(?:\s*:?-{1,}:?\s*\|)+\s*(?::?-{1,}:?)?\s*")
_LONGEST_RULE = 20_000
_BAR = re.compile(r"(?<!\\)\|")
_COMMENTS = ("#", '"#')
_MAX_CELLS = 200  # columns of a row


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
        add_rows(header, rows, first, build)
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
