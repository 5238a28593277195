"""Tells pocket stories the way people write them: the same ground truth in many words and orders.

A story becomes the data of a storyboard: looks, places, and for every shot a scene, an action and a camera. Where two
characters are named in either order, sides stand in front or behind, facts are split between sentences, verbs have
several forms, and now and then a word that means nothing to the studio comes in. What the texts say is what the shot
shows: `reading.read_caption` gets it back.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from typing import Any

from .lexicon import LEXICON, VERBS
from .world import ACTIONS, MOVEMENTS, SCALES, SIDES, Actor, Look, ShotSpec, Story

__all__ = ["tell_story"]

_LOOKS = (
    "{a} {colour} {shape} with a {accessory}",
    "{a} {colour} {shape} with a {accessory}",
    "{a} {colour} {shape} wearing a {accessory}",
    "{colour} {shape} with a {accessory}",
    "{a} {colour} {shape} in a {accessory}",
    "the {colour} {shape} with the {accessory}",
    "{a} {colour} {shape} who wears a {accessory}",
    "a {shape}, {colour}, with a {accessory}",
    "{a} {colour} {shape} that has a {accessory}",
    "{colour} {shape}, {accessory}",
)
_PLACES = ("the {}", "the {}", "{}", "a {}", "on the {}", "at the {}", "in the {}", "in a {}", "near the {}")
_SIDES = ("on the {}", "on the {}", "on the {}", "at the {}", "on the {} side", "to the {}", "at {}", "in the {} half")
_FRONTED = ("On the {}, ", "On the {} ", "{}: ", "At the {}, ", "On the {} side ", "To the {}, ")
_JOINED = (". ", ". ", " and ", ", ", ", while ", "; ", ", and ", " while ")
_STRANGE = tuple(
    "happily slowly quiet little old big small sunny dark bright lonely tired excited gently suddenly "
    "morning evening noon night summer rain wind far friend smiling laughing bravely proudly "
    "carefully huge tiny warm cold shiny beautiful empty softly quickly calm story first last day".split()
)
_VOWELS = "aeiou"
_FRONTED_RELATIVE = 0.3
_AGAIN = 0.08
"""How often a scene names the place once more."""


def tell_story(story: Story, rng: random.Random) -> dict[str, Any]:
    """The story as a storyboard's data, told by an author whose habits `rng` draws.

    Args:
        story: ground truth.
        rng: where all choices come from.

    Returns:
        ``characters``, ``places`` and ``shots`` as `Storyboard.parse` takes them; shot n is the story's shot n.
    """
    author = _Author(rng)
    places = {f"place{n}": author.place(layout.place) for n, layout in enumerate(story.layouts)}
    keys = {layout: key for layout, key in zip(story.layouts, places, strict=True)}
    shots = [{"place": keys[shot.layout], **author.shot(shot)} for shot in story.shots]
    return {"characters": {n: author.look(look) for n, look in story.cast.items()}, "places": places, "shots": shots}


class _Author:
    """Someone who writes: plain words most of the time, and a habit of structure that is kept for half the shots."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.plain = rng.choice((0.2, 0.5, 0.9))  # how often the plainest word is taken
        self.strange = rng.choice((0.0, 0.0, 0.05, 0.2))
        self.habit = rng.choice(_PAIRS)
        self.plain_camera = rng.random() < 0.7

    def word(self, fact: str, index: int) -> str:
        phrases = list(LEXICON[fact].values())[index]
        return phrases[0] if self.rng.random() < self.plain else self.rng.choice(phrases)

    def look(self, look: Look) -> str:
        colour = self.word("colour", look.colour)
        shape, accessory = self.word("shape", look.shape), self.word("accessory", look.accessory)
        pattern = _LOOKS[0] if self.rng.random() < self.plain else self.rng.choice(_LOOKS)
        article = "an" if colour[0] in _VOWELS else "a"
        return pattern.format(a=article, colour=colour, shape=shape, accessory=accessory)

    def place(self, place: int) -> str:
        pattern = "the {}" if self.rng.random() < self.plain else self.rng.choice(_PLACES)
        return pattern.format(self.word("place", place))

    def shot(self, shot: ShotSpec) -> dict[str, Any]:
        """``scene``, ``action`` and ``camera`` of a shot."""
        actors = list(shot.actors)
        self.rng.shuffle(actors)
        if len(actors) == 1:
            parts = self.rng.choice(_SINGLES)(self, actors[0])
        else:
            habit = self.habit if self.rng.random() < 0.5 else self.rng.choice(_PAIRS)
            parts = habit(self, *actors)
        if self.rng.random() < _AGAIN:
            here = self.rng.choice(("it is {} again", "we are {} again", "here is {}", "{}"))
            parts = [here.format(f"the {self.word('place', shot.layout.place)}"), *parts]
        parts = [self._dressed(part) for part in parts]
        split = self.rng.randint(0, len(parts)) if self.rng.random() < 0.7 else 0
        scene, action = " ".join(parts[:split]), " ".join(parts[split:])
        if not action:
            scene, action = ("", scene) if self.rng.random() < 0.5 else (scene, "")
        camera = {"scale": self.camera("scale", shot.scale), "movement": self.camera("movement", shot.movement)}
        return {"scene": scene, "action": action, "camera": camera}

    def camera(self, fact: str, index: int) -> str:
        """A camera term; synonyms are rarer than elsewhere."""
        classes = {"scale": SCALES, "movement": MOVEMENTS}[fact]
        return classes[index] if self.plain_camera else self.word(fact, index)

    def _dressed(self, text: str) -> str:
        text = text[0].upper() + text[1:] if text[0] != "<" else text
        if self.rng.random() < 0.9:
            text += "."
        if self.rng.random() < 0.03:
            text = text.lower() if "<" not in text else text
        return text

    def strange_word(self) -> str:
        """A word outside the studio's language, now and then, with a blank before it."""
        if self.rng.random() >= self.strange:
            return ""
        if self.rng.random() < 0.7:
            return " " + self.rng.choice(_STRANGE)
        return " " + "".join(self.rng.choices(string.ascii_lowercase, k=self.rng.randint(3, 9)))

    def verb(self, actor: Actor, form: int) -> str:
        """The action as (0) she …, (1) they …, (2) …-ing."""
        verbs = VERBS[ACTIONS[actor.action]]
        chosen = verbs[0] if self.rng.random() < self.plain else self.rng.choice(verbs)
        return chosen[form] + self.strange_word()

    def does(self, actor: Actor) -> str:
        """``waves`` or ``is waving``."""
        return self.verb(actor, 0) if self.rng.random() < 0.65 else f"is {self.verb(actor, 2)}"

    def at(self, actor: Actor) -> str:
        pattern = _SIDES[0] if self.rng.random() < self.plain else self.rng.choice(_SIDES)
        return pattern.format(SIDES[actor.side])

    def one(self, actor: Actor, start: bool = True) -> str:
        """A clause with everything about one character; `start` False keeps it from opening like a sentence."""
        name, does, at = f"<{actor.name}>", self.does(actor), self.at(actor)
        kind = self.rng.random()
        if kind < 0.5:
            return f"{name} {does} {at}"
        if kind < 0.7:
            fronted = self.rng.choice(_FRONTED[:2] if not start else _FRONTED).format(SIDES[actor.side])
            fronted = fronted if start else fronted[0].lower() + fronted[1:]
            return f"{fronted}{name} {does}"
        if kind < 0.78:
            return f"{name} {at} {does}"
        if kind < 0.84:
            return f"{name} ({SIDES[actor.side]}) {does}"
        if kind < 0.9:
            return f"{name} {at}, {self.verb(actor, 2)}"
        if kind < 0.95:
            return f"{name} is {at}, {self.verb(actor, 2)}"
        if actor.action == ACTIONS.index("stands"):
            return f"{name} {at}" if self.rng.random() < 0.5 else f"{name} is {at}"
        return f"{name}, {at}, {does}"


