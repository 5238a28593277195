"""What a Director's answer must be, and how its words become a storyboard that holds.

Words for the camera are mapped to the nearest term, names to the cast, places to the list; a guess at more than that is
left to the model, which is told what was wrong, and made only in the last try. A field that nobody asked for is never
looked at, so an answer can name no file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from ..core.errors import InputError, closest, shorten
from ..core.limits import MAX_TEXT
from ..story.builder import Builder
from ..story.columns import column_name, column_role
from ..story.lengths import read_length
from ..story.shot import DEFAULT_SECONDS
from ..story.storyboard import Storyboard
from ..story.terms import VOCABULARIES, camera_terms, fold_term, near_term
from .client import AnswerSchema, BadAnswer

__all__ = ["MAX_DIRECTED", "MAX_SECONDS", "MIN_SECONDS", "director_schema", "one_line"]

MAX_DIRECTED = 100
"""Most shots of one answer; a longer film is directed in parts."""
MIN_SECONDS, MAX_SECONDS = 0.5, 20.0
_FREE_SHOTS = 24  # most where the number is left to the model, for constrained decoding
_MAX_CAST, _MAX_PLACES = 12, 16
_LOOKS, _NAME = 400, 40  # as the storyboard has it
_WRAPPERS = ("storyboard", "film", "movie", "story", "answer", "result", "response", "output", "json", "data")
_LISTS = ("shots", "shot list", "shotlist", "scenes", "storyboard", "clips", "panels")
_CAST = ("characters", "character", "cast", "people", "figuren", "personnages", "personajes")
_PLACES = ("places", "place", "locations", "settings", "sets", "orte", "lieux", "lugares")
_DESCRIBED = ("looks", "look", "appearance", "description", "visual description", "visual", "details")
_TAG = re.compile(r"</?([^<>]*)>")
_MARKUP = frozenset("b i em strong br p u span div ul li ol h1 h2 h3 code pre".split())
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


def director_schema(shots: int | None, *, title: str, fps: float, size: tuple[int, int]) -> AnswerSchema[Storyboard]:
    """The schema of a storyboard (Eq. 7): thoughts first, then cast, places and shots with D_i and C_i.

    Args:
        shots: how many there must be; None leaves it to the model.
        title: for a film whose answer has none.
        fps, size: of the film.
    """

    def read(data: Any, last: bool) -> Storyboard:
        return _Reading(shots, last, Builder("answer", title, "shot")).storyboard(data, fps, size)

    return AnswerSchema("storyboard", _json_schema(shots), read)


def _json_schema(shots: int | None) -> dict[str, Any]:
    def text(most: int) -> dict[str, Any]:
        return {"type": "string", "maxLength": most}

    def record(**fields: Any) -> dict[str, Any]:
        return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}

    def items(item: dict[str, Any], least: int, most: int) -> dict[str, Any]:
        return {"type": "array", "items": item, "minItems": least, "maxItems": most}

    camera = {field: {"type": "string", "enum": list(terms)} for field, terms in VOCABULARIES.items()}
    seconds = {"type": "number", "minimum": 1, "maximum": MAX_SECONDS}
    shot = record(place=text(80), scene=text(600), action=text(600), **camera, seconds=seconds)
    return record(
        reasoning=text(2500),
        title=text(100),
        characters=items(record(name=text(_NAME), looks=text(300)), 0, _MAX_CAST),
        places=items(record(name=text(80), looks=text(200)), 0, _MAX_PLACES),
        shots=items(shot, shots or 1, shots or _FREE_SHOTS),
    )


class _Reading:
    """One answer on its way to a storyboard.

    Args:
        count: shots that there must be, None for any.
        last: mend what would be asked again before.
        build: keys of places, and notes.
    """

    def __init__(self, count: int | None, last: bool, build: Builder) -> None:
        self.count, self.last, self.build = count, last, build
        self.cast: dict[str, str] = {}
        self.places: dict[str, str] = {}  # name in small letters: words
        self.problems: list[str] = []

    def storyboard(self, data: Any, fps: float, size: tuple[int, int]) -> Storyboard:
        """The storyboard. Raises BadAnswer."""
        film, shots = _film(data)
        self.build.data |= {"fps": fps, "size": list(size), "characters": self.cast}
        if title := one_line(_first(film, ("title", "name", "titel", "titre")))[:200].strip():
            self.build.data["title"] = title
        self._characters(_first(film, _CAST))
        for name, looks in _described(_first(film, _PLACES)):
            self.places.setdefault(name.lower(), _without_tags(looks or name)[:_LOOKS])
        for number, shot in enumerate(shots[: MAX_DIRECTED + 1], 1):
            self._shot(shot, number)
        self._count()
        if self.problems:
            raise BadAnswer(*self.problems)
        try:
            return Storyboard.parse(self.build.data, notes=self.build.notes)
        except InputError as error:
            raise BadAnswer(f"{error.field}: {error.rule} ({error.fix})") from None

    def _problem(self, text: str) -> None:
        self.problems.append(text)

    def _note(self, text: str) -> None:
        if text not in self.build.notes and len(self.build.notes) < 20:
            self.build.notes.append(text)

    def _count(self) -> None:
        made = self.build.data["shots"]
        wanted = self.count if self.count is not None else min(len(made), MAX_DIRECTED)
        if not made:
            self._problem("shots: there is no shot")
        elif len(made) > wanted and self.last:
            self._note(f"{len(made)} shots were told, the first {wanted} are kept")
            del made[wanted:]
        elif len(made) != wanted:
            self._problem(f"shots: there must be exactly {wanted}, there are {len(made)}")

    def _characters(self, told: Any) -> None:
        for raw, looks in _described(told):
            name = re.sub(r"[<>:]", " ", raw)
            name = " ".join(name.split())[:_NAME].strip()
            if not name or name.lower() in map(str.lower, self.cast) or len(self.cast) >= 200:
                continue
            looks = _without_tags(looks)
            if looks:
                self.cast[name] = _shortened(looks, _LOOKS)
            elif not self.last:
                self._problem(f"characters: {shorten(name, 40)} has no looks")

    def _shot(self, data: Any, number: int) -> None:
        fields = _roles(data) if isinstance(data, Mapping) else {"scene": data}
        texts = {field: self._text(fields.get(field), f"shots[{number}].{field}") for field in ("scene", "action")}
        if not texts["scene"] and (subject := self._text(fields.get("subject"), f"shots[{number}].subject")):
            texts["scene"] = subject
        if not any(texts.values()):
            if not self.last or self.count is not None:
                self._problem(f"shots[{number}]: neither scene nor action says what is seen")
            return
        shot: dict[str, Any] = {field: text for field, text in texts.items() if text}
        if place := self._place(fields.get("place")):
            shot["place"] = place
        shot["camera"] = self._camera(fields, number)
        shot["seconds"] = self._seconds(fields.get("seconds"), number)
        self.build.data["shots"].append(shot)

    def _text(self, value: Any, where: str) -> str:
        text = one_line(value)
        for _ in range(2):  # <<Mira>> leaves brackets behind
            text = _TAG.sub(lambda match: self._tag(match, where), text)
        text = " ".join(re.sub(r"<(?![^<>]+>)|(?<!\w)>|>(?=>)", " ", text).split())
        text = self._tagged(text)
        if len(text) > MAX_TEXT:
            if not self.last:
                self._problem(f"{where}: at most {MAX_TEXT} characters, there are {len(text)}")
            text = _shortened(text, MAX_TEXT)
        return text

    def _tag(self, match: re.Match[str], where: str) -> str:
        """A tag with the cast's spelling; a name that nobody has is told, and in the end plain words."""
        name, colon, looks = (part.strip() for part in match[1].partition(":"))
        if not name or (name.lower().split()[0].strip("/") in _MARKUP and name not in self.cast):
            return ""
        if colon and looks and len(name) <= _NAME and name.lower() not in map(str.lower, self.cast):
            self.cast[name] = _shortened(looks, _LOOKS)
        by_lower = {known.lower(): known for known in self.cast}
        known = by_lower.get(name.lower()) or closest(name, self.cast, 0.8)
        if known is not None:
            return f"<{known}>"
        if not self.last:
            listed = ", ".join(f"<{each}>" for each in list(self.cast)[:8]) or "nobody"
            self._problem(f"{where}: <{shorten(name, 40)}> is not in characters, which has {listed}")
        else:
            self._note(f"nobody is called {shorten(name, 40)}: told as plain words")
        return name

    def _tagged(self, text: str) -> str:
        """Names of the cast that stand without a tag get one."""
        if not self.cast:
            return text
        names = "|".join(re.escape(name) for name in sorted(self.cast, key=len, reverse=True))
        return re.sub(rf"(?<![<\w])({names})(?![\w>])", r"<\1>", text)

    def _place(self, value: Any) -> str | None:
        words = _without_tags(one_line(value))[:_LOOKS].strip(" .")
        if not words or words.lower() in ("none", "null", "-", "n/a"):
            return None
        known = self.places.get(words.lower())
        if known is None and (near := closest(words, self.places, 0.8)):
            known = self.places[near]
        try:
            return self.build.place(known or words, 1)
        except InputError:
            return None

    def _camera(self, fields: Mapping[str, Any], number: int) -> dict[str, str]:
        camera: dict[str, str] = {}
        for field, terms in VOCABULARIES.items():
            words = one_line(fields.get(field))[:200]
            term = fold_term(words)
            if not words:
                continue
            if term not in terms:
                term = dict(camera_terms(words, field)).get(field) or near_term(words, terms, 0.6)
            if term:
                camera[field] = term
            else:
                self._note(f"shot {number}: {field} “{shorten(words, 40)}” is no term that we have")
        for field, term in camera_terms(one_line(fields.get("camera"))):
            camera.setdefault(field, term)
        return camera

    def _seconds(self, value: Any, number: int) -> float:
        seconds: float | None = None
        if isinstance(value, int | float) and not isinstance(value, bool):
            seconds = float(value)
        elif isinstance(value, str):
            try:
                length = read_length(value, Fraction(self.build.rate))
            except InputError:
                length = None
            seconds = None if length is None else float(length)
        if seconds is None or not 0 < seconds < 1e6:
            if value is not None:
                self._note(f"shot {number}: the length “{shorten(str(value)[:200], 40)}” is none: {DEFAULT_SECONDS} s")
            return DEFAULT_SECONDS
        kept = round(min(max(seconds, MIN_SECONDS), MAX_SECONDS), 3)
        if kept != round(seconds, 3):
            self._note(f"shot {number}: {seconds:g} s became {kept:g} s")
        return kept


