"""Reads a caption as the pocket world means it: who stands on which side, doing what, looking how, in which place.

Rules, no model: the tags say who a sentence is about, and what follows a name belongs to it until the next one; what
comes before the first name of a sentence waits for it. Training labels its words with this, and keyframes are checked
by it; the stories that people wrote are scored by hand-made truth instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from .lexicon import meanings
from .world import ACTIONS, SIDES

__all__ = ["CaptionReading", "Mention", "read_caption"]

_TOKEN = re.compile(r"<(?P<name>[^<>]*)>|(?P<word>[^\W\d_]+(?:[-'’][^\W\d_]+)*)|(?P<mark>[^\w\s])")
_SHE, _BOTH = frozenset("she he it who".split()), frozenset("both they everyone".split())
_BESIDE = frozenset("beside next near to of with from behind".split())
_LOOKS = ("colour", "shape", "accessory")
_LONGEST = 4


@dataclass(frozen=True)
class Mention:
    """A phrase that says something: characters `start`…`end` of the caption, the fact and its class (a name for
    ``name``), and the characters it is said of (empty for the setting).
    """

    start: int
    end: int
    fact: str
    value: int | str
    who: tuple[str, ...] = ()


@dataclass
class CaptionReading:
    """What a caption says.

    Attributes:
        actors: per name, in the order of first mention, its facts: ``side``, ``action`` and what is told of its looks.
        setting: ``place``, ``scale`` and ``movement``, where they are told.
        mentions: the phrases that say so, in order.
    """

    actors: dict[str, dict[str, int]] = field(default_factory=dict)
    setting: dict[str, int] = field(default_factory=dict)
    mentions: list[Mention] = field(default_factory=list)


@dataclass(frozen=True)
class _Token:
    start: int
    end: int
    kind: str  # name, fact, word or mark
    text: str  # the name, or the words in lower case
    fact: str = ""
    value: int = -1


def read_caption(caption: str) -> CaptionReading:
    """Read a caption as `Storyboard.captions` writes them.

    Where one of two characters has no side, it has the other one's; where none has, the first mentioned is on the left,
    as is somebody alone. Who does nothing stands.
    """
    reader = _Reader()
    for sentence in _sentences(_tokens(caption)):
        reader.sentence(sentence)
    out = reader.out
    _complete(out.actors)
    return out


def _complete(actors: dict[str, dict[str, int]]) -> None:
    everyone = list(actors.values())
    if len(everyone) == 2:
        for one, other in (everyone, everyone[::-1]):
            if "side" not in one and "side" in other:
                one["side"] = 1 - other["side"]
    if len(everyone) <= 2:
        for side, facts in enumerate(everyone):
            facts.setdefault("side", side)
    for facts in everyone:
        facts.setdefault("action", ACTIONS.index("stands"))


class _Reader:
    """Goes through the sentences; `group` are the characters that a verb now speaks of."""

    def __init__(self) -> None:
        self.out = CaptionReading()
        self.group: tuple[str, ...] = ()

    def sentence(self, tokens: list[_Token]) -> None:
        self.here: list[str] = []  # names of this sentence
        self.placed: set[str] = set()  # those whose side this sentence has told
        self.pending: list[_Token] = []
        self.landmark = ""  # to the left of whom somebody named later stands
        self.before = -1  # where the last name stood
        self.last = max((at for at, token in enumerate(tokens) if token.kind == "name"), default=-1)
        carried, self.open = self.group, False
        for at, token in enumerate(tokens):
            if token.kind == "name":
                self._name(tokens, at)
                self.before = at
            elif token.kind == "fact":
                self._fact(tokens, at)
            elif token.text in _BOTH:
                self.group = tuple(self.here) if len(self.here) > 1 else tuple(self.out.actors)
                self.open = True
            elif token.text in _SHE and (self.here or carried):
                self.group, self.open = ((self.here or list(carried))[-1],), True
        if self.pending and (group := self.group or carried):
            for token in self.pending:
                self._say(token, group)
            self.pending = []

    def _name(self, tokens: list[_Token], at: int) -> None:
        name = tokens[at].text
        before = [t.text for t in tokens[max(0, at - 2) : at]]
        actors = self.out.actors
        self.out.mentions.append(Mention(tokens[at].start, tokens[at].end, "name", name, (name,)))
        if before and before[-1] in _BESIDE and (self.open or self.group) and self.here:  # a landmark, not who acts
            actors.setdefault(name, {})
            subject = self.group[-1]
            side = actors[subject].get("side")
            if side is not None and subject != name:
                actors[name].setdefault("side", 1 - side)
            elif (other := actors[name].get("side")) is not None and subject != name:
                actors[subject].setdefault("side", 1 - other)
            self.here.append(name)
            return
        actors.setdefault(name, {})
        if before and before[-1] == "of" and not self.open and any(t.fact == "side" for t in self.pending):
            self.landmark = name
            self.here.append(name)
            return
        self.group = (*self.group, name) if self._joined(tokens, at) else (name,)
        self.here.append(name)
        self.open = True
        waiting, self.pending = self.pending, []
        for token in waiting:
            self._say(token, (name,))
        if self.landmark and "side" in actors[name]:
            actors[self.landmark].setdefault("side", 1 - actors[name]["side"])
            self.landmark = ""

    def _joined(self, tokens: list[_Token], at: int) -> bool:
        """Whether ``and`` alone, and looks, stand between this name and the one before: what follows is about both."""
        between = tokens[self.before + 1 : at] if self.before >= 0 else []
        told = any(t.kind == "fact" and t.fact not in _LOOKS for t in between)
        return bool(between) and between[-1].text == "and" and not told and bool(self.group)

    def _fact(self, tokens: list[_Token], at: int) -> None:
        token = tokens[at]
        if token.fact in ("place", "scale", "movement"):
            self.out.setting.setdefault(token.fact, token.value)
            self.out.mentions.append(Mention(token.start, token.end, token.fact, token.value))
        elif token.fact in _LOOKS:
            # behind what somebody does stands what it is done with: jumps onto the green box
            if self.here and not any(t.kind == "fact" and t.fact not in _LOOKS for t in tokens[self.before + 1 : at]):
                self._say(token, (self.here[-1],))
        elif not self.open or (token.fact == "side" and self._for_next(tokens, at)):
            self.pending.append(token)
        else:
            self._say(token, self.group)

    def _for_next(self, tokens: list[_Token], at: int) -> bool:
        """Whether a side opens the next character's clause: this one has its own, or the clause before has ended."""
        beside = False
        for ahead in tokens[at + 1 :]:
            if ahead.kind == "fact":
                return self._placed() and self.last > at
            if ahead.kind == "name":
                return not beside and self._placed()  # not: to the right of <Bo>
            beside = beside or ahead.text in _BESIDE
        return False

    def _placed(self) -> bool:
        return len(self.group) == 1 and self.group[0] in self.placed

    def _say(self, token: _Token, group: tuple[str, ...]) -> None:
        actors = self.out.actors
        who = group
        if token.fact == "side" and len(group) > 1:  # on the left and on the right: one each, in order
            who = tuple(name for name in group if name not in self.placed)[:1]
        for name in who:
            if token.fact == "side":
                self.placed.add(name)
                actors[name]["side"] = token.value
            elif token.fact == "action":
                if token.value != ACTIONS.index("stands") or "action" not in actors[name]:
                    actors[name]["action"] = token.value
            else:
                actors[name].setdefault(token.fact, token.value)
        self.out.mentions.append(Mention(token.start, token.end, token.fact, token.value, who))


