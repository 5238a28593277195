"""Director and Refiner without a language model: rules that know the pocket world, the same answer every time.

What a theme says in the pocket studio's words (looks, places, actions, names, numbers) is used; all else is drawn from
the theme and the seed. The Refiner's pictures are not looked at: the pocket video model reads captions.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from ..core.errors import InputError
from ..pocket.lexicon import meanings
from ..pocket.world import (
    ACCESSORIES,
    ACTIONS,
    CAST,
    COLOURS,
    FPS,
    HEIGHT,
    MOVEMENTS,
    PLACES,
    SCALES,
    SHAPES,
    SIDES,
    WIDTH,
    Look,
)
from .client import AnswerSchema, Cost, Message

__all__ = ["POCKET_FPS", "POCKET_SIZE", "RulesClient"]

POCKET_FPS, POCKET_SIZE = FPS, (WIDTH, HEIGHT)

T = TypeVar("T")

_NEAR_PLACE = {
    "desert": "cactus cacti camel camels oasis sand sahara",
    "town": "street streets house houses market school station downtown",
    "forest": "tree trees jungle rainforest mushrooms",
    "beach": "sea ocean coast island islands sailing sailors harbour harbor boat ship surf summer",
    "snow": "winter ice icy snowy snowman christmas arctic mountain mountains ski skiing",
    "moon": "space rocket planet astronaut astronauts earth spaceship",
}
_THEMES = {word: PLACES.index(place) for place, words in _NEAR_PLACE.items() for word in words.split()}
"""Words of themes that the studio's models were not taught, and the place that comes nearest."""

_SECONDS = 2.125  # what the pocket video model was trained on
_FREE = 6  # shots, where nobody says how many
_MOST_CAST, _MOST_PLACES = 4, 3
_NUMBERS = {
    word: n for n, word in enumerate("one two three four five six seven eight nine ten eleven twelve".split(), 1)
}
_WORD = re.compile(r"<(?P<name>[^<>]{1,40})>|(?P<word>[^\W\d_]+(?:[-'’][^\W\d_]+)*)|(?P<end>[.!?;])")
_NAMED = re.compile(r"\b(?:named|called|names?)\s+([A-Z][\w'’-]{0,38})|\b([A-Z][\w'’-]{0,38}),? (?:an?|the) ")
_LOOKS = {"colour": COLOURS, "shape": SHAPES, "accessory": ACCESSORIES}


class RulesClient:
    """Answers Director and Refiner by rules.

    Args:
        seed: of what the theme leaves open.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.cost = seed, Cost()

    @property
    def who(self) -> str:
        return "rules"

    def ask(self, messages: Sequence[Message], schema: AnswerSchema[T], images: Sequence[Any] | None = None) -> T:
        """See `Client.ask`; the messages' facts are read, not their texts."""
        self.cost.requests += 1
        facts = messages[-1].facts
        if facts.get("agent") == "director":
            answer = _direct(str(facts["theme"]), facts["shots"], self.seed)
        elif facts.get("agent") == "refiner":
            answer = {"prompt": facts["caption"]}
        else:
            raise InputError(
                "client", "knows rules for Director and Refiner only", facts.get("agent"), "take another client"
            )
        return schema.read(answer, True)


def _direct(theme: str, shots: int | None, seed: int) -> dict[str, Any]:
    """A storyboard in the words of the pocket world."""
    said = _Theme(theme)
    rng = random.Random(f"{seed}:{theme}")
    count = shots or said.shots or _FREE
    cast = said.cast(rng)
    names = list(cast)
    told = said.places[:_MOST_PLACES]
    free = [place for place in rng.sample(range(len(PLACES)), len(PLACES)) if place not in told]
    places = (told + free[: max(0, 2 - len(told))]) if count > 1 else (told + free)[:1]
    actions = _Deck(said.actions, list(range(len(ACTIONS))), rng)
    made = []
    for number in range(count):
        who = _who(names, number, rng)
        sides = rng.sample(range(2), len(who))
        parts = [f"<{n}> {ACTIONS[actions.draw()]} on the {SIDES[side]}." for n, side in zip(who, sides, strict=True)]
        made.append(
            {
                "place": PLACES[places[_stage(number, count, len(places))]],
                "scene": parts[0] if len(parts) > 1 else "",
                "action": parts[-1],
                "scale": SCALES[0] if number == 0 else rng.choice(SCALES),
                "angle": "eye level",
                "movement": MOVEMENTS[0] if rng.random() < 0.5 else rng.choice(MOVEMENTS[1:]),
                "seconds": _SECONDS,
            }
        )
    return {
        "reasoning": "Everybody is shown alone before they meet; the film comes back to where it began.",
        "characters": [{"name": name, "looks": look.describe()} for name, look in cast.items()],
        "places": [{"name": PLACES[place], "looks": f"the {PLACES[place]}"} for place in places],
        "shots": made,
    }


