"""Compares a keyframe with its caption: is everybody there who is named, looking as told, in the place that is told?

Captions are read by rules, pictures by the recogniser. Only what a caption and the film's descriptions tell is asked
for; actions, the camera and where landmarks stand are not.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from .lexicon import LEXICON
from .reading import CaptionReading, read_caption
from .recogniser import IDENTITY, Reading
from .world import SIDES

__all__ = ["CaptionCheck"]

_CLASSES = {fact: tuple(classes) for fact, classes in LEXICON.items()}


class CaptionCheck:
    """Tells what of its caption a keyframe does not show.

    Args:
        read: pictures ``[B, 3, H, W]`` in 0…1 → what the recogniser sees.
        characters: the film's descriptions by name.
        identity: tells one recogniser from another; what was checked by another is checked anew.
    """

    def __init__(self, read: Callable[[Tensor], Reading], characters: Mapping[str, str], identity: str) -> None:
        self._read = read
        self._looks = {name: _looks(name, text) for name, text in characters.items()}
        self.identity = identity

    def missing(self, picture: Tensor, caption: str) -> list[str]:
        """What is told and not shown, in words: ``<Bo> on the left``, ``<Mira>: crown``, ``place: desert``.

        A character that is not there misses all that is told of it, so that more is missing than of one that is there
        and looks wrong. Where a caption leaves the sides open, those count by which least is missing; of more than two
        characters, the two that are seen best: a pocket picture has no room for others.

        Args:
            picture: ``[3, H, W]`` in 0…1.
            caption: its prompt, with ``<Name>`` tags.
        """
        told, seen = read_caption(caption), self._read(picture[None])
        wanted = self._wanted(told)
        found = min(([*self._cast(seats, wanted, seen)] for seats in _seatings(told)), key=len)
        place = told.setting.get("place")
        if place is not None and int(seen["place"][0]) != place:
            found.append(f"place: {_CLASSES['place'][place]}")
        return found

    def _wanted(self, told: CaptionReading) -> dict[str, dict[str, int]]:
        """Per character of a caption, its looks as far as they are told, there or in the film's descriptions."""
        here = {name: {fact: facts[fact] for fact in IDENTITY if fact in facts} for name, facts in told.actors.items()}
        return {name: self._looks.get(name, {}) | facts for name, facts in here.items()}

    def _cast(self, seats: Mapping[str, int], wanted: Mapping[str, Any], seen: Reading) -> Iterator[str]:
        """What is missing of the characters on these sides."""
        for name, side in seats.items():
            absent = not int(seen["present"][0, side])
            if absent:
                yield f"<{name}> on the {SIDES[side]}"
            for fact, value in wanted[name].items():
                if absent or int(seen[fact][0, side]) != value:
                    yield f"<{name}>: {_CLASSES[fact][value]}"


def _looks(name: str, description: str) -> dict[str, int]:
    one_sentence = re.sub(r"[.;!?…]+", ",", description)
    facts = read_caption(f"<{name}>, {one_sentence}").actors.get(name, {})
    return {fact: facts[fact] for fact in IDENTITY if fact in facts}


def _seatings(told: CaptionReading) -> list[dict[str, int]]:
    """The ways in which a caption's characters can stand: on the sides that it tells, if these fit one each."""
    names, places = list(told.actors), range(len(SIDES))
    sides = {name: m.value for m in told.mentions if m.fact == "side" for name in m.who}
    seated = [name for name in names if name in sides]
    ways = [
        dict(zip(chosen, order, strict=True))
        for chosen in itertools.combinations(names, min(len(names), len(SIDES)))
        for order in itertools.permutations(places, len(chosen))
    ]
    fitting = [way for way in ways if all(way.get(name) == sides[name] for name in seated)]
    return fitting or ways