def _tokens(text: str) -> list[_Token]:
    raw = list(_TOKEN.finditer(text))
    known = meanings()
    out: list[_Token] = []
    at = 0
    while at < len(raw):
        match = raw[at]
        if match["name"] is not None:
            out.append(_Token(match.start(), match.end(), "name", match["name"].strip()))
        elif match["mark"] is not None:
            out.append(_Token(match.start(), match.end(), "mark", match["mark"]))
        else:
            for size in range(min(_LONGEST, len(raw) - at), 0, -1):
                part = raw[at : at + size]
                phrase = " ".join(_plain(m["word"] or "") for m in part)
                if phrase in known and all(m["word"] for m in part):
                    fact, value = known[phrase]
                    out.append(_Token(match.start(), part[-1].end(), "fact", phrase, fact, value))
                    at += size - 1
                    break
            else:
                out.append(_Token(match.start(), match.end(), "word", _plain(match["word"])))
        at += 1
    return out


def _plain(word: str) -> str:
    return re.sub(r"['’]s$", "", word.lower())


def _sentences(tokens: list[_Token]) -> Iterator[list[_Token]]:
    sentence: list[_Token] = []
    for token in tokens:
        if token.kind == "mark" and token.text in ".!?;…":
            if sentence:
                yield sentence
            sentence = []
        else:
            sentence.append(token)
    if sentence:
        yield sentence


assert SIDES == ("left", "right")