def _whole(author: _Author, actor: Actor) -> list[str]:
    return [author.one(actor)]


def _position_first(author: _Author, actor: Actor) -> list[str]:
    does = author.does(actor)
    who = author.rng.choice((f"<{actor.name}>", f"<{actor.name}>", "she", "he", "it"))
    stands = author.rng.choice(("is", "is", "stands", "waits", "we see"))
    first = (
        f"we see <{actor.name}> {author.at(actor)}"
        if stands == "we see"
        else f"<{actor.name}> {stands} {author.at(actor)}"
    )
    return [first, f"{who} {does}"]


def _inverted(author: _Author, actor: Actor) -> list[str]:
    side = SIDES[actor.side]
    if author.rng.random() < 0.5:
        return [f"on the {side} {author.verb(actor, 0)} <{actor.name}>"]
    return [f"{author.verb(actor, 2)} on the {side} is <{actor.name}>"]


def _side_open(author: _Author, actor: Actor) -> list[str]:
    """Somebody alone without a side, who stands on the left then; else the side is told."""
    if SIDES[actor.side] != "left":
        return _whole(author, actor)
    return [f"<{actor.name}> {author.does(actor)}"]


def _two_clauses(author: _Author, one: Actor, other: Actor) -> list[str]:
    joined = author.rng.choice(_JOINED)
    if joined == ". ":
        return [author.one(one), author.one(other)]
    return [f"{author.one(one)}{joined}{author.one(other, start=False)}"]