def _who(names: list[str], number: int, rng: random.Random) -> list[str]:
    """Everybody alone first, one after the other; then two together most of the time."""
    if number < len(names):
        return [names[number]]
    return rng.sample(names, 2) if len(names) > 1 and rng.random() < 0.7 else [rng.choice(names)]


def _stage(number: int, count: int, places: int) -> int:
    """Which place: two shots in each, and the first again at the end, so that somebody has to remember it."""
    return 0 if number == count - 1 and count > 2 else number // 2 % places


class _Deck:
    """Draws what was asked for first, in order; then anything, seldom twice in a row."""

    def __init__(self, first: Sequence[int], all_of_them: Sequence[int], rng: random.Random) -> None:
        self._next, self._all, self._rng, self._last = list(first), list(all_of_them), rng, -1

    def draw(self) -> int:
        pick = self._next.pop(0) if self._next else self._rng.choice([x for x in self._all if x != self._last])
        self._last = pick
        return pick


class _Theme:
    """What a theme says in the words of the pocket world.

    Attributes:
        looks: per character that is described, its facts as indices.
        names: names in the order of mention.
        places, actions: indices in the order of mention.
        people, shots: how many, where a number says so.
    """

    def __init__(self, theme: str) -> None:
        self.looks: list[dict[str, int]] = []
        self.places: list[int] = []
        self.actions: list[int] = []
        words = list(_WORD.finditer(theme))
        self.names = self._names(theme)
        self.people = _number_before(
            theme, r"(?:friends?|characters?|people|heroes|creatures?|strangers?|lovers|sisters|brothers)"
        )
        self.shots = _number_before(theme, r"shots?")
        at, known = 0, meanings()
        while at < len(words):
            for size in range(min(3, len(words) - at), 0, -1):
                part = words[at : at + size]
                phrase = " ".join((match["word"] or "").lower() for match in part)
                if phrase in known and all(match["word"] for match in part):
                    self._fact(*known[phrase])
                    at += size - 1
                    break
            else:
                word = re.split("['’]", words[at]["word"] or "")[0].lower()  # also the camel's
                if word in _THEMES:
                    self._fact("place", _THEMES[word])
            at += 1

    def _fact(self, fact: str, value: int) -> None:
        if fact in _LOOKS:
            if not self.looks or fact in self.looks[-1]:  # the next one's
                self.looks.append({})
            self.looks[-1][fact] = value
        elif fact == "place" and value not in self.places:
            self.places.append(value)
        elif fact == "action":
            self.actions.append(value)

    @staticmethod
    def _names(theme: str) -> list[str]:
        found = [match["name"].strip() for match in _WORD.finditer(theme) if match["name"]]
        found += [match[1] or match[2] for match in _NAMED.finditer(theme)]
        found += [match["word"] for match in _WORD.finditer(theme) if match["word"] in CAST]
        return list(dict.fromkeys(name for name in found if name and ":" not in name))[:_MOST_CAST]

    def cast(self, rng: random.Random) -> dict[str, Look]:
        """Names and looks, all different."""
        count = max(len(self.names), len(self.looks), min(self.people or 0, _MOST_CAST)) or 2
        count = min(count, _MOST_CAST)
        names = self.names + [name for name in rng.sample(CAST, len(CAST)) if name not in self.names]
        cast: dict[str, Look] = {}
        for number, name in enumerate(names[:count]):
            told = self.looks[number] if number < len(self.looks) else {}
            for _ in range(100):
                look = Look(*(told.get(fact, rng.randrange(len(classes))) for fact, classes in _LOOKS.items()))
                # Colours are seen first: other people have others.
                if look not in cast.values() and (
                    "colour" in told or look.colour not in {c.colour for c in cast.values()}
                ):
                    break
            cast[name] = look
        return cast


def _number_before(theme: str, what: str) -> int | None:
    """The number in ``three brave friends`` or ``in 6 shots``."""
    match = re.search(rf"\b(\d{{1,2}}|{'|'.join(_NUMBERS)})\b(?:\s+[^\W\d_]+){{0,2}}?\s+{what}\b", theme, re.IGNORECASE)
    if match is None:
        return None
    number = int(match[1]) if match[1].isdigit() else _NUMBERS[match[1].lower()]
    return number if 1 <= number <= 40 else None
