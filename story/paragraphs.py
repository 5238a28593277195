"""Plain text: one shot per paragraph, or per item of a numbered or bulleted list."""

from __future__ import annotations

import re
from typing import Any

from ..core.errors import InputError
from ..core.limits import MAX_SHOTS
from .brackets import read_bracket, split_brackets
from .builder import Builder, Story
from .terms import camera_term

__all__ = ["text_story"]

_ITEM = re.compile(
    r"(?:\*\*|__)?(?:"
    r"(?P<label>shot|scene|panel|clip|frame|beat)\s?#?\s?\d{1,4}[a-z]?"
    r"(?:(?:\*\*|__)?(?:\s?[:.)|]|\s?[-–—](?=\s)|$)|(?:\*\*|__)(?=\s))"
    r"|\(?\d{1,4}[a-z]?[.)](?=\s|\*|$)"
    r"|[-*•‣▪●–—](?=\s)"
    r")(?:\*\*|__)?[:.]?\s*",
    re.IGNORECASE,
)
_PARAGRAPHS = 4 * MAX_SHOTS  # an item of a list may have several
_LONG = 60  # a line this long was wrapped rather than ended
_INNER = re.compile(r"\[([^\[\]]{0,200})\]")
_BRACKET = re.compile(r"\[[^\]]*\]")
_TERM = re.compile(r"([^:.,\[\]<>]{2,40}):\s+(?=\S)")
_BOLD = re.compile(r"\*\*|(?<!\w)__|__(?!\w)")
_FILE = re.compile(
    r"[^\s<>|:;,\"]{1,200}\.(?:ya?ml|json|csv|tsv|txt|fountain|spmd|fdx|xlsx?|ods|docx?|odt|pdf|rtf|md|celtx|"
    r"png|jpe?g|webp|mp4|mov)",
    re.I,
)

Paragraph = tuple[int, list[str]]


def text_story(text: str, name: str, title: str = "") -> Story:
    """Read a text with one shot per paragraph; blank lines separate, lines that start with ``#`` are comments.

    Where every paragraph is an item of a list (``1.``, ``-``, ``Shot 3:``), each item is a shot, with or without blank
    lines. A shot may open with brackets, which start a new shot wherever they open a line: see `brackets`. Without a
    place the shot stays where the one before it was.

    Returns: see `builder.Story`.

    Raises:
        InputError: nothing to read, a bracket that cannot be read, and what looks like something else: a number, a
            file name, or several short lines that may be one shot or several.
    """
    build = Builder(name, title)
    found = _shots(_paragraphs(text, build), build)
    place: str | None = None
    for line, paragraph in found:
        shot: dict[str, Any] = {}
        brackets, words = split_brackets(paragraph, build.at(line))
        for inside in brackets:
            read_bracket(inside, shot, build, line)
        here = shot.get("place", place)
        if isinstance(here, str):
            shot["place"] = place = here
        words = _camera_before(words, shot)
        _check_words(words, build, line, alone=len(found) == 1)
        shot["scene"] = build.prose(words, "scene", line)
        build.add(shot, line)
    return build.done("write one paragraph per shot, with blank lines between")


def _paragraphs(text: str, build: Builder) -> list[list[tuple[int, str]]]:
    """The lines of each paragraph with their numbers."""
    found: list[list[tuple[int, str]]] = []
    fresh = True
    for line, row in enumerate(text.splitlines(), 1):
        row = row.strip()
        if row.startswith("#"):
            build.setting(row[1:], line)
        elif not row:
            fresh = True
        elif fresh:
            if len(found) > _PARAGRAPHS:
                fix = "split the film into several storyboards"
                raise InputError("shots", f"must hold at most {MAX_SHOTS}", "more", fix, build.at(line))
            found.append([(line, row)])
            fresh = False
        else:
            found[-1].append((line, row))
    return found


