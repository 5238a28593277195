"""The storytelling benchmark for any video model: 404 prompt pairs in the structure of Text2Story's set (App. A.7).

Eight places with a story of 12 or 13 scenes each (101 in all), each with four casts: two pairs of people and two of
animals, all invented. In one place only the first of a pair stars, as in the paper. The texts are templates in
``data/storytelling.yaml``, which also says how a template is written.

Every prompt tells names and looks, because it is read alone. Names mean nothing to CLIP: queries leave them out.
"""

from __future__ import annotations

import math
import os
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ....core.errors import InputError, closest
from ....core.validation import Lines, to_input_error
from ....sampling.text2story.segments import PromptPair
from ....story.load import read_story

__all__ = [
    "Cast",
    "Member",
    "Place",
    "SetStory",
    "Scene",
    "ScenePrompts",
    "StorytellingSet",
    "prompt_pair",
    "storytelling_set",
]

DATA = Path(__file__).resolve().parents[2] / "data" / "storytelling.yaml"

_SLOT = re.compile(r"\{([^{}]*)\}(?=(.?))")

Text = Annotated[str, Field(min_length=1, max_length=400)]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$", examples=["harbour"])]


@dataclass(frozen=True)
class ScenePrompts:
    """One scene of a story: where and who, and who does what; the queries are the same without names, for CLIP."""

    scene: str
    action: str
    scene_query: str
    action_query: str


class SetStory(NamedTuple):
    """The story of a place with one cast: its scenes in order, and the names of those who star in it."""

    place: str
    cast: str
    names: tuple[str, ...]
    pairs: tuple[ScenePrompts, ...]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Member(_Strict):
    """One of a cast.

    Attributes:
        name: an invented name.
        look: what is seen, e.g. ``a grey cat in a blue collar``.
        later: the pronoun of a second mention: her, him or it.
    """

    name: Id
    look: Annotated[str, Field(min_length=1, max_length=80, examples=["a grey cat in a blue collar"])]
    later: Literal["her", "him", "it"]


class Cast(_Strict):
    """A pair; `a` stars alone where a place has one star."""

    id: Id
    a: Member
    b: Member

    def fill(self, template: str, query: bool = False) -> str:
        """The template with this cast in its slots; `query` says looks in the place of names."""

        def put(match: re.Match[str]) -> str:
            slot, following = match.groups()
            member = self.a if slot in "aA" else self.b
            if slot.islower():
                return member.later
            if query:
                return member.look
            # An apposition stands between commas, unless the sentence has its own mark there.
            return f"{member.name}, {member.look}{'' if following in tuple('.,;:!?') else ','}"

        text = _SLOT.sub(put, template)
        return text[:1].upper() + text[1:]


class Scene(_Strict):
    """The templates of a scene."""

    scene: Text
    action: Text


