"""The one error that bad input raises."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["InputError", "closest", "printable", "shorten", "show_value"]

_SHOWN = 80
_PART = 160  # longest field or place in a message; only hostile ones come near it
_LINE = 590  # longest message


def printable(text: str) -> str:
    """`text` with escapes for what could break a line or drive a terminal, such as control characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def show_value(value: object, limit: int = _SHOWN) -> str:
    """Return `value` as one short line: control characters escaped, None shown as ``nothing``.

    Long values are cut at the end, and long paths in the middle, since their ends tell most.
    """
    if value is None:
        return "nothing"
    try:
        # reprlib looks only at the first few items, so a list that contains itself a million times stays cheap.
        text = value if isinstance(value, str) else reprlib.repr(value)
    except Exception:  # a broken __repr__ must not hide the real error
        text = f"<{type(value).__name__}>"
    path = isinstance(value, str) and ("/" in text or "\\" in text)
    text = printable(text[: 2 * limit] + text[-2 * limit :] if path and len(text) > 4 * limit else text[: 4 * limit])
    if len(text) > limit:
        end = 2 * limit // 3 if path else 0
        text = text[: limit - 1 - end] + "…" + text[len(text) - end :]
    return f'"{text}"' if isinstance(value, str) else text


class InputError(ValueError):
    """Something the user gave cannot be used.

    Args:
        field: where the value stands, e.g. ``shots[2].seconds`` or ``story.yaml line 4, column 7``.
        rule: what must hold, e.g. ``must be greater than 0``.
        value: the value seen; shown shortened, on one line.
        fix: what to do about it.
        where: the file and line, when known, e.g. ``story.yaml line 12``.

    ``str(error)`` is always ONE line of at most 590 characters: ``field: rule (got value); fix``, after ``where, ``
    when that is known. What is too long for that is cut. The command line prints it to stderr and exits with code 2.
    """

    def __init__(self, field: str, rule: str, value: object, fix: str, where: str = "") -> None:
        super().__init__(field, rule, value, fix, where)
        self.field = field
        self.rule = rule
        self.value = value
        self.fix = fix
        self.where = where

    def __reduce__(self) -> tuple[Callable[..., InputError], tuple[object, ...]]:
        return _error, self.args  # by this module's function: the class is not found where it says it is

    def __str__(self) -> str:
        field, where, fix = (shorten(part, _PART) for part in (self.field, self.where, self.fix))
        place = f"{where}, {field}" if where else field
        value = show_value(self.value)
        left = _LINE - len(place) - len(value) - len(fix) - len(":  (got ); ")
        return f"{place}: {shorten(self.rule, left)} (got {value}); {fix}"


def _error(*args: Any) -> InputError:
    return InputError(*args)


def shorten(text: str, limit: int) -> str:
    """`text` as one line of at most `limit` characters."""
    line = printable(" ".join(text[: 4 * _LINE].split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


# ComfyUI shows it before the message, and knows this module by the path of a folder.
InputError.__module__ = "anchorshot"


def closest(word: object, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the one of `known` that `word` most likely meant (case does not count), or None.

    `cutoff` is the least similarity, 0…1 (difflib's ratio).
    """
    by_lower = {k.lower(): k for k in reversed(list(known))}
    match = difflib.get_close_matches(str(word)[:_SHOWN].lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[match[0]] if match else None
