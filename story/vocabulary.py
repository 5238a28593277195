"""Words that a text encoder was taught, and the words of a storyboard that are none of them.

A small encoder reads the words of its training only: any other is letters to it, and what stands there is not drawn.
Public encoders read everything; their files list no words, and nothing is ever said about them.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..core.documents import as_array, as_object, as_text, parse_json
from ..core.errors import closest, shorten
from .storyboard import Storyboard

__all__ = ["Kinds", "Vocabulary", "made_for_note", "unknown_words", "words_in", "words_note"]

Kinds = Mapping[str, Mapping[str, Sequence[str]]]
"""Per kind (``colour``) its plainest words (``red``), each with all phrases that mean it (``red``, ``scarlet``)."""

_TAG = re.compile(r"<[^<>]*>")
_NEAR = 0.7
"""Least likeness of a suggestion: lets ``jumped`` through to ``jumps``, and no other word of like letters."""
_SHOWN, _LONGEST, _PLACES = 8, 40, 6


class Vocabulary(Collection[str]):
    """The words of a text encoder; empty where it reads any. Case, and the ``'s`` of an owner, make no difference.

    Args:
        words: all of them, single words.
        kinds: those that say something, by what they say.
    """

    def __init__(self, words: Iterable[str] = (), kinds: Kinds | None = None) -> None:
        self._words = frozenset(_plain(word) for word in words)
        self.kinds: Kinds = kinds or {}

    @classmethod
    def read(cls, metadata: Mapping[str, str]) -> Vocabulary:
        """That of a weight file, from its metadata: ``words`` (a JSON list) and ``kinds`` (see `Kinds`).

        Raises:
            InputError: they are there, but of other types.
        """
        where = "metadata.words"
        words = as_array(parse_json(metadata.get("words", "[]"), where), where)
        where = "metadata.kinds"
        kinds = as_object(parse_json(metadata.get("kinds", "{}"), where), where)
        return cls([as_text(word, "metadata.words") for word in words], {k: _phrases(k, v) for k, v in kinds.items()})

    def metadata(self) -> dict[str, str]:
        """What `read` reads."""
        return {"words": json.dumps(list(self)), "kinds": json.dumps({k: dict(v) for k, v in self.kinds.items()})}

    def __contains__(self, word: object) -> bool:
        return isinstance(word, str) and _plain(word) in self._words

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._words))

    def __len__(self) -> int:
        return len(self._words)

    def nearest(self, word: str) -> str | None:
        """The word that says something and is spelt most like `word`, or None if none is like it."""
        phrases = (phrase for classes in self.kinds.values() for alike in classes.values() for phrase in alike)
        telling = {single for phrase in phrases for single in phrase.split()} or self._words
        first = _plain(word)[:1]
        return closest(_plain(word), sorted(each for each in telling if each[:1] == first and len(each) > 2), _NEAR)


def _phrases(kind: str, value: Any) -> dict[str, list[str]]:
    where = f"metadata.kinds.{kind}"
    classes = as_object(value, where)
    return {name: [as_text(phrase, where) for phrase in as_array(alike, where)] for name, alike in classes.items()}


def _plain(word: str) -> str:
    return re.sub(r"'s$", "", word.replace("’", "'").lower())


def words_in(text: str) -> list[str]:
    """The words of a text as they are written, without tags and numbers, in any script."""
    bare = _TAG.sub(" ", text)
    spaced = "".join(c if c in "'’-" or unicodedata.category(c)[0] in "LMN" else " " for c in bare)
    words = (re.sub(r"['’]s$", "", word.strip("'’-")) for word in spaced.split())
    return [word for word in words if word and not word[0].isdigit() and (len(word) > 1 or not word.isascii())]


def unknown_words(story: Storyboard, known: Vocabulary) -> dict[str, list[str]]:
    """The words of a film that are not `known`, as first written, each with where it stands; in film order.

    Looked at is what prompts are made of: scenes, actions, keyframes' texts and camera terms of every shot (told by its
    id), its places, and the looks of those who appear. An empty vocabulary knows everything.
    """
    found: dict[str, tuple[str, list[str]]] = {}
    for where, text in _texts(story) if known else ():
        for word in words_in(text):
            if word not in known:
                places = found.setdefault(_plain(word), (word, []))[1]
                if not places or places[-1] != where:
                    places.append(where)
    return dict(found.values())


def _texts(story: Storyboard) -> Iterator[tuple[str, str]]:
    cast = {member.name: member for member in story.cast if member.shots}
    told: set[str] = set()
    for shot in story.shots:
        camera = shot.camera
        angle = "" if camera.angle == "eye level" else camera.angle
        yield shot.id, " ".join((*shot.texts, camera.scale, angle, camera.movement))
        if shot.place is not None and shot.place not in told:
            told.add(shot.place)
            yield f"place {shot.place}", story.places[shot.place]
    for member in cast.values():
        yield f"looks of {member.name}", member.description


def words_note(story: Storyboard, known: Vocabulary, who: str = "this text encoder") -> str | None:
    """One line about the words of a film that `who` was not taught, with the nearest that it was; None if it has none.

    Args:
        story: the film.
        known: what `who` was taught.
        who: as in ``the studio “pocket”``.
    """
    found = unknown_words(story, known)
    if not found:
        return None
    tags = {name.lower(): f"<{name}>" for name in story.characters}
    shown = list(found)[:_SHOWN]
    near = {word: tags.get(_plain(word)) or known.nearest(word) for word in shown}
    where = list(dict.fromkeys(place for places in found.values() for place in places))
    line = f"words {who} was not taught: {_listed(list(found), _SHOWN)} (in {_listed(where, _PLACES)})"
    if pairs := [f"{shorten(word, _LONGEST)} → {other}" for word, other in near.items() if other]:
        line += f"; nearest: {', '.join(pairs)}"
    line += "; it draws what it knows"
    if known.kinds and not all(near.values()):
        line += ": " + "; ".join(f"{kind} {', '.join(classes)}" for kind, classes in known.kinds.items())
    return line


def _listed(words: Sequence[str], most: int) -> str:
    rest = len(words) - most
    return ", ".join(shorten(word, _LONGEST) for word in words[:most]) + (f" and {rest} more" if rest > 0 else "")


def made_for_note(
    story: Storyboard, size: Sequence[int] | None, fps: float | None, who: str = "this studio"
) -> str | None:
    """One line where a film has another (width, height) or rate than `who` was made for; None for what is not said."""
    made, seen = [], []
    if size is not None and tuple(size) != story.size:
        made.append("{}×{} pixels".format(*size))
        seen.append("{}×{}".format(*story.size))
    if fps is not None and fps != story.fps:
        made.append(f"{fps:g} fps")
        seen.append(f"{story.fps:g} fps")
    if not made:
        return None
    return f"{who} was made for {' and '.join(made)}: pictures and motion suffer at {' and '.join(seen)}"