class Place(_Strict):
    """A place and its story. `starring`: how many of a cast take part, 1 or 2."""

    id: Id
    starring: Literal[1, 2]
    scenes: Annotated[list[Scene], Field(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _slots_fit(self) -> Place:
        stars = "AB"[: self.starring]
        for index, pair in enumerate(self.scenes):
            for kind, text in (("scene", pair.scene), ("action", pair.action)):
                _check_slots(f"scenes[{index}].{kind}", text, stars)
        return self


def _check_slots(field: str, text: str, stars: str) -> None:
    slots = [match[1] for match in _SLOT.finditer(text)]
    known = [*stars, *stars.lower()]
    for slot in slots:
        if slot not in known:
            raise InputError(field, "must hold known slots", f"{{{slot}}}", f"use {', '.join(known)}")
    if "{" in (rest := _SLOT.sub("", text)) or "}" in rest:
        raise InputError(field, "must close every slot", text, "write slots as {A}")
    for star in stars:
        if slots.count(star) != 1:
            raise InputError(field, f"must hold {{{star}}} once", text, "name everyone who stars, with their look")
        if star.lower() in slots[: slots.index(star)]:
            raise InputError(field, f"must hold {{{star}}} before {{{star.lower()}}}", text, "say the look first")


class StorytellingSet(_Strict):
    """The whole set, as the file has it."""

    casts: Annotated[list[Cast], Field(min_length=1)]
    places: Annotated[list[Place], Field(min_length=1)]

    @model_validator(mode="after")
    def _ids_differ(self) -> StorytellingSet:
        for kind, parts in (("casts", self.casts), ("places", self.places)):
            ids = [part.id for part in parts]
            for index, name in enumerate(ids):
                if name in ids[:index]:
                    raise InputError(f"{kind}[{index}].id", "must differ from the others", name, "rename one")
        return self

    @classmethod
    def parse(cls, data: Any, lines: Lines | None = None, source: str = "") -> StorytellingSet:
        """Check plain data; InputError names the field (and the line of `source`), the rule, the value and the fix."""
        if not isinstance(data, Mapping):
            rule, fix = "must be a mapping (field: value)", "write casts and places"
            raise InputError(source or "storytelling set", rule, type(data).__name__, fix)
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise to_input_error(error, _model_at, lines or {}, source) from None

    @classmethod
    def read(cls, path: str | os.PathLike[str] = DATA) -> StorytellingSet:
        """Read a set. Raises InputError if the file cannot be read or has a fault."""
        story = read_story(path)
        return cls.parse(story.data, story.lines, story.source)

    def story(self, place: Place, cast: Cast, scenes: int | None = None) -> SetStory:
        """The story of a place with a cast, or its first scenes."""
        pairs = tuple(
            ScenePrompts(
                cast.fill(pair.scene),
                cast.fill(pair.action),
                cast.fill(pair.scene, query=True),
                cast.fill(pair.action, query=True),
            )
            for pair in place.scenes[:scenes]
        )
        return SetStory(place.id, cast.id, tuple(m.name for m in (cast.a, cast.b)[: place.starring]), pairs)

    def choose(
        self,
        places: Sequence[str] | None = None,
        casts: Sequence[str] | None = None,
        stories: int | None = None,
        scenes: int | None = None,
        seed: int = 0,
    ) -> tuple[SetStory, ...]:
        """Stories of the set, all or some; see `storytelling_set`."""
        chosen_places = _chosen("places", places, self.places)
        chosen_casts = _chosen("casts", casts, self.casts)
        shortest = min(len(place.scenes) for place in chosen_places)
        for field, value, high in (
            ("stories", stories, len(chosen_places) * len(chosen_casts)),
            ("scenes", scenes, shortest),
        ):
            if value is not None:
                _check_number(field, value, 1, high)
        _check_number("seed", seed, 0, 2**31 - 1)
        if stories is None:
            chosen = [(place, cast) for place in chosen_places for cast in chosen_casts]
        else:
            rng = random.Random(seed)
            rng.shuffle(chosen_places)
            rng.shuffle(chosen_casts)
            order = _spread(len(chosen_places), len(chosen_casts))
            chosen = [(chosen_places[p], chosen_casts[c]) for p, c in islice(order, stories)]
        return tuple(self.story(place, cast, scenes) for place, cast in chosen)


def storytelling_set(
    places: Sequence[str] | None = None,
    casts: Sequence[str] | None = None,
    stories: int | None = None,
    scenes: int | None = None,
    seed: int = 0,
) -> tuple[SetStory, ...]:
    """The benchmark's stories, all or some.

    Args:
        places: ids of places; None takes all eight.
        casts: ids of casts; None takes all four.
        stories: how many stories, spread evenly over places and casts; fewer are the beginning of more. None takes
            every place with every cast, in the file's order.
        scenes: how many scenes of each story, from its beginning; None takes all 12 or 13.
        seed: which of them, and in which order, where `stories` is given.

    Raises:
        InputError: an unknown or repeated id, or a number out of range.
    """
    return _shipped().choose(places, casts, stories, scenes, seed)


def prompt_pair(stories: Sequence[SetStory], index: int) -> PromptPair:
    """Scene `index` of all stories, as one batch of prompt pairs.

    Raises:
        InputError: a story has no such scene.
    """
    if not stories:
        raise InputError("stories", "must hold at least one", None, "choose some with storytelling_set")
    _check_number("index", index, 0, min(len(story.pairs) for story in stories) - 1)
    pairs = [story.pairs[index] for story in stories]
    return PromptPair(
        scene=[pair.scene for pair in pairs],
        action=[pair.action for pair in pairs],
        scene_query=[pair.scene_query for pair in pairs],
        action_query=[pair.action_query for pair in pairs],
    )


@cache
def _shipped() -> StorytellingSet:
    return StorytellingSet.read()


def _spread(places: int, casts: int) -> Iterator[tuple[int, int]]:
    """Every (place, cast) once, any beginning of it balanced: both are counted round, and shifted when they meet."""
    period = math.lcm(places, casts)
    for number in range(places * casts):
        yield number % places, (number + number // period) % casts


def _chosen(field: str, ids: Sequence[str] | None, known: Sequence[Any]) -> list[Any]:
    """The parts with these ids, in the order given."""
    if ids is None:
        return list(known)
    if isinstance(ids, str) or not ids:
        raise InputError(field, "must be a list with at least one id", ids, "leave it out to take all")
    by_id = {part.id: part for part in known}
    for index, name in enumerate(ids):
        if name not in list(by_id):
            near = closest(name, by_id)
            fix = f"did you mean {near}?" if near else "use one of these"
            raise InputError(f"{field}[{index}]", f"must be one of {', '.join(by_id)}", name, fix)
        if name in ids[:index]:
            raise InputError(f"{field}[{index}]", "must not be given twice", name, "remove it")
    return [by_id[name] for name in ids]


def _check_number(field: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(field, f"must be a whole number from {low} to {high}", value, "choose one in that range")


def _model_at(location: tuple[Any, ...]) -> type[BaseModel] | None:
    """The model whose fields stand at a location of the file."""
    names = tuple(part for part in location if not isinstance(part, int))
    models: dict[tuple[Any, ...], type[BaseModel]] = {
        (): StorytellingSet, ("casts",): Cast, ("casts", "a"): Member, ("casts", "b"): Member,
        ("places",): Place, ("places", "scenes"): Scene,
    }  # fmt: skip
    return models.get(names)
