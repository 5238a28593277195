"""The bracket before a shot's text: ``[the desert; close-up; pan left; 2.5 s; blend]``."""

from __future__ import annotations

import re
from typing import Any

from ..core.errors import InputError
from .builder import Builder
from .headings import is_heading
from .lengths import LENGTH_FIX, looks_like_number, read_length, read_span
from .terms import TERMS, camera_like, camera_term, near_term

__all__ = ["read_bracket", "split_brackets", "transition_of"]

_SYNTAX = re.compile(r"[\[\]<>{}=:#@*_\\\"]|\b\w/\d|\d\s?(?:mm|fps|s|f|%)\b")
_AFTER = re.compile(r"[ \t:,–—-]*")
_MOST, _LONGEST = 10, 1000
_LEAD = re.compile(
    r"(?:the|an?|in|on|at|by|inside|outside|under|over|near|behind|his|her|their|my|our)\s", re.IGNORECASE
)
_TRANSITIONS = {
    "cut": "cut", "cut to": "cut", "hard cut": "cut", "smash cut": "cut", "smash cut to": "cut", "match cut": "cut",
    "match cut to": "cut", "jump cut": "cut", "straight cut": "cut", "jump cut to": "cut", "blend": "blend",
    "blend to": "blend", "dissolve": "blend", "dissolve to": "blend", "cross dissolve": "blend", "crossfade": "blend",
    "cross fade": "blend", "fade": "blend", "fade to": "blend", "fade in": "blend", "fade out": "blend",
    "fade to black": "blend", "none": "cut", "match": "match", "schnitt": "cut",
    "harter schnitt": "cut", "coupe": "cut",
    "coupe franche": "cut", "corte": "cut", "überblendung": "blend", "blende": "blend", "fondu": "blend",
    "fondu enchaîné": "blend", "fondu au noir": "blend", "fundido": "blend",
}  # fmt: skip


def transition_of(words: str) -> str | None:
    """``cut``, ``blend`` or ``match`` for the words that shot lists and screenplays use, else None."""
    return _TRANSITIONS.get(re.sub(r"[\s_-]+", " ", words[:60]).strip(" .:").lower())


def split_brackets(paragraph: str, where: str) -> tuple[list[str], str]:
    """What the brackets at the start of a paragraph hold, and the text after them.

    Raises:
        InputError: a bracket that is not closed, or one within another.
    """
    found: list[str] = []
    start = 0
    while paragraph.startswith("[", start):
        end = paragraph.find("]", start)
        inside = paragraph[start + 1 : end if end >= 0 else start + 60]
        if end < 0:
            raise InputError(where, "has a [ without a ]", inside[:40], "close the bracket after the place")
        if "[" in inside:
            fix = "write one pair, e.g. [the desert; close-up; 2.5 s]; remarks are lines that start with #"
            raise InputError(where, "has a bracket within a bracket", paragraph[start : start + 60], fix)
        if len(inside) > _LONGEST or len(found) >= _MOST:
            rule = f"must have at most {_MOST} brackets of {_LONGEST} characters before its text"
            raise InputError(where, rule, inside[:40], "say less about the shot")
        found.append(inside)
        following = _AFTER.match(paragraph, end + 1)
        start = following.end() if following else end + 1
    return found, paragraph[start:].strip()


def read_bracket(inside: str, shot: dict[str, Any], build: Builder, line: int) -> None:
    """Put what a bracket says into `shot`: place, camera, length and transition, in any order, with ``;`` between.

    Raises:
        InputError: something that nothing knows and that is no place, or one thing twice.
    """
    for item in _items(inside):
        group, key, value = _sort(item, shot, build, line)
        if key in group:
            near = near_term(item, cutoff=0.6)
            fix = f"did you mean {near}? Otherwise keep one of the two" if near else "keep one of the two"
            raise InputError(build.at(line), f"must not give {key} twice in one bracket", item, fix)
        group[key] = value


def _items(inside: str) -> list[str]:
    items = []
    for item in re.split(r"[;|]", inside):
        # A comma may belong to a place ("a house, by the sea"), unless what stands beside it is something else.
        parts = [part.strip() for part in re.split(r",(?!\d)", item)]
        known = [p for p in parts if p and (camera_term(p) or transition_of(p) is not None or _is_time(p))]
        items += [*known, ", ".join(p for p in parts if p not in known)] if known else [item]
    return [" ".join(item.split()) for item in items if item.strip()]


def _is_time(text: str) -> bool:
    return re.fullmatch(r"[\d.,]{1,12}\s?(?:s|secs?|seconds?)|\d{1,3}:\d\d", text, re.IGNORECASE) is not None


def _sort(item: str, shot: dict[str, Any], build: Builder, line: int) -> tuple[dict[str, Any], str, Any]:
    """Where in the shot an item goes, and its value."""
    where = build.at(line)
    if found := camera_term(item):
        return shot.setdefault("camera", {}), found[0], found[1]
    if (joined := transition_of(item)) is not None:
        return shot, "transition", joined
    try:
        length = read_length(item, build.rate, plain=False)
        span = read_span(item, build.rate) if length is None else None
    except InputError as error:
        raise InputError(where, error.rule, item, error.fix) from None
    if span is not None:
        length = span[1] - span[0]
    if length is not None:
        return shot, "seconds", float(length)
    if looks_like_number(item):
        rule = "has a bracket with a number that is no length of time"
        raise InputError(where, rule, item, f"{LENGTH_FIX}; leave out scene and shot numbers")
    if is_heading(item):
        return shot, "place", build.place(item, line)
    if near := near_term(item):
        raise InputError(where, "has a bracket item that nothing knows", item, f"did you mean {near}?")
    if not _reads_like_place(item):
        rule = "has a bracket item that is no place, camera term, length or transition"
        raise InputError(
            where, rule, item, f"write a place such as `the desert`, {TERMS[1]}, {TERMS[6]}, 2.5 s or blend"
        )
    return shot, "place", build.place(item, line)


def _reads_like_place(words: str) -> bool:
    """Whether words that nothing else knows may be a place: no code, no sentence, nothing about the camera."""
    if len(words) > 120 or _SYNTAX.search(words) or words[-1:] in "!?." or not re.search(r"[^\W\d_]", words):
        return False
    if any(c.isdigit() and not c.isdecimal() for c in words):  # ² and the like
        return False
    if _LEAD.match(words):
        return True
    code = len(words) <= 4 and words.isascii() and words.upper() == words  # MED, VFX, XYZ
    return not code and not camera_like(words)
