"""Reads a story file into plain data with line numbers; what the data means is checked by `Storyboard.parse`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .errors import InputError
from .importers import csv_story, text_story

__all__ = ["KINDS", "MAX_BYTES", "StoryData", "read_story", "read_story_text"]

MAX_BYTES = 1 << 20
"""Largest story file: 1 MiB, several times a thousand shots."""
MAX_VALUES = 200_000
MAX_DEPTH = 24
KINDS = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".csv": "csv", ".txt": "txt"}


@dataclass(frozen=True)
class StoryData:
    """A story file's content, not yet checked.

    Attributes:
        data: plain values, meant to be a storyboard's mapping.
        lines: line of each value by its location, where the format tells; see `validation.Lines`.
        source: the file's name, for errors.
        folder: where relative paths start.
    """

    data: Any
    lines: dict[tuple[Any, ...], int] = field(default_factory=dict)
    source: str = ""
    folder: Path | None = None


def read_story(path: str | os.PathLike[str]) -> StoryData:
    """Read a story file; the suffix decides the format (`KINDS`).

    Raises:
        InputError: missing, not a file, unreadable, too large, not UTF-8, of an unknown kind, or broken inside.
    """
    file = Path(path)
    shown = str(path)
    try:
        exists, is_file = file.exists(), file.is_file()
    except (OSError, ValueError) as error:
        raise InputError("story", "is not a usable path", shown, "give a shorter, plain path") from error
    if not exists:
        raise InputError("story", "does not exist", shown, "check the path")
    if not is_file:
        raise InputError("story", "must be a file", shown, "give the storyboard file itself, not a folder or device")
    kind = KINDS.get(file.suffix.lower())
    if kind is None:
        raise InputError("story", f"must end in {', '.join(KINDS)}", shown, "rename or convert the file")
    try:
        # One byte more than allowed tells an oversized file without reading it all, whatever its size is said to be.
        with file.open("rb") as opened:
            raw = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError("story", "cannot be read", shown, f"check its permissions ({error.strerror})") from error
    if len(raw) > MAX_BYTES:
        fix = "split the film into several storyboards"
        raise InputError("story", f"must be at most {MAX_BYTES} bytes", shown, fix)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        seen = f"byte 0x{raw[error.start]:02X} in line {line}"
        raise InputError(file.name, "must be UTF-8 text", seen, "save the file as UTF-8") from error
    return read_story_text(text, kind, folder=file.parent, source=file.name)


def read_story_text(
    text: str, kind: str, *, folder: str | os.PathLike[str] | None = None, source: str = ""
) -> StoryData:
    """The same from text in hand; `kind` is yaml, json, csv or txt. Raises InputError when it is broken."""
    name = source or f"{kind} text"
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputError(f"{name} line {line}", "must be plain text", "a zero byte", "save the file as UTF-8 text")
    if not text.strip():
        raise InputError(name, "is empty", None, "write a title and at least one shot")
    lines: dict[tuple[Any, ...], int] = {}
    data: Any
    if kind == "yaml":
        data, lines = _read_yaml(text, name)
    elif kind == "json":
        data = _read_json(text, name)
    elif kind in ("csv", "txt"):
        read = csv_story if kind == "csv" else text_story
        data, lines = read(text, name, Path(source).stem)
    else:
        raise InputError("kind", "must be yaml, json, csv or txt", kind, "name the format of the text")
    return StoryData(data, lines, source, None if folder is None else Path(folder))


def _read_json(text: str, name: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise InputError(name, "must not give a field twice", key, "keep one of the two")
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        near = text[error.pos : error.pos + 20].split("\n")[0]
        where = f"{name} line {error.lineno}, column {error.colno}"
        raise InputError(where, f"is not valid JSON: {error.msg.lower()}", near, "correct the syntax there") from None
    except InputError:
        raise
    except (RecursionError, ValueError) as error:  # brackets without end, a number of thousands of digits
        raise InputError(name, "is not valid JSON", type(error).__name__, "write a storyboard's fields") from None


def _read_yaml(text: str, name: str) -> tuple[Any, dict[tuple[Any, ...], int]]:
    # The pure Python loader on purpose: the C one dies of a stack overflow on deeply nested brackets.
    if bad := yaml.reader.Reader.NON_PRINTABLE.search(text):
        line, seen = text[: bad.start()].count("\n") + 1, f"U+{ord(bad[0]):04X}"
        raise InputError(f"{name} line {line}", "must not hold control characters", seen, "delete that character")
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        lines = _walk(node, name) if node is not None else {}
        return (loader.construct_document(node) if node is not None else None), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name} line {mark.line + 1}, column {mark.column + 1}" if mark else name
        row = text.splitlines()[mark.line].strip() if mark and mark.line < len(text.splitlines()) else None
        problem = error.problem or error.context or "cannot be parsed"
        fix = "correct the YAML there: indent with spaces, quote text that holds : or #"
        raise InputError(where, f"is not valid YAML: {problem}", row, fix) from None
    except InputError:
        raise
    except RecursionError:
        raise InputError(name, f"must not nest deeper than {MAX_DEPTH}", "deep nesting", "flatten it") from None
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
        # An impossible date, a number too long, a tag such as !!float on text: PyYAML lets its own slips through.
        message = " ".join(str(error).split())
        raise InputError(name, "holds a value that YAML cannot read", message, "put the value in quotes") from None
    finally:
        loader.dispose()


def _walk(root: yaml.Node, name: str) -> dict[tuple[Any, ...], int]:
    """Lines of all values. Refuses what safe_load lets through: fields given twice, and alias bombs."""
    lines: dict[tuple[Any, ...], int] = {}
    count = 0

    def visit(node: yaml.Node, location: tuple[Any, ...], line: int) -> None:
        nonlocal count
        count += 1
        where = f"{name} line {node.start_mark.line + 1}"
        if count > MAX_VALUES:
            raise InputError(where, f"must not expand to more than {MAX_VALUES} values", "aliases", "use fewer aliases")
        if len(location) > MAX_DEPTH:
            raise InputError(where, f"must not nest deeper than {MAX_DEPTH}", "deep nesting", "flatten it")
        lines.setdefault(location, line)
        if isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                visit(item, (*location, i), item.start_mark.line + 1)
        elif isinstance(node, yaml.MappingNode):
            seen: set[tuple[str, str]] = set()
            for key, value in node.value:
                at = key.start_mark.line + 1
                here = f"{name} line {at}"
                if not isinstance(key, yaml.ScalarNode):
                    raise InputError(here, "must have text as field names", "a list or mapping", "quote it")
                if (key.tag, key.value) in seen:
                    raise InputError(here, "must not give a field twice", key.value, "keep one of the two")
                seen.add((key.tag, key.value))
                visit(value, (*location, key.value), at)

    visit(root, (), root.start_mark.line + 1)
    return lines
