"""Prompts with times: ``[1s: …] [3s: …]``, ``0:03 …``, ``0-2.5s: …``, and prompt travel ``0: "…", 16: "…"``.

The times become lengths of shots: a prompt lasts until the next one starts. The first is on from the start of the film
on, even where its time is later, as in FramePack; the last, whose end nothing tells, lasts as long as the one before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from ..core.errors import InputError
from ..core.limits import MAX_SHOTS
from .builder import Builder, Story
from .lengths import read_length, read_span

__all__ = ["timed_like", "timed_story", "travel_story"]

_CLOCK = r"\d{1,3}(?::\d{1,2}){1,2}(?:[:;.,]\d{1,3})?"
_AMOUNT = r"\d{1,6}(?:[.,]\d{1,6})?"
_UNITS = rf"{_AMOUNT}\s?(?:s|secs?|seconds?)"
_TIME = rf"(?:{_CLOCK}|{_UNITS})"
_SPAN = rf"(?:{_CLOCK}|{_AMOUNT}\s?(?:s|secs?|seconds?)?)\s?(?:-->|-|–|—|→|to)\s?{_TIME}"
_CLOSE_SPAN = rf"(?:{_CLOCK}|{_AMOUNT}s?)\s?(?:-->|-|–|—|→)\s?(?:{_CLOCK}|{_AMOUNT}s)"
# [2s: text]; behind a clock or a bare number the colon must not belong to the time itself.
_INLINE = re.compile(rf"\[\s?(?:({_SPAN}|{_UNITS})\s?:\s?|({_CLOCK}|{_AMOUNT})\s?:(?:\s|(?=[^\d\s])))([^\[\]]*)\]")
# A time that opens a line. "3 seconds later" is a sentence: words need a sign behind them, 0:03 only a space.
_STAMP = re.compile(
    rf"(?:\[({_SPAN})\]\s?[:|–-]?|\(({_SPAN}|{_TIME})\)\s?[:|–-]?|({_CLOSE_SPAN})(?=\s|:|$):?"
    rf"|({_SPAN}|{_TIME})(?:\s?[:|](?=\s|[^\d])|\s[-–—](?=\s+\D))|({_CLOCK})(?=\s|$))\s*(.*)",
    re.DOTALL,
)
_START = re.compile(rf"\[({_TIME}|0)\]\s?[:|–-]?\s*(.*)", re.DOTALL)
_PARTS = re.compile(rf"(?=\[(?:{_SPAN}|{_TIME})\]|\((?:{_SPAN}|{_TIME})\))")
_TRAVEL = re.compile(r"[\"']?(\d{1,6})[\"']?\s?:\s?([\"'].*)", re.DOTALL)
_ZERO = re.compile(r"\[0{1,2}(?:[.,:]0{1,3}){0,3}\s?s?\]")


@dataclass
class _Cue:
    line: int
    start: Fraction
    end: Fraction | None
    text: str


def timed_like(text: str) -> bool:
    """Whether the text opens with a timed prompt."""
    rows = [row for row in map(str.strip, text[:20_000].splitlines()[:200]) if row and not row.startswith("#")][:2]
    # Subtitles have a running number before each time.
    first = rows[-1] if rows and rows[0].isascii() and rows[0].isdigit() else rows[0] if rows else ""
    first = first[:400]
    # [2 s] before a shot is its length; [0 s] can only be a start.
    return any(p.match(first) for p in (_STAMP, _TRAVEL, _ZERO)) or _INLINE.match(first + "]") is not None


def timed_story(text: str, name: str, title: str = "") -> Story:
    """Read timed prompts; comment lines may hold settings, as in other lists.

    Returns: see `builder.Story`.

    Raises:
        InputError: text without a time, times that do not rise, or a time that cannot be.
    """
    build = Builder(name, title)
    rows = []
    for line, row in enumerate(text.splitlines(), 1):
        row = row.strip()
        if row.startswith("#"):
            build.setting(row[1:], line)
        elif row:
            rows.append((line, row))
    first = rows[0][1] if rows else ""
    if _INLINE.match(first[:400] + "]"):
        cues = _inline(rows, build)
    elif _TRAVEL.match(first):
        cues = _travel(rows, build)
    else:
        cues = _stamped(rows, build)
    return _story(cues, build)


def travel_story(prompts: Mapping[str, str], name: str, title: str = "") -> Story:
    """Prompt travel as a mapping of frame numbers to prompts. Raises InputError as `timed_story`."""
    return timed_story("\n".join(f"{frame}: {_quoted(text)}" for frame, text in prompts.items()), name, title)


def _quoted(text: str) -> str:
    return '"' + " ".join(text.split()) + '"'


def _story(cues: list[_Cue], build: Builder) -> Story:
    for cue, seconds in zip(cues, _lengths(cues, build), strict=True):
        build.refuse_number(cue.text, "scene", cue.line)
        shot = {"scene": build.prose(cue.text, "scene", cue.line)}
        build.add(shot if seconds is None else {**shot, "seconds": float(seconds)}, cue.line)
    return build.done("write a time before each prompt, e.g. [0s: the sea] [2s: a boat]")


def _cue(line: int, stamp: str, text: str, build: Builder) -> _Cue:
    try:
        span = read_span(stamp, build.rate, "time")
        if span is not None:
            return _Cue(line, *span, text.strip())
        start = read_length(stamp, build.rate, "time")
    except InputError as error:
        raise InputError(error.field, error.rule, error.value, error.fix, build.at(line)) from None
    if start is None:
        raise InputError("time", "must be a time", stamp, "write e.g. 2s or 0:02", build.at(line))
    return _Cue(line, start, None, text.strip())


def _inline(rows: list[tuple[int, str]], build: Builder) -> list[_Cue]:
    whole = "\n".join(row for _, row in rows)
    # The line of a position: rows are joined by one character each.
    ends, total = [], 0
    for line, row in rows:
        total += len(row) + 1
        ends.append((total, line))
    cues: list[_Cue] = []
    position = row_at = 0
    while position < len(whole):
        while row_at < len(ends) - 1 and ends[row_at][0] <= position:
            row_at += 1
        line = ends[row_at][1]
        found = _INLINE.match(whole, position)
        if found is None:
            seen = whole[position : position + 60]
            fix = "write all prompts as [TIME: text], e.g. [0s: the sea] [2s: a boat]"
            raise InputError(build.at(line), "has text outside of the timed prompts", seen, fix)
        _room(cues, build, line)
        cues.append(_cue(line, found[1] or found[2], " ".join(found[3].split()), build))
        position = found.end()
        while position < len(whole) and whole[position] in " \t\n,;":
            position += 1
    return cues


def _travel(rows: list[tuple[int, str]], build: Builder) -> list[_Cue]:
    """Prompt travel: frame numbers before quoted prompts."""
    cues: list[_Cue] = []
    for line, row in rows:
        found = _TRAVEL.match(row)
        body = found[2].rstrip(" ,;") if found else ""
        if found is None or len(body) < 2 or body[-1] != body[0]:
            fix = 'write each as FRAME: "prompt", one in a line'
            raise InputError(build.at(line), "is no frame number with a prompt in quotes", row[:60], fix)
        _room(cues, build, line)
        cues.append(_Cue(line, Fraction(int(found[1])) / build.rate, None, body[1:-1].strip()))
    if "fps" not in build.data:
        build.notes.append(
            f"frames are counted at {build.rate} a second; write # fps: 24, or what it is, if they are others"
        )
    return cues


def _stamped(rows: list[tuple[int, str]], build: Builder) -> list[_Cue]:
    cues: list[_Cue] = []
    parts = [(line, part.strip()) for line, row in rows for part in _PARTS.split(row) if part.strip()]
    for i, (line, row) in enumerate(parts):
        if found := _STAMP.match(row):
            _room(cues, build, line)
            cues.append(_cue(line, next(filter(None, found.groups()[:5])), found[6], build))
        elif found := _START.match(row):
            _room(cues, build, line)
            cues.append(_cue(line, found[1], found[2], build))
        elif row.isascii() and row.isdigit() and i + 1 < len(parts) and _STAMP.match(parts[i + 1][1]):
            continue  # the running number of a subtitle
        elif cues and not row.startswith("["):
            cues[-1].text = f"{cues[-1].text} {row}".strip()
        else:
            fix = "start each prompt with its time, e.g. 0:02 a boat"
            raise InputError(build.at(line), "has text without a time beside timed prompts", row[:60], fix)
    return cues


def _room(cues: list[_Cue], build: Builder, line: int) -> None:
    if len(cues) >= MAX_SHOTS:
        fix = "split the film into several storyboards"
        raise InputError("shots", f"must hold at most {MAX_SHOTS}", "more", fix, build.at(line))


def _lengths(cues: list[_Cue], build: Builder) -> list[Fraction | None]:
    """How long each prompt is on; None where nothing tells."""
    lengths: list[Fraction | None] = []
    if len(cues) == 1 and cues[0].end is None and cues[0].start:
        fix = "write its length before a single shot, e.g. [2 s] a boat"
        raise InputError(
            "time", "must have an end or a prompt after it", float(cues[0].start), fix, build.at(cues[0].line)
        )
    for i, cue in enumerate(cues):
        following = cues[i + 1].start if i + 1 < len(cues) else None
        if cue.end is not None and cue.end <= cue.start:
            raise InputError("time", "must end after its start", cue.text, "check the times", build.at(cue.line))
        if following is not None and following <= cue.start:
            fix = "order the prompts by time"
            raise InputError(
                "time", "must be later than the one before", float(following), fix, build.at(cues[i + 1].line)
            )
        end = cue.end if following is None or (cue.end is not None and cue.end < following) else following
        start = cue.start if i or cue.end is not None else Fraction(0)
        if end is not None:
            lengths.append(end - start)
        else:
            lengths.append(cue.start - cues[i - 1].start if i else None)
    return lengths
