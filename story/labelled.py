"""Shots as labelled lines under headings, ``### Shot 1`` and ``**Camera:** close-up``, as chat programs write them."""

from __future__ import annotations

import re

from ..core.errors import InputError
from ..core.limits import MAX_SHOTS
from .builder import Builder, Story
from .columns import column_role
from .rows import add_rows

__all__ = ["labelled_like", "labelled_story"]

_HEAD = re.compile(
    r"(?:#{1,6}\s*)?(?:\*\*|__)?(?:shot|scene|panel|clip|einstellung|szene|plan|plano)\s?#?\s?(\d{1,4}[a-z]?)\b(.*)",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"(?:[-*•+]\s+)?(?:\*\*|__)?([^\W\d_][^\W_]{0,30}(?:[ /-][^\W_]{1,20}){0,3})"
    r"(?:(?:\*\*|__)\s?:|:(?:\*\*|__)?)\s+(\S.*)"
)
_RULE = re.compile(r"[-*_]{3,}")
_MAX_LABELS = 100


def labelled_like(text: str) -> bool:
    """Whether a text has two known labels or more for each of its headings, and one that says what is seen."""
    heads = 0
    roles: list[str] = []
    for row in map(str.strip, text[:200_000].splitlines()):
        if _HEAD.match(row[:200]):
            heads += 1
        elif heads and (found := _LABEL.match(row[:400])) and (role := column_role(found[1])):
            roles.append(role)
    return heads > 0 and len(roles) >= 2 * heads and bool({"scene", "action"} & set(roles))


def labelled_story(text: str, name: str, title: str = "") -> Story:
    """Read such a text: a label means what the column of a table by that name does.

    Returns: see `builder.Story`.

    Raises:
        InputError: a label twice in one shot, or as for tables.
    """
    build = Builder(name, title)
    shots: list[tuple[int, dict[str, list[str]]]] = []
    labels: dict[str, None] = {}
    last = ""
    left_out = False
    for line, row in enumerate(map(str.strip, text.splitlines()), 1):
        if head := _HEAD.match(row[:200]):
            shots.append((line, {"shot number": [head[1]]}))
            last = ""
            left_out = left_out or any(c.isalpha() for c in head[2])
            if len(shots) > MAX_SHOTS:
                fix = "split the film into several storyboards"
                raise InputError("shots", f"must hold at most {MAX_SHOTS}", "more", fix, build.at(line))
        elif row.startswith("#"):
            build.setting(row.lstrip("#"), line)
        elif not row or _RULE.fullmatch(row):
            last = ""
        elif shots and (found := _LABEL.match(row)):
            last = found[1]
            if last in shots[-1][1]:
                raise InputError(build.at(line), "has a label twice in one shot", last, "keep one of the two")
            shots[-1][1][last] = [found[2].replace("**", "")]
            labels[last] = None
            if len(labels) > _MAX_LABELS:
                rule = f"must have at most {_MAX_LABELS} different labels"
                raise InputError(build.at(line), rule, last, "remove some")
        elif last:
            shots[-1][1][last].append(row)
        else:
            left_out = True
    if left_out:
        build.notes.append("left out the words of headings and lines without a label")
    header = ["shot number", *labels]
    rows = [(line, [" ".join(" ".join(shot.get(label, ())).split()) for label in header]) for line, shot in shots]
    add_rows(header, rows, 1, build)
    return build.done("write a heading such as Shot 1 and labelled lines under it")
