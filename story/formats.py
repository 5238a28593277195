"""Which format a text is in, whoever wrote it: one reader for files, pasted text and answers of chat programs."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from ..core.errors import InputError, shorten
from .columns import column_role, known_columns
from .fdx import fdx_like
from .fountain import fountain_like
from .labelled import labelled_like
from .tables import table_like
from .timed import timed_like

__all__ = ["KINDS", "guess_kind", "lone_table", "named_file", "unfence"]

KINDS = {
    ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".csv": "csv", ".tsv": "csv", ".txt": "auto",
    ".fountain": "fountain", ".spmd": "fountain", ".fdx": "fdx",
}  # fmt: skip
"""Suffix of a story file: its format. A ``.txt`` may hold any, and is told by its content."""

_FENCED = {
    "": "auto", "text": "auto", "txt": "auto", "plaintext": "auto", "markdown": "auto", "md": "auto", "yaml": "yaml",
    "yml": "yaml", "json": "json", "jsonc": "json", "csv": "csv", "tsv": "csv", "fountain": "fountain", "xml": "fdx",
}  # fmt: skip
# Nothing is given back, and what follows the language is short: of a line full of marks each is looked at once.
_FENCE = re.compile(r"[ ]{0,3}((?<!`)`{3,}+|(?<!~)~{3,}+)[ \t]*+([\w+-]{0,40}+)[^`\n]{0,100}$", re.MULTILINE)
_FIELD = re.compile(r"(?:title|fps|size|characters|places|shots)\s*:(?!\S)", re.MULTILINE)
_SHOTS = re.compile(r"^(?:shots|Shots|SHOTS|characters|places)\s*:[ \t]*(?:$|[\[{#&|>])", re.MULTILINE)
_NESTED = re.compile(r"[A-Za-z_][\w-]{0,40}\s*:[ \t]*\r?\n(?:[ \t]+\S|- )")
_YAML_LIST = re.compile(r"-\s+(?:\{|(?:id|place|scene|action|camera|seconds|frames|keyframes|transition|seed)\s*:)")
_RECORD = re.compile(r"-[ \t]+([^\W\d_][\w ]{0,30}):(?:[ \t][^\n]*)?\r?\n[ \t]+[^\W\d_][\w ]{0,30}:[ \t]")
_JSON_LIST = re.compile(r"\[\s*(?:[{\"]|\]\s*$)")
_RULE = re.compile(r"\|(?:[ \t]*:?-{1,}:?[ \t]*\|)+")
_FILE = re.compile(r"[^\n<>|\"*?]{1,400}")


def named_file(text: str) -> str | None:
    """The file that a text names: one line that ends like a story file. None if it is the story itself."""
    line = text.strip() if len(text) < 5000 else ""
    if not line or "\n" in line or not _FILE.fullmatch(line) or line.startswith(("[", "{")):
        return None
    return line if PurePosixPath(line.replace("\\", "/")).suffix.lower() in KINDS else None


def guess_kind(text: str) -> str:
    """The format of a text: ``yaml``, ``json``, ``csv``, ``fountain``, ``fdx``, ``timed``, ``labelled``, else ``txt``.

    It goes by the look alone, so a broken table is called a table, and its reader says what is wrong with it.
    """
    start = text.lstrip("\ufeff \t\r\n")
    if start.startswith("<") and fdx_like(start):
        return "fdx"
    if start.startswith("{"):
        return "json" if re.match(r"\{\s*(?:\"|\}|$)", start) else "yaml"
    if _JSON_LIST.match(start):
        return "yaml" if re.match(r"\[\s*\{\s*[^\s\"}]", start) else "json"
    if _SHOTS.search(text):
        return "yaml"
    if table_like(text, header=True):
        return "csv"
    if timed_like(text):
        return "timed"
    content = re.sub(r"\A(?:\s*(?:#[^\n]*)?\n)+", "", start + "\n")
    record = _RECORD.match(content)
    if (
        _YAML_LIST.match(content)
        or (record and column_role(record[1]))
        or _NESTED.match(content)
        or content.startswith("---")
    ):
        return "yaml"
    if fountain_like(text):
        return "fountain"
    if any(_FIELD.match(line) for line in text.splitlines()):
        return "yaml"
    if labelled_like(text):
        return "labelled"
    return "csv" if table_like(text) else "txt"


def unfence(text: str, name: str) -> tuple[str, str, str]:
    """The block of a text between ``` fences, which chat programs put around what they write.

    Args:
        text: the whole text.
        name: what it is called in errors.

    Returns:
        The block, with empty lines in the place of what stands before it (so that line numbers stay right); the format
        that the fence names, ``auto`` where it names none; and a note on what was left out. Without fences the text,
        ``auto`` and no note.

    Raises:
        InputError: more than one block, one that is not closed, or one in a format that is no storyboard's.
    """
    if "```" not in text and "~~~" not in text:
        return text, "auto", ""
    marks = list(_FENCE.finditer(text))
    if not marks:
        return text, "auto", ""
    first = marks[0]
    line = text.count("\n", 0, first.start()) + 1
    if len(marks) < 2:
        fix = "paste the whole block, with ``` at its end"
        raise InputError(f"{name} line {line}", "opens a ``` block that is not closed", None, fix)
    if len(marks) > 2:
        fix = "leave one block, with the storyboard"
        raise InputError(name, "must have one ``` block", f"{len(marks) // 2} blocks", fix)
    language = first[2].lower()
    if language not in _FENCED:
        fix = "use yaml, json, csv or text"
        raise InputError(f"{name} line {line}", "has a ``` block in another format", shorten(language, 40), fix)
    around = (text[: first.start()] + text[marks[1].end() :]).strip()
    note = "left out the text around the ``` block" if around else ""
    return "\n" * text.count("\n", 0, first.end()) + text[first.end() : marks[1].start()], _FENCED[language], note


def lone_table(text: str, name: str) -> tuple[str, str]:
    """The Markdown table of a text with words around it, as chat programs answer.

    Args:
        text: the whole text.
        name: what it is called in errors.

    Returns:
        The table, with empty lines in the place of all else but lines that start with ``#`` (they may hold settings),
        and a note on what was left out. A text without such a table, or with nothing else, as it is and no note.

    Raises:
        InputError: tables with different headers. Of several with one header, as of scenes, the rows are put together.
    """
    rows = text.splitlines()
    heads = [i for i, row in enumerate(rows[1:]) if row.strip().startswith("|") and _RULE.fullmatch(row.strip()[:2000])]
    heads = [i for i in heads if len(known_columns(rows[i].split("|"))) > 1]
    if not heads:
        return text, ""
    cells = {tuple(cell.strip(" *`") for cell in rows[i].strip().strip("|").split("|")): i + 1 for i in heads}
    if len(cells) > 1:
        line = max(cells.values())
        fix = "leave one, or give all the same header"
        raise InputError(f"{name} line {line}", "has a second table with other columns", rows[line - 1], fix)
    again = {j for i in heads[1:] for j in (i, i + 1)} | {heads[0] + 1}  # headers but the first, and rules
    kept, around = [], False
    for i, row in enumerate(rows):
        table = row.strip().startswith("|") and i not in again
        around = around or not (row.strip().startswith(("|", "#")) or not row.strip())
        kept.append(row if table or row.startswith("#") else "")
    return "\n".join(kept), "left out the text around the table" if around else ""