def _shots(paragraphs: list[list[tuple[int, str]]], build: Builder) -> list[tuple[int, str]]:
    """Each shot's first line and its text."""
    if paragraphs and _introduces(paragraphs):
        line, row = paragraphs[0][0]
        build.notes.append(f"left out the words before the list (line {line})")
        del paragraphs[0][0]
        paragraphs = [p for p in paragraphs if p]
    starts = [bool(_ITEM.match(row)) for paragraph in paragraphs for _, row in paragraph]
    listed = bool(paragraphs) and bool(starts) and starts[0]
    if not listed and sum(starts) > 1:
        line = next(line for paragraph in paragraphs for line, row in paragraph if _ITEM.match(row))
        fix = "make every shot an item of the list, or write paragraphs with blank lines between and no numbers"
        raise InputError(build.at(line), "has a list beside other text", "list items", fix)
    if not listed and len(paragraphs) == 1:
        _refuse_lines(paragraphs[0], build)
    shots: list[tuple[int, list[str]]] = []
    found = [item for paragraph in paragraphs for _, row in paragraph if (item := _ITEM.match(row))] if listed else []
    labels = {(item["label"] or "").lower() for item in found}
    scene: list[str] = []
    headed = False
    for paragraph in paragraphs:
        for k, (line, row) in enumerate(paragraph):
            item = _ITEM.match(row) if listed else None
            if item and len(labels) > 1 and (item["label"] or "").lower() == "scene":
                # The scene that numbered shots play in: what follows its number is their place.
                words = _BOLD.sub("", row[item.end() :]).strip(" .:")
                scene, headed = [f"[{words}]"] if words else [], True
                continue
            following = paragraph[k + 1][1] if k + 1 < len(paragraph) else ""
            if item and (item["label"] or "").lower() == "scene" and (where := _heading(row[item.end() :], following)):
                shots.append((line, [*scene, f"[{where}]"]))
                scene, headed = [], False
                continue
            # A bracket opens a shot, unless only brackets (or the bare number of an item) stand before it.
            bracket = row.startswith("[") and not (shots and all(not r or _BRACKET.fullmatch(r) for r in shots[-1][1]))
            if item or bracket or (k == 0 and not listed):
                shots.append((line, [*scene, row[item.end() :].strip() if item else row]))
                scene, headed = [], False
                if len(shots) > MAX_SHOTS:
                    fix = "split the film into several storyboards"
                    raise InputError("shots", f"must hold at most {MAX_SHOTS}", "more", fix, build.at(line))
            elif headed:
                fix = "number it as a shot of its own, or leave it out"
                raise InputError(build.at(line), "stands between a scene and its first shot", row, fix)
            else:
                shots[-1][1].append(row)
    return [(line, _BOLD.sub("", " ".join(filter(None, rows))).strip()) for line, rows in shots]


def _heading(words: str, following: str) -> str:
    """The place that a line such as ``Scene 1 - The beach`` names above its text; empty where the line is the text."""
    words = _BOLD.sub("", words).strip(" .:-–—")
    if not following or _ITEM.match(following) or following[:1].islower() or words[-1:] in set("!?,;"):
        return ""
    return words if 0 < len(words.split()) <= 5 and not re.search(r"[\[\]<>]", words) else ""


def _introduces(paragraphs: list[list[tuple[int, str]]]) -> bool:
    """Whether the text opens with words such as “Here are the shots:” before a list."""
    rows = [row for paragraph in paragraphs for _, row in paragraph][:2]
    return len(rows) == 2 and rows[0].endswith(":") and not _ITEM.match(rows[0]) and _ITEM.match(rows[1]) is not None


def _refuse_lines(paragraph: list[tuple[int, str]], build: Builder) -> None:
    """Several short lines without a blank one may be one shot or several: only the writer knows."""
    rows = [row for _, row in paragraph]
    if len(rows) < 2 or rows[0].startswith("[") or all(len(row) >= _LONG for row in rows[:-1]):
        return
    fix = "put a blank line between shots, or number them (1. 2. …); write one shot in one line"
    line = paragraph[0][0]
    raise InputError(
        build.at(line), f"may be one shot or {len(rows)}: {len(rows)} lines without a blank one", rows[0], fix
    )


def _camera_before(words: str, shot: dict[str, Any]) -> str:
    """The words less a camera term and a colon before them, ``CU: Mira waves``, which goes to the shot."""
    found = _TERM.match(words)
    term = camera_term(found[1]) if found else None
    if found is None or term is None or term[0] in shot.get("camera", {}):
        return words
    shot.setdefault("camera", {})[term[0]] = term[1]
    return words[found.end() :]


def _check_words(words: str, build: Builder, line: int, alone: bool) -> None:
    build.refuse_number(words, "scene", line)
    if alone and _FILE.fullmatch(words):
        fix = "give the file itself, or write what is seen"
        raise InputError(build.at(line), "is the name of a file, not a shot", words, fix)
    for found in _INNER.finditer(words[:4000]):
        inside = found[1].strip()
        if camera_term(inside) or any(camera_term(item.strip()) for item in re.split(r"[;|,]", inside)):
            fix = "put brackets at the start of the shot, or an empty line before them"
            raise InputError(build.at(line), "has a bracket within the text", found[0], fix)
    if "[[" in words or "]]" in words:
        fix = "notes belong into Fountain (.fountain); here, leave them out or start a line with #"
        raise InputError(build.at(line), "has double brackets within the text", words[:60], fix)