def _film(data: Any) -> tuple[Mapping[str, Any], list[Any]]:
    """The mapping that holds the shots, its names in plain small letters, and the shots. Raises BadAnswer."""
    for _ in range(3):
        if isinstance(data, list):
            if len(data) == 1 and isinstance(data[0], Mapping) and any(column_name(str(k)) in _LISTS for k in data[0]):
                data = data[0]
                continue
            data = {"shots": data}
        if not isinstance(data, Mapping):
            break
        film = {column_name(str(key)): value for key, value in list(data.items())[:200]}
        for name in _LISTS:
            shots = film.get(name)
            if isinstance(shots, Mapping) and shots and all(isinstance(v, Mapping | str) for v in shots.values()):
                if not any(column_name(str(key)) in (*_LISTS, *_CAST) for key in shots):
                    shots = list(shots.values())  # {"shot 1": {…}, …}
            if isinstance(shots, list) and shots:
                return film, shots
        inner = [film[name] for name in _WRAPPERS if isinstance(film.get(name), Mapping | list)]
        if not inner:
            break
        data = inner[0]
    raise BadAnswer(
        "shots: there is no list of shots; the object must have reasoning, title, characters, places, shots"
    )


def _first(film: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((film[name] for name in names if film.get(name) is not None), None)


def _described(told: Any) -> list[tuple[str, str]]:
    """Names with their words, from a list of objects or of texts ``Name: words``, or from a mapping."""
    if isinstance(told, Mapping):
        told = [{"name": name, "looks": _look_of(words)} for name, words in told.items()]
    found = []
    for each in told[:200] if isinstance(told, list) else ():
        if isinstance(each, Mapping):
            fields = {column_name(str(key)): value for key, value in each.items()}
            name = one_line(_first(fields, ("name", "id", "key", "character", "place", "title")))
            found.append((name, _look_of(fields)))
        elif isinstance(each, str):
            name, _, words = each.partition(":")
            found.append((one_line(name), one_line(words)))
    return [(name, words) for name, words in found if name]


def _look_of(words: Any) -> str:
    if isinstance(words, Mapping):
        words = _first({column_name(str(key)): value for key, value in words.items()}, _DESCRIBED)
    return one_line(words)


def _roles(shot: Mapping[Any, Any]) -> dict[str, Any]:
    """A shot's values by what they mean; a camera told as an object is taken apart. What means nothing is left out."""
    fields: dict[str, Any] = {}
    for key, value in list(shot.items())[:200]:
        role = column_role(str(key)[:80])
        if role == "camera" and isinstance(value, Mapping):
            for name, words in value.items():
                inner = column_role(str(name)[:80])
                if inner in VOCABULARIES:
                    fields.setdefault(inner, words)
        elif role is not None and value is not None:
            fields.setdefault(role, value)
    return fields


def one_line(value: Any) -> str:
    """A value as one line of words: numbers and lists of words, too; nothing for anything else."""
    if isinstance(value, list):
        value = "; ".join(one_line(each) for each in value[:20] if not isinstance(each, list))
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return " ".join(_CONTROL.sub(" ", str(value)[: 8 * MAX_TEXT]).split())


def _without_tags(text: str) -> str:
    return " ".join(_TAG.sub(r"\1", text).replace("<", " ").replace(">", " ").split())


def _shortened(text: str, most: int) -> str:
    """At most so many characters, cut behind a sentence or at least a word."""
    if len(text) <= most:
        return text
    head = text[:most]
    end = max(head.rfind(mark) for mark in (". ", "! ", "? ", "。"))
    return head[: end + 1] if end > most // 2 else head.rsplit(" ", 1)[0].rstrip("<")