def _one_after_other(author: _Author, one: Actor, other: Actor) -> list[str]:
    return [author.one(one), author.one(other)]


def _positions_then_actions(author: _Author, one: Actor, other: Actor) -> list[str]:
    rng = author.rng
    is_ = rng.choice((" is", " is", "", " stands"))
    joined = rng.choice((" and ", ", ", ". "))
    where = f"<{one.name}>{is_} {author.at(one)}{joined}<{other.name}>{is_} {author.at(other)}"
    if one.action == other.action and rng.random() < 0.6:
        both = rng.choice(
            (f"both {author.verb(one, 1)}", f"they both {author.verb(one, 1)}", f"both are {author.verb(one, 2)}")
        )
        return [where, both]
    if rng.random() < 0.5:
        one, other = other, one
    joined = rng.choice((" and ", ", ", ", while ", ". ", " while "))
    return [where, f"<{one.name}> {author.does(one)}{joined}<{other.name}> {author.does(other)}"]


def _one_side_told(author: _Author, one: Actor, other: Actor) -> list[str]:
    joined = author.rng.choice((" and ", ", ", ", while ", ". "))
    clauses = [f"<{one.name}> {author.does(one)} {author.at(one)}", f"<{other.name}> {author.does(other)}"]
    if author.rng.random() < 0.3:
        clauses.reverse()
    return [joined.join(clauses)] if joined != ". " else clauses


def _no_side_told(author: _Author, one: Actor, other: Actor) -> list[str]:
    left, right = sorted((one, other), key=lambda actor: actor.side)
    if left.action == right.action and author.rng.random() < 0.7:
        return [f"<{left.name}> and <{right.name}> {author.verb(left, 1)}"]
    joined = author.rng.choice((" and ", ", ", ", while "))
    return [f"<{left.name}> {author.does(left)}{joined}<{right.name}> {author.does(right)}"]


def _relative(author: _Author, one: Actor, other: Actor) -> list[str]:
    rng, side = author.rng, SIDES[one.side]
    if rng.random() < 0.5:
        near = rng.choice(("next to", "beside", "near"))
        first = f"<{one.name}> {author.does(one)} {author.at(one)}"
        return [first, f"<{other.name}> {author.does(other)} {near} <{one.name}>"]
    if rng.random() < _FRONTED_RELATIVE:
        first = f"to the {side} of <{other.name}>, <{one.name}> {author.does(one)}"
        return [first, f"<{other.name}> {author.does(other)}"]
    of = rng.choice((f"to the {side} of", f"on the {side} of", f"{side} of"))
    first = f"<{one.name}> {author.does(one)} {of} <{other.name}>"
    if rng.random() < 0.5:
        return [f"{first}, who {author.does(other)}"]
    return [first, f"<{other.name}> {author.does(other)}"]


def _same_action(author: _Author, one: Actor, other: Actor) -> list[str]:
    if one.action != other.action:
        return _positions_then_actions(author, one, other)
    names = f"<{one.name}> and <{other.name}>"
    if author.rng.random() < 0.5:
        return [f"{names} {author.verb(one, 1)}, <{one.name}> {author.at(one)}"]
    return [f"<{one.name}> {author.at(one)} and <{other.name}> {author.at(other)} both {author.verb(one, 1)}"]


_SINGLES: tuple[Callable[[_Author, Actor], list[str]], ...] = (
    _whole,
    _whole,
    _whole,
    _position_first,
    _inverted,
    _side_open,
)
_PAIRS: tuple[Callable[[_Author, Actor, Actor], list[str]], ...] = (
    _two_clauses,
    _two_clauses,
    _two_clauses,
    _one_after_other,
    _one_after_other,
    _positions_then_actions,
    _positions_then_actions,
    _one_side_told,
    _no_side_told,
    _relative,
    _same_action,
)
