"""What every word of a caption is about: labels for the text encoder and the keyframe model, from the pocket reader."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer

from ...story.storyboard import Storyboard
from ..reading import Mention, read_caption
from ..telling import tell_story
from ..world import (
    ACCESSORIES,
    ACTIONS,
    CAST,
    COLOURS,
    MOVEMENTS,
    PLACES,
    SCALES,
    SHAPES,
    SIDES,
    Actor,
    ShotSpec,
    Story,
)

__all__ = ["FACTS", "IGNORE", "LOOK_FACTS", "ToldShot", "label_words", "pairs_of_words", "tell_shots", "word_spans"]

IGNORE = -100
LOOK_FACTS = ("colour", "shape", "accessory")
#: what words tell, and how many classes each has
FACTS = {
    "name": len(CAST),
    "side": len(SIDES),
    "action": len(ACTIONS),
    "colour": len(COLOURS),
    "shape": len(SHAPES),
    "accessory": len(ACCESSORIES),
    "place": len(PLACES),
    "scale": len(SCALES),
    "movement": len(MOVEMENTS),
}
_SETTING = ("place", "scale", "movement")


@dataclass(frozen=True)
class ToldShot:
    """A shot and the storyboard that tells it; `caption` writes it as a film would."""

    truth: ShotSpec
    board: Storyboard
    number: int

    def caption(self, described: Collection[str]) -> str:
        """The caption with the looks of the `described` characters."""
        known = set(self.board.characters) - set(described)
        return self.board.caption(self.board.shots[self.number], known).prompt

    @property
    def query(self) -> str:
        """The caption for retrieval: looks in place of names."""
        return self.board.caption(self.board.shots[self.number], set(self.board.characters)).query


def tell_shots(story: Story, rng: random.Random) -> list[ToldShot]:
    """The shots of a story in somebody's words."""
    board = Storyboard.parse(tell_story(story, rng))
    return [ToldShot(shot, board, n) for n, shot in enumerate(story.shots)]


def word_spans(tokenizer: Tokenizer, caption: str) -> tuple[list[int], list[tuple[Mention, int, int]]]:
    """Token ids of a caption, its end token last, and every mention with its first token and the one after its last."""
    encoded = tokenizer.encode(caption)
    starts = [start + (caption[start:end][:1] == " ") for start, end in encoded.offsets]
    spans = []
    for mention in read_caption(caption).mentions:
        inside = [n for n, start in enumerate(starts[:-1]) if mention.start <= start < mention.end]
        if inside:
            spans.append((mention, inside[0], inside[-1] + 1))
    return encoded.ids, spans


def label_words(
    tokenizer: Tokenizer, caption: str, shot: ShotSpec, known: Collection[str]
) -> tuple[list[int], dict[str, list[int]]]:
    """Token ids of a caption, and per fact the class that each token tells of what it is about, else IGNORE.

    A word about one character is labelled with everything that is so of this character, also with what other words
    tell; looks only for the `known` ones. A word about several is labelled with its own fact.
    """
    actors = {actor.name: actor for actor in shot.actors}
    setting = {"place": shot.layout.place, "scale": shot.scale, "movement": shot.movement}
    ids, spans = word_spans(tokenizer, caption)
    labels = {fact: [IGNORE] * len(ids) for fact in FACTS}
    for mention, first, after in spans:
        facts = _about(mention, actors, setting, known)
        for fact, value in facts.items():
            labels[fact][first:after] = [value] * (after - first)
    return ids, labels


def _about(
    mention: Mention, actors: dict[str, Actor], setting: dict[str, int], known: Collection[str]
) -> dict[str, int]:
    if mention.fact in _SETTING:
        return setting
    if len(mention.who) != 1:
        return {mention.fact: int(mention.value)} if mention.who else {}
    actor = actors[mention.who[0]]
    facts = {"name": CAST.index(actor.name), "side": actor.side, "action": actor.action}
    return facts | ({fact: getattr(actor.look, fact) for fact in LOOK_FACTS} if actor.name in known else {})


def pairs_of_words(
    mine: list[tuple[Mention, int, int]], other: list[tuple[Mention, int, int]]
) -> Iterator[tuple[int, int]]:
    """Tokens of two captions of one shot that say the same: (token of mine, token of the other's)."""
    found = {(m.fact, m.who): (first, after - 1) for m, first, after in reversed(other)}
    for mention, first, after in mine:
        if (place := found.get((mention.fact, mention.who))) is not None:
            yield after - 1, place[1]
            if after - 1 > first:
                yield first, place[0]
