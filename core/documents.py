"""What comes from outside is read here: files that must be plain files of a known size, and JSON of a known shape.

Everything that reads a file or JSON that somebody else may have written (storyboards, manifests, weights' headers,
configs, pictures, saved graphs) goes through these few functions, so that limits and messages are the same everywhere.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .errors import InputError

__all__ = [
    "MAX_DEPTH", "MAX_VALUES", "as_array", "as_integer", "as_number", "as_object", "as_text", "parse_json",
    "read_bytes", "read_json", "regular_file",
]  # fmt: skip

MAX_DEPTH = 64
"""Deepest nesting of JSON from outside."""
MAX_VALUES = 1_000_000
"""Most values (numbers, texts, lists, objects) in one JSON document from outside."""
JSON_BYTES = 16 << 20
"""Largest JSON file that is read where the caller names no limit."""
_MAX_DIGITS = 400  # more than any float or id has; Python's own limit is 4300 and takes time below it


def regular_file(path: str | os.PathLike[str], field: str, what: str = "file") -> Path:
    """Return `path` as a Path if it is a regular file (links are followed).

    Args:
        path: where it should be.
        field: what the user calls it, for errors.
        what: what it should be, e.g. ``picture file``.

    Raises:
        InputError: it is missing, a folder, a device, a pipe or a socket, or no path at all.
    """
    file = Path(path)
    shown = str(path)
    try:
        mode = os.stat(file).st_mode
    except FileNotFoundError:
        raise InputError(field, f"must be an existing {what}", shown, "check the path") from None
    except NotADirectoryError:
        fix = "check the path: a file stands where a folder should"
        raise InputError(field, f"must be an existing {what}", shown, fix) from None
    except (OSError, ValueError) as error:  # a name too long, a zero byte, a ring of links, no permission
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise InputError(field, f"must be a readable {what}", shown, f"give another path ({reason})") from None
    if not stat.S_ISREG(mode):
        seen = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise InputError(field, f"must be a regular {what}", f"{seen}: {shown}", "name the file itself")
    return file


def read_bytes(path: str | os.PathLike[str], field: str, *, limit: int, what: str = "file") -> bytes:
    """Read a whole regular file of at most `limit` bytes.

    Raises:
        InputError: as `regular_file`; larger than `limit`; unreadable.
    """
    file = regular_file(path, field, what)
    try:
        # Not blocking, and looked at once more when open: what was a file a moment ago may be a pipe now.
        with open(
            os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb"
        ) as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise InputError(field, f"must be a regular {what}", str(path), "name the file itself")
            raw = opened.read(limit + 1)  # one byte more tells an oversized file without reading it all
    except OSError as error:
        fix = f"check its permissions ({error.strerror})"
        raise InputError(field, f"must be a readable {what}", str(path), fix) from None
    if len(raw) > limit:
        raise InputError(field, f"must be at most {limit} bytes", str(path), f"give a smaller {what}")
    return raw


def read_json(path: str | os.PathLike[str], field: str, *, limit: int = JSON_BYTES) -> Any:
    """Read a JSON file; see `read_bytes` and `parse_json` for limits and errors."""
    return parse_json(read_bytes(path, field, limit=limit, what="JSON file"), field)


def parse_json(text: str | bytes, field: str, *, max_depth: int = MAX_DEPTH, max_values: int = MAX_VALUES) -> Any:
    """Parse JSON that somebody else wrote.

    Stricter than `json.loads`: a field given twice, NaN and infinities, numbers of hundreds of digits, deep nesting and
    too many values are refused, each in linear time.

    Args:
        text: the document; bytes are UTF-8, with or without a byte order mark.
        field: what it is called in errors.
        max_depth: deepest nesting of lists and objects.
        max_values: most values in all.

    Raises:
        InputError: any of these, or no JSON; it names the line where the syntax breaks.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        data = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_integer, parse_float=_float
        )
    except json.JSONDecodeError as error:
        near = text[error.pos : error.pos + 20].split("\n")[0] if isinstance(text, str) else ""
        where = f"line {error.lineno}, column {error.colno}"
        rule = f"is not valid JSON: {error.msg.lower()} in {where}"
        raise InputError(field, rule, near, "correct the syntax there") from None
    except RecursionError:
        raise InputError(field, f"must not nest deeper than {max_depth}", "deep nesting", "flatten it") from None
    except UnicodeDecodeError as error:
        seen = f"byte 0x{error.object[error.start]:02X} at {error.start}"
        raise InputError(field, "must be UTF-8 text", seen, "save it as UTF-8") from None
    except _Refused as error:
        raise InputError(field, error.rule, error.seen, error.fix) from None
    _measure(data, field, max_depth, max_values)
    return data


