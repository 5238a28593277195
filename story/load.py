"""Reads a story file or text into plain data with line numbers; `Storyboard.parse` checks what the data means."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.documents import parse_json, read_bytes
from ..core.errors import InputError, closest
from ..core.limits import MAX_BYTES, MAX_DEPTH, MAX_LINES, MAX_SHOTS, MAX_VALUES
from ..core.yaml_text import read_yaml
from .builder import Story
from .fdx import fdx_story
from .formats import KINDS, guess_kind, lone_table, unfence
from .fountain import fountain_story
from .labelled import labelled_story
from .paragraphs import text_story
from .records import records_like, records_story
from .tables import csv_story
from .timed import timed_story, travel_story

__all__ = ["KINDS", "MAX_BYTES", "StoryData", "read_story", "read_story_text", "story_bytes"]

_READERS: dict[str, Callable[[str, str, str], Story]] = {
    "csv": csv_story, "txt": text_story, "labelled": labelled_story,
    "timed": timed_story, "fountain": fountain_story, "fdx": fdx_story,
}  # fmt: skip


@dataclass(frozen=True)
class StoryData:
    """A story file's content, not yet checked.

    Attributes:
        data: plain values, meant to be a storyboard's mapping.
        lines: line of each value by its location, where the format tells; see `validation.Lines`.
        source: the file's name, for errors.
        folder: where relative paths start.
        notes: what was left out or decided, one line each.
    """

    data: Any
    lines: dict[tuple[Any, ...], int] = field(default_factory=dict)
    source: str = ""
    folder: Path | None = None
    notes: tuple[str, ...] = ()


def story_bytes(path: str | os.PathLike[str], *, shown: str = "") -> bytes:
    """The content of a story file; `shown` is what errors call it, the path itself if empty.

    Raises:
        InputError: missing, not a regular file, unreadable, or too large.
    """
    try:
        return read_bytes(path, "story", limit=MAX_BYTES, what="storyboard file")
    except InputError as error:
        seen = str(error.value).replace(str(path), shown or str(path))
        raise InputError("story", error.rule, seen, error.fix) from None


def read_story(path: str | os.PathLike[str], *, shown: str = "", raw: bytes | None = None) -> StoryData:
    """Read a story file; the suffix decides the format (`KINDS`).

    Args:
        path: the file.
        shown: what errors call it; the path itself if empty.
        raw: its content, if it is known.

    Raises:
        InputError: as `story_bytes`; not UTF-8 or UTF-16, of an unknown kind, or broken inside.
    """
    file = Path(path)
    raw = story_bytes(path, shown=shown) if raw is None else raw
    kind = KINDS.get(file.suffix.lower())
    if kind is None:
        near = closest(file.suffix.lower(), KINDS, 0.5)
        fix = f"rename it to {near} if that is what it holds" if near else "rename or convert the file"
        raise InputError("story", f"must end in {', '.join(KINDS)}", shown or str(path), fix)
    return read_story_text(_decode(raw, file.name), kind, folder=file.parent, source=file.name)


def _decode(raw: bytes, name: str) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark, as spreadsheets export it."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and not raw.startswith(codecs.BOM_UTF32_LE):
        try:
            return raw.decode("utf-16")
        except UnicodeDecodeError:
            raise InputError(name, "must be whole UTF-16 text", "half a character", "save it as UTF-8") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        seen = f"byte 0x{raw[error.start]:02X} in line {line}"
        raise InputError(name, "must be UTF-8 text", seen, "save the file as UTF-8") from error


def read_story_text(
    text: str, kind: str, *, folder: str | os.PathLike[str] | None = None, source: str = ""
) -> StoryData:
    """The same from text in hand.

    Args:
        text: the story.
        kind: yaml, json, csv, txt, timed, labelled, fountain or fdx; ``auto`` tells it by the text.
        folder: where relative paths start.
        source: the file's name, for errors and as the title of formats that may have none.

    Raises:
        InputError: it is too large or broken.
    """
    # Before anything looks at the text; as characters first, because encoding a huge one takes time, too.
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        fix = "split the film into several storyboards"
        raise InputError(source or "story", f"must be at most {MAX_BYTES} bytes", f"{len(text)} characters", fix)
    text = text.removeprefix("\ufeff")
    if text.count("\n") + text.count("\r") > 2 * MAX_LINES or text.count("\n") > MAX_LINES:
        fix = "split the film into several storyboards"
        raise InputError(source or "story", f"must have at most {MAX_LINES} lines", "more", fix)
    note = ""
    if kind == "auto":
        text, kind, note = unfence(text, source or "story text")
        if kind == "auto" and not note:
            text, note = lone_table(text, source or "story text")
        kind = guess_kind(text) if kind == "auto" else kind
    name = source or f"{'txt' if kind in ('timed', 'labelled') else kind} text"
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputError(f"{name} line {line}", "must be plain text", "a zero byte", "save the file as UTF-8 text")
    if not text.strip():
        raise InputError(name, "is empty", None, "write a title and at least one shot")
    data, lines, notes = _read(text, kind, name, Path(source).stem)
    all_notes = (note, *notes) if note else notes
    return StoryData(data, lines, source, None if folder is None else Path(folder), all_notes)


def _read(text: str, kind: str, name: str, title: str) -> Story:
    if kind == "yaml":
        data, lines = read_yaml(text, name)
        lines = lines if isinstance(data, dict) else {("shots", *key): n for key, n in lines.items()}
        return records_story(data, name, title, lines) if records_like(data) else (_film(data), lines, ())
    if kind == "json":
        data = parse_json(text, name, max_depth=MAX_DEPTH, max_values=MAX_VALUES)
        if isinstance(data, dict) and data and all(_is_frame(k) and isinstance(v, str) for k, v in data.items()):
            return travel_story(data, name, title)
        return records_story(data, name, title, {}) if records_like(data) else (_film(data), {}, ())
    if kind not in _READERS:
        kinds = ", ".join(["auto", "yaml", "json", *_READERS])
        raise InputError("kind", f"must be one of {kinds}", kind, "name the format of the text")
    return _READERS[kind](text, name, title)


def _is_frame(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) < 7


def _film(data: Any) -> Any:
    """A list in the place of a film is the list of its shots, of which texts are what is seen."""
    if not isinstance(data, list) or len(data) > MAX_SHOTS:
        return {"shots": data} if isinstance(data, list) else data
    return {"shots": [{"scene": shot} if isinstance(shot, str) else shot for shot in data]}
