"""Fountain screenplays (fountain.io, syntax 1.1), as far as a film without sound needs them.

A reader of our own: the published ones (screenplay-tools 0.0.10, fountain-tools 0.0.7) keep no line numbers, which
every error here names, and take FADE IN: for a scene heading.
"""

from __future__ import annotations

import re

from ..core.errors import InputError
from .builder import Builder, Story
from .headings import is_heading
from .screenplay import Element, screenplay_story

__all__ = ["fountain_like", "fountain_story"]

_TITLE_KEY = re.compile(
    r"(title|credit|authors?|source|notes|draft date|date|contact|copyright|revision)\s?:(.*)", re.I
)
_TRANSITION = re.compile(r"[A-Z][A-Z ]{0,40} TO:|FADE (?:IN|OUT|TO BLACK)[.:]?|CUT TO BLACK[.:]?|THE END\.?")
_FORCED = re.compile(r"\.(?!\.)\s?\S")
_EMPHASIS = re.compile(r"(?<!\\)(?:\*{1,3}|(?<!\w)_|_(?!\w))")
_ESCAPE = re.compile(r"\\([*_\\!@~.>#=])")
_ELEMENTS = 10_000  # ten for each of the most shots
_PANEL = re.compile(r"\[\[panel\b[^\[\]]{0,60}\]\]", re.I)  # as storyboard programs part a screenplay
_MARKS = re.compile(r"\[\[|\]\]|/\*|\*/")


def fountain_like(text: str) -> bool:
    """Whether a text is Fountain by its look: a scene heading, a title page, a transition, or panels.

    Other notes in double brackets tell nothing: they may as well be a bracket of plain text, written twice.
    """
    rows = text[:200_000].splitlines()
    first = next((row.strip() for row in rows if row.strip()), "")
    if first.startswith("/*") or _PANEL.match(first) or re.match(r"(?:Title|Credit|Authors?)\s?:", first):
        return True
    return any(is_heading(row.strip()) for row in rows) or any(
        re.fullmatch(r"(?:CUT|DISSOLVE|SMASH CUT|FADE|MATCH CUT) TO:|FADE IN:", row.strip()) for row in rows
    )


def fountain_story(text: str, name: str, title: str = "") -> Story:
    """Read a screenplay: every paragraph of action is a shot in the place of its scene heading.

    The title page gives the title. Notes ``[[…]]``, omitted text ``/*…*/``, sections ``#``, synopses ``=`` and scene
    numbers are not in the film; comments ``# fps: …`` and ``# size: …`` set these as in other lists. A transition goes
    to the next shot: DISSOLVE and FADE blend.

    Returns: see `builder.Story`.

    Raises:
        InputError: no action, or a note or comment that is not closed before the end.
    """
    build = Builder(name, title)
    rows = _without_notes(text.splitlines())
    start = _title_page(rows, build)
    return screenplay_story(_elements(rows[start:], start + 1, build), build)


def _without_notes(rows: list[str]) -> list[str]:
    """The rows less ``[[…]]`` and ``/*…*/``; a blank line ends a note, as the syntax says, but not an omission."""
    kept = []
    inside = ""
    for row in rows:
        if inside == "]]" and not row.strip():
            inside = ""
        pieces, last, removed = [], 0, bool(inside)
        for mark in _MARKS.finditer(row):
            if not inside and mark[0] in ("[[", "/*"):
                pieces.append(row[last : mark.start()])
                inside, removed = ("]]" if mark[0] == "[[" else "*/"), True
            elif mark[0] == inside:
                inside, last = "", mark.end()
        if not inside:
            pieces.append(row[last:])
        rest = "".join(pieces)
        # A row that held nothing but a note is no blank line: it does not part a paragraph.
        kept.append("\0" if removed and not rest.strip() else rest)
    return kept


def _title_page(rows: list[str], build: Builder) -> int:
    """Take the title; the number of rows that the title page has."""
    if not rows or not _TITLE_KEY.match(rows[0].lstrip("\ufeff")):
        return 0
    key, words = "", list[str]()
    for i, row in enumerate(rows):
        found = _TITLE_KEY.match(row.lstrip("\ufeff"))
        if not row.strip() or row == "\0":
            return i
        if found:
            key, value = found[1].lower(), found[2]
        elif row[:1] in (" ", "\t"):
            value = row
        elif ":" in row[:40]:
            key = ""
            continue
        else:
            return i
        if key == "title" and _plain(value):
            words.append(_plain(value))
            build.data["title"] = " ".join(words[:20])[:200]
            build.lines[("title",)] = i + 1
    return len(rows)


def _plain(text: str) -> str:
    return " ".join(_ESCAPE.sub(r"\1", _EMPHASIS.sub("", text)).split())


def _elements(rows: list[str], first: int, build: Builder) -> list[Element]:
    elements: list[Element] = []
    paragraph: list[tuple[int, str]] = []
    for line, row in enumerate([*rows, ""], first):
        if row == "\0":
            continue
        if row.strip():
            paragraph.append((line, row.strip()))
        elif paragraph:
            elements += _paragraph(paragraph, build)
            paragraph = []
            if len(elements) > _ELEMENTS:
                fix = "split the film into several storyboards"
                raise InputError("story", f"must have at most {_ELEMENTS} paragraphs", "more", fix, build.at(line))
    return elements


def _paragraph(rows: list[tuple[int, str]], build: Builder) -> list[Element]:
    """The elements of lines without a blank one between."""
    found: list[Element] = []
    action: list[tuple[int, str]] = []

    def end() -> None:
        if action:
            found.append(Element("action", " ".join(_plain(row) for _, row in action), action[0][0]))
            action.clear()

    for k, (line, row) in enumerate(rows):
        if row.startswith("!"):
            action.append((line, row[1:]))
        elif row.startswith("#"):
            end()
            build.setting(row.lstrip("#"), line)
        elif row.startswith("="):  # a synopsis, or a page break
            end()
        elif row.startswith("~"):
            end()
            found.append(Element("speech", row, line))
        elif row.startswith(">"):
            end()
            kind = "centred" if row.endswith("<") else "transition"
            found.append(Element(kind, _plain(row.strip("> <")), line))  # type: ignore[arg-type]
        elif _FORCED.match(row) or (k == 0 and is_heading(row)):
            end()
            found.append(Element("heading", _plain(row[1:] if row.startswith(".") else row), line))
        elif len(rows) == 1 and _TRANSITION.fullmatch(row):
            found.append(Element("transition", row, line))
        elif not action and _is_cue(row) and k + 1 < len(rows):
            end()
            found.append(Element("speech", row, line))
            return found  # the rest of the paragraph is what is said
        else:
            action.append((line, row))
    end()
    return [element for element in found if element.text]


def _is_cue(row: str) -> bool:
    """Whether a line names a speaker: capitals, with (V.O.) and the like behind it, or forced with @."""
    if row.startswith("@"):
        return True
    name = row.rstrip("^ ").split("(")[0]
    return len(row) < 80 and name.upper() == name and any(c.isalpha() for c in name) and "<" not in name