def as_object(value: Any, field: str) -> dict[str, Any]:
    """`value` if it is a JSON object, else InputError."""
    return _typed(value, dict, field, "a JSON object { … }")


def as_array(value: Any, field: str) -> list[Any]:
    """`value` if it is a JSON list, else InputError."""
    return _typed(value, list, field, "a JSON list [ … ]")


def as_text(value: Any, field: str) -> str:
    """`value` if it is a text, else InputError."""
    return _typed(value, str, field, "a text")


def as_number(value: Any, field: str, low: float = -math.inf, high: float = math.inf) -> float:
    """`value` as a finite float within `low`…`high`, else InputError; booleans are no numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(field, "must be a number", value, "write e.g. 1.5")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or not low <= number <= high:
        raise InputError(field, _within("a finite number", low, high), value, "give a value in that range")
    return number


def as_integer(value: Any, field: str, low: float = -math.inf, high: float = math.inf) -> int:
    """`value` as an int within `low`…`high`, else InputError; 3.0 is 3, booleans are no numbers."""
    whole = isinstance(value, int) and not isinstance(value, bool) or isinstance(value, float) and value.is_integer()
    if not whole or not low <= value <= high:
        raise InputError(field, _within("a whole number", low, high), value, "give a value in that range")
    return int(value)


def _within(what: str, low: float, high: float) -> str:
    sides = [f"at least {low:g}"] * (low > -math.inf) + [f"at most {high:g}"] * (high < math.inf)
    return f"must be {what}" + (f" of {' and '.join(sides)}" if sides else "")


def _typed(value: Any, kind: type, field: str, words: str) -> Any:
    if not isinstance(value, kind):
        raise InputError(field, f"must be {words}", value, "copy or download it again, or correct it there")
    return value


class _Refused(Exception):
    """Valid JSON for Python, but not for us; carried out of the parser's hooks."""

    def __init__(self, rule: str, seen: object, fix: str) -> None:
        super().__init__(rule)
        self.rule, self.seen, self.fix = rule, seen, fix


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Refused("must not give a field twice", key, "keep one of the two")
            seen.add(key)
    return found


def _no_constant(word: str) -> Any:
    raise _Refused("must hold finite numbers only", word, "write a number")


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise _Refused(f"must not hold numbers of more than {_MAX_DIGITS} digits", digits, "write a shorter number")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _Refused("must hold finite numbers only", digits, "write a smaller number")
    return number


def _measure(data: Any, field: str, max_depth: int, max_values: int) -> None:
    count, level = 1, [data]
    for _ in range(max_depth):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict | list):
                held: Iterable[Any] = value.values() if isinstance(value, dict) else value
                count += len(value)
                if count > max_values:
                    raise InputError(field, f"must hold at most {max_values} values", "more", "give a smaller document")
                inner.extend(held)
        if not any(isinstance(value, dict | list) for value in inner):
            return
        level = [value for value in inner if isinstance(value, dict | list)]
    raise InputError(field, f"must not nest deeper than {max_depth}", "deep nesting", "flatten it")
