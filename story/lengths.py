"""Lengths and spans of time as people write them: ``2.5``, ``2,5 s``, ``0:03``, ``1m30s``, ``48 frames``, timecodes."""

from __future__ import annotations

import re
from fractions import Fraction

from ..core.errors import InputError
from .timeline import Time

__all__ = ["LENGTH_FIX", "looks_like_number", "read_length", "read_number", "read_span", "span_like"]

LENGTH_FIX = "write seconds, e.g. 2.5 s, or 0:03, or a timecode 00:00:03:12"

# Every number has a bounded number of digits, and no pattern can match a text in two ways: all are linear.
_NUMBER = r"[+-]?\d{1,9}(?:[.,]\d{1,9})?"
_PLAIN = re.compile(_NUMBER)
_UNIT = re.compile(
    rf"(?:~|ca\.?\s?)?({_NUMBER})\s?(ms|s|secs?|seconds?|sek|sekunden?|secondes?|segundos?|''|″|\"|m|mins?|minutes?|f|fr|frames?)\.?",
    re.IGNORECASE,
)
_MINUTES = re.compile(
    r"(\d{1,4})\s?(?:m|mins?|minutes?|')\s?(\d{1,2}(?:[.,]\d{1,6})?)\s?(?:s|secs?|seconds?|''|″|\")", re.IGNORECASE
)
_CLOCK = re.compile(r"(?:(\d{1,3}):)?(\d{1,3}):(\d{1,2}(?:[.,]\d{1,6})?)\s?(?:s|sec|min|h)?")
_TIMECODE = re.compile(r"\d{1,3}[:;]\d{1,3}[:;]\d{1,3}[:;]\d{1,3}")
_SPAN = re.compile(r"(?<=[\w\"″'])\s*(?:-->|-|–|—|→|\.\.|\bto\b|\bbis\b)\s*(?=\d)")
_BETWEEN = re.compile(r"\d[\d:;.,]*\s?[a-z]{0,8}")
_NUMBERED = re.compile(
    r"(?:(?:scene|shot|sc|sh|szene|panel|take|no|nr)\b\.?\s*)?[#№]?\s*[+-]?\d[\d.,:;/\-\s]*[a-z]{0,2}\.?#?",
    re.IGNORECASE,
)


def read_number(text: str) -> Fraction | None:
    """The number that `text` is, with a decimal point or comma; None if it is none."""
    return _fraction(text) if _PLAIN.fullmatch(text) else None


def looks_like_number(text: str) -> bool:
    """Whether `text` is a number, a time or a scene's or shot's number such as ``12A``, ``#3`` or ``Scene 2``."""
    return len(text) < 60 and _NUMBERED.fullmatch(text.strip()) is not None


def read_length(text: str, rate: Fraction, field: str = "seconds", *, plain: bool = True) -> Fraction | None:
    """Seconds that `text` means, or None if it is no time.

    Args:
        text: ``2.5``, ``2,5 s``, ``90 ms``, ``2 min``, ``1m30s``, ``48 frames``, ``M:SS``, ``H:MM:SS``, or a timecode
            ``HH:MM:SS:FF`` (``;`` for drop frame).
        rate: frames per second, for frames and timecodes.
        field: what it is called in errors.
        plain: whether a bare number counts as seconds.

    Raises:
        InputError: a time with a part out of range.
    """
    text = text.strip()
    if len(text) > 60:
        return None
    if plain and (number := read_number(text)) is not None:
        return number
    if _TIMECODE.fullmatch(text):
        return Time.from_timecode(text, rate, field).exact
    if found := _UNIT.fullmatch(text):
        return _fraction(found[1]) * _unit(found[2].lower(), rate)
    if found := _MINUTES.fullmatch(text):
        return _below_sixty(found[2], text, field) + 60 * int(found[1])
    if found := _CLOCK.fullmatch(text):
        minutes = int(found[2])
        if found[1] and minutes > 59:
            raise InputError(field, "has a part out of range", text, "write H:MM:SS with MM and SS below 60")
        return _below_sixty(found[3], text, field) + 60 * minutes + 3600 * int(found[1] or 0)
    return None


def read_span(text: str, rate: Fraction, field: str = "seconds") -> tuple[Fraction, Fraction] | None:
    """Start and end, in seconds, of a span such as ``0-2.5s``, ``0:03 – 0:05`` or ``1.0 --> 2.0``; None if it is none.

    Raises:
        InputError: a time with a part out of range.
    """
    text = text.strip()
    if len(text) > 80:
        return None
    parts = _SPAN.split(text)
    if len(parts) != 2 or not all(_BETWEEN.match(part) for part in parts):
        return None
    first, last = (read_length(part, rate, field) for part in parts)
    if first is None or last is None:
        return None
    # In "1-2 min" the unit counts for both.
    if read_number(parts[0].strip()) is not None and (unit := _UNIT.fullmatch(parts[1].strip())):
        first *= _unit(unit[2].lower(), rate)
    return first, last


def span_like(text: str) -> bool:
    """Whether `text` is a span of time, or a length with its unit, by its look."""
    try:
        return read_span(text, Fraction(24)) is not None or _UNIT.fullmatch(text.strip()[:60]) is not None
    except InputError:
        return True


def _unit(unit: str, rate: Fraction) -> Fraction:
    if unit == "ms":
        return Fraction(1, 1000)
    if unit in ("m", "min", "mins", "minute", "minutes"):
        return Fraction(60)
    return 1 / rate if unit in ("f", "fr", "frame", "frames") else Fraction(1)


def _fraction(text: str) -> Fraction:
    return Fraction(text.replace(",", "."))


def _below_sixty(text: str, whole: str, field: str) -> Fraction:
    seconds = _fraction(text)
    if seconds >= 60:
        raise InputError(field, "has a part out of range", whole, "write M:SS with SS below 60")
    return seconds
