"""Collects the shots of a list, a table or a screenplay into a storyboard's plain mapping.

They all say who a character is where it is first mentioned (``<Mira: a yellow square with a crown> waves.``), name
places by their description, and may hold settings in comment lines: ``# title: …``, ``# fps: …``,
``# size: 160x80``. `Storyboard.parse` checks the result like any other.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from typing import Any

from ..core.errors import InputError, shorten
from ..core.limits import MAX_NAMED, MAX_SHOTS
from .headings import heading_place, is_heading
from .lengths import LENGTH_FIX, looks_like_number, read_length, read_number
from .numbering import number_shots
from .timeline import frame_rate

__all__ = ["Builder", "Story"]

_SETTINGS = ("title", "fps", "size")
_DEFINITION = re.compile(r"<([^<>:]*):([^<>]*)>")
_SIZE = re.compile(r"(\d{1,6})\s?[x×,]\s?(\d{1,6})")
_DEFAULT_FPS = 8

Story = tuple[dict[str, Any], dict[tuple[Any, ...], int], tuple[str, ...]]
"""A storyboard's mapping, the line of each value by its location, and notes for the user."""


class Builder:
    """A storyboard in the making.

    Args:
        name: the file's or text's name, for errors.
        title: the film's title where the text has none.
        unit: what is counted in errors and notes: lines of a text, or shots where nobody knows the lines.
    """

    def __init__(self, name: str, title: str, unit: str = "line") -> None:
        self.name = name
        self.unit = unit
        self.data: dict[str, Any] = {"title": title or "Untitled", "characters": {}, "places": {}, "shots": []}
        self.lines: dict[tuple[Any, ...], int] = {}
        self.notes: list[str] = []
        self._keys: dict[str, str] = {}  # a place's words in small letters: its key
        self._used: dict[str, int] = {}  # stem of a key: how often it was used

    def at(self, line: int) -> str:
        """How errors name a line (or shot)."""
        return f"{self.name} {self.unit} {line}"

    @property
    def rate(self) -> Fraction:
        """Frames per second as set so far."""
        return frame_rate(self.data.get("fps", _DEFAULT_FPS))

    def setting(self, comment: str, line: int) -> None:
        """Take ``key: value`` from a comment; other comments are just that."""
        key, colon, value = (part.strip() for part in comment.partition(":"))
        key = key.lower()
        if not colon or key not in _SETTINGS:
            return
        if (key,) in self.lines:
            raise InputError(key, "must not be set twice", value, "keep one of the two", self.at(line))
        if key == "title":
            self.data["title"] = value
        elif key == "fps":
            fps = float(self.number(value, "fps", line))
            try:
                frame_rate(fps)
            except InputError as error:
                raise InputError(error.field, error.rule, error.value, error.fix, self.at(line)) from None
            self.data["fps"] = fps
        else:
            sides = _SIZE.fullmatch(value)
            if sides is None:
                raise InputError("size", "must be WIDTHxHEIGHT", value, "write e.g. # size: 160x80", self.at(line))
            self.data["size"] = [int(sides[1]), int(sides[2])]
        self.lines[(key,)] = line

    def number(self, text: str, column: str, line: int, whole: bool = False) -> int | float:
        """A number with a decimal point or comma. Raises InputError if it is none, or not whole where it must be."""
        if whole and re.fullmatch(r"[+-]?[0-9]{1,19}", text):
            return int(text)
        found = None if whole else read_number(text)
        if found is None:
            kind = "whole number" if whole else "number"
            fix = "write e.g. 17" if whole else "write e.g. 2.125"
            raise InputError(column, f"must be a {kind}", text, fix, self.at(line))
        return int(found) if found.denominator == 1 else float(found)

    def seconds(self, text: str, line: int, field: str = "seconds") -> float:
        """A length in any way of writing it. Raises InputError if it is none."""
        try:
            length = read_length(text, self.rate, field)
        except InputError as error:
            raise InputError(error.field, error.rule, error.value, error.fix, self.at(line)) from None
        if length is None:
            raise InputError(field, "must be a length of time", text, LENGTH_FIX, self.at(line))
        return float(length)

    def prose(self, text: str, column: str, line: int) -> str:
        """Take ``<Name: looks>`` definitions out of a text, leaving ``<Name>``."""
        characters = self.data["characters"]

        def define(match: re.Match[str]) -> str:
            who, looks = " ".join(match[1].split()), " ".join(match[2].split())
            known = characters.setdefault(who, looks)
            if known != looks:
                rule = f"describes <{shorten(who, 40)}> a second time, before as “{shorten(known, 80)}”"
                raise InputError(column, rule, looks, f"write <{shorten(who, 40)}> only", self.at(line))
            if len(characters) > MAX_NAMED:
                fix = "describe only who comes again"
                raise InputError("characters", f"must hold at most {MAX_NAMED}", "more", fix, self.at(line))
            self.lines.setdefault(("characters", who), line)
            return f"<{who}>"

        return _DEFINITION.sub(define, text)

    def place(self, words: str, line: int) -> str:
        """The key for a place told by its description or a scene heading; the same words give the same place.

        Raises:
            InputError: words that are a number or a time, or too many places.
        """
        words = " ".join(words.split()).rstrip(".")
        if looks_like_number(words) or not words:
            fix = "write the words of the place, e.g. the desert"
            raise InputError("place", "must be words, not a number or time", words, fix, self.at(line))
        if is_heading(words):
            words = heading_place(words) or words
        known = self._keys.get(words.lower())
        if known is not None:
            return known
        if len(self._keys) >= MAX_NAMED:
            fix = "use the same words where the place is the same"
            raise InputError("places", f"must hold at most {MAX_NAMED}", "more", fix, self.at(line))
        key = self._new_key(words)
        self._keys[words.lower()] = key
        self.data["places"][key] = words
        self.lines[("places", key)] = line
        return key

    def _new_key(self, words: str) -> str:
        plain = unicodedata.normalize("NFKD", words[:400].lower())
        bare = re.sub(r"^(the|a|an)\s+", "", "".join(c for c in plain if not unicodedata.combining(c)))
        stem = re.sub(r"[^a-z0-9]+", "-", bare).strip("-")[:40].strip("-") or "place"
        key = stem
        while key in self.data["places"]:
            self._used[stem] = self._used.get(stem, 1) + 1
            key = f"{stem}-{self._used[stem]}"
        return key

    def add(self, shot: dict[str, Any], line: int) -> None:
        """One more shot, from this line. Raises InputError if it is one too many."""
        index = len(self.data["shots"])
        if index >= MAX_SHOTS:
            fix = "split the film into several storyboards"
            raise InputError("shots", f"must hold at most {MAX_SHOTS}", "more", fix, self.at(line))
        self.data["shots"].append(shot)
        self.lines[("shots", index)] = line

    def refuse_number(self, text: str, field: str, line: int) -> None:
        """Raise InputError where a number or a time stands in the place of words."""
        if looks_like_number(text):
            fix = "write what is seen; numbers of scenes and shots belong into columns or brackets of their own"
            raise InputError(field, "is only a number or time", text, fix, self.at(line))

    def done(self, fix: str) -> Story:
        """The storyboard. Raises InputError, with this fix, if it has no shot."""
        if not self.data["shots"]:
            raise InputError("shots", "must hold at least one shot", None, fix, self.name)
        self.data["shots"] = number_shots(self.data["shots"])
        return self.data, self.lines, tuple(self.notes)
