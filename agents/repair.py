"""JSON as language models write it: in prose and fences, with comments and single quotes, cut off in the middle.

Valid JSON is taken as it is. Else the text is read as if its slips were none, in time linear in its length. That gives
values, never more: what they mean is checked by who asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Found", "json_values"]

MAX_ANSWER = 1 << 19
"""Longest answer that is read, in characters."""
_MAX_DEPTH = 32
_MAX_TRIES = 40
_CLOSING = {'"': '"', "'": "'", "“": "”", "„": "“", "‘": "’", "«": "»", "`": "`"}
_WORDS = {"true": True, "false": False, "null": None, "none": None, "nan": None, "undefined": None}
_THOUGHT = re.compile(r"^.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_SPACE = re.compile(r"(?:\s+|//[^\n]*|/\*.*?(?:\*/|\Z)|#[^\n]*)+", re.DOTALL)
_BARE = re.compile(r"[^,:\]}\n{\[]{1,400}")
_NUMBER = re.compile(r"[+-]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][+-]?\d{1,3})?")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_PLAIN = re.compile(r"[^\\\"'“”„‘’«»`\n]+")


@dataclass(frozen=True)
class Found:
    """An object or a list of objects in a text; `whole` is False where the text ends within it."""

    value: Any
    whole: bool


class _Hopeless(Exception):
    """Nested too deep to be an answer."""


def json_values(text: str) -> list[Found]:
    """All objects, and lists that hold objects, in a text, the largest first."""
    text = text[:MAX_ANSWER]
    text = _THOUGHT.sub("", text)
    found = list(_values(text))
    found.sort(key=lambda each: -each[1])
    return [each for each, _ in found]


def _values(text: str) -> Iterator[tuple[Found, int]]:
    """Each value with the length of its text."""
    decoder, at, work = json.JSONDecoder(), 0, 0
    for _ in range(_MAX_TRIES):
        starts = [place for place in (text.find("{", at), text.find("[", at)) if place >= 0]
        if not starts:
            return
        start = min(starts)
        try:
            value, at = decoder.raw_decode(text, start)
            found = Found(value, True)
        except (ValueError, RecursionError):
            if work > len(text):  # brackets without end
                return
            reader = _Reader(text, start)
            try:
                value = reader.value()
            except _Hopeless:
                at = start + 1
                continue
            finally:
                work += reader.at - start
            found, at = Found(value, reader.whole), max(reader.at, start + 1)
        if (isinstance(value, dict) and value) or (isinstance(value, list) and any(isinstance(v, dict) for v in value)):
            yield found, at - start
        else:  # [brackets] in prose
            at = start + 1


class _Reader:
    """Reads one value from `at` on, forgiving."""

    def __init__(self, text: str, at: int) -> None:
        self.text, self.at = text, at
        self.whole = True
        self.depth = 0

    def value(self) -> Any:
        self._skip()
        here = self._here()
        if here in ("{", "["):
            self.depth += 1
            if self.depth > _MAX_DEPTH:
                raise _Hopeless
            self.at += 1
            value = self._object() if here == "{" else self._array()
            self.depth -= 1
            return value
        return self._string(here) if here in _CLOSING else self._bare()

    def _object(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while True:
            self._skip(",;")
            here = self._here()
            if here in ("}", ""):
                self.whole &= bool(here)
                self.at += 1
                return found
            if here == "]":  # the object's own bracket is missing; this one is somebody else's
                return found
            key = self._string(here) if here in _CLOSING else str(self._bare())
            self._skip()
            if self._here() not in (":", "="):
                self.whole &= bool(self._here())
                continue
            self.at += 1
            self._skip()
            if not self._here():
                self.whole = False
                return found
            found[key] = self.value()

    def _array(self) -> list[Any]:
        found: list[Any] = []
        while True:
            self._skip(",;")
            here = self._here()
            if here in ("]", ""):
                self.whole &= bool(here)
                self.at += 1
                return found
            if here in ("}", ":"):  # somebody else's
                if here == "}":
                    return found
                self.at += 1
                continue
            before = self.whole
            item = self.value()
            if before and not self.whole:  # cut off within it: half a shot is none
                return found
            found.append(item)

    def _string(self, quote: str) -> str:
        closing, parts = _CLOSING[quote], []
        self.at += 1
        text, end = self.text, len(self.text)
        while self.at < end:
            if plain := _PLAIN.match(text, self.at):
                parts.append(plain[0])
                self.at = plain.end()
                continue
            here = text[self.at]
            self.at += 1
            if here == "\\" and self.at < end:
                parts.append(self._escape())
            elif here == closing and self._ends():
                return "".join(parts)
            else:
                parts.append(here)
        self.whole = False
        return "".join(parts)

    def _escape(self) -> str:
        here = self.text[self.at]
        self.at += 1
        if here != "u":
            return _ESCAPES.get(here, here)
        digits = self.text[self.at : self.at + 4]
        if not re.fullmatch(r"[0-9a-fA-F]{4}", digits):
            return "u"
        self.at += 4
        code = int(digits, 16)
        if 0xD800 <= code < 0xDC00 and (
            low := re.match(r"\\u([dD][c-fC-F][0-9a-fA-F]{2})", self.text[self.at : self.at + 6])
        ):
            self.at += 6
            return chr(0x10000 + ((code - 0xD800) << 10) + (int(low[1], 16) - 0xDC00))
        return "\ufffd" if 0xD800 <= code < 0xE000 else chr(code)

    def _ends(self) -> bool:
        """Whether the quote before `at` closes its text: what follows could follow a text in JSON."""
        after = re.compile(r"\s*").match(self.text, self.at)
        assert after is not None
        here = self.text[after.end() : after.end() + 1]
        if here in ("", "}", "]", ":"):
            return True
        if here != ",":
            return "\n" in after[0] and here in _CLOSING  # a comma is missing at the line's end
        following = re.compile(r"\s*").match(self.text, after.end() + 1)
        assert following is not None
        return self.text[following.end() : following.end() + 1] in ("", *_CLOSING, *"{[}]/-0123456789")

    def _bare(self) -> Any:
        match = _BARE.match(self.text, self.at)
        if match is None:
            self.at += 1
            return None
        self.at = match.end()
        word = match[0].strip()
        if word.lower() in _WORDS:
            return _WORDS[word.lower()]
        if _NUMBER.fullmatch(word):
            number = float(word)
            return int(number) if number.is_integer() and "." not in word and "e" not in word.lower() else number
        return word

    def _here(self) -> str:
        return self.text[self.at : self.at + 1]

    def _skip(self, also: str = "") -> None:
        while True:
            if space := _SPACE.match(self.text, self.at):
                self.at = space.end()
            elif also and self._here() in tuple(also):
                self.at += 1
            else:
                return
