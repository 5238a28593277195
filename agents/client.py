"""The one question that Director and Refiner ask, and what all that answer it share: repair, checks, a second try.

    answer = client.ask(messages, schema, images)

`ask` gives an object that `schema` has checked, or raises one InputError. A back end of words only says how one answer
comes about (`TextClient.complete`).
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ..core.errors import InputError, shorten
from .cache import AnswerCache
from .deadline import Deadline
from .messages import Message
from .pictures import Picture, to_picture
from .prompts import without_control
from .repair import json_values

__all__ = ["AnswerSchema", "BadAnswer", "Client", "Completion", "Cost", "Message", "TextClient"]

T = TypeVar("T")

DEFAULT_TIMEOUT = 300.0
"""Seconds for one question with all its waits, retries and the second try."""
_QUOTED = 20_000  # characters of a refused answer that the model sees again
_NAMED = 8  # faults told in the second question


class BadAnswer(Exception):
    """An answer that cannot be used; `problems` are told to the model, each a line."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class AnswerSchema(Generic[T]):
    """What an answer must be.

    Attributes:
        name: one word for it.
        json: its JSON schema, of keywords that constrained decoding enforces; every object lists its properties in
            the order in which they are to be thought of.
        read: checks plain values and gives the object. The second argument says that this is the last try: then what
            can be mended without a guess at the meaning is mended. Raises BadAnswer.
    """

    name: str
    json: Mapping[str, Any]
    read: Callable[[Any, bool], T]


@dataclass
class Cost:
    """What answers have cost so far, summed over a client's life."""

    requests: int = 0
    retries: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def line(self, who: str) -> str:
        """One line for people."""
        parts = [f"{self.requests} request{'s' * (self.requests != 1)}"]
        if self.retries:
            parts.append(f"{self.retries} more tr{'ies' if self.retries != 1 else 'y'}")
        if self.cached:
            parts.append(f"{self.cached} from the cache")
        if self.prompt_tokens or self.completion_tokens:
            parts.append(f"{self.prompt_tokens} + {self.completion_tokens} tokens (read + written)")
        return f"{who}: {', '.join(parts)}"


@dataclass(frozen=True)
class Completion:
    """One raw answer.

    Attributes:
        text: what the model wrote.
        cut: it stopped at its limit, not at its end.
        problem: why there is no text that could be read, for the second question.
    """

    text: str
    cut: bool = False
    problem: str = ""


class Client(Protocol):
    """Who answers."""

    cost: Cost

    @property
    def who(self) -> str:
        """What people call it, e.g. ``rules``."""
        ...

    def ask(self, messages: Sequence[Message], schema: AnswerSchema[T], images: Sequence[Any] | None = None) -> T:
        """The answer to `messages` and `images` ([3, H, W] in 0…1 each), checked by `schema`.

        Raises:
            InputError: there is none that can be used within the time.
        """
        ...


class TextClient(ABC):
    """A back end that writes text.

    Args:
        timeout: seconds for one question, all tries together.
        cache: a folder for answers that were good; None keeps none.
    """

    def __init__(self, *, timeout: float = DEFAULT_TIMEOUT, cache: AnswerCache | None = None) -> None:
        if not 0 < timeout <= 86_400:
            raise InputError("timeout", "must be more than 0 and at most 86400 s", timeout, "use e.g. 300")
        self.timeout, self.cache, self.cost = timeout, cache, Cost()

    @property
    @abstractmethod
    def who(self) -> str:
        """What people call it."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All settings on which an answer depends, as plain JSON; never a key."""

    @abstractmethod
    def complete(
        self, messages: Sequence[Message], schema: AnswerSchema[Any], images: Sequence[Picture], deadline: Deadline
    ) -> Completion:
        """One raw answer; the pictures belong to the last user message. Raises InputError."""

    def ask(self, messages: Sequence[Message], schema: AnswerSchema[T], images: Sequence[Any] | None = None) -> T:
        """See `Client.ask`: one question, and a second one that names what was wrong."""
        pictures = [to_picture(image, f"images[{i}]") for i, image in enumerate(images or ())]
        deadline = Deadline(self.timeout, self.who)
        key = self._hash(messages, schema, pictures)
        if self.cache is not None and (kept := self.cache.get(key)) is not None:
            try:
                value = _read(Completion(kept.text), schema, kept.last)
                self.cost.cached += 1
                return value
            except BadAnswer:
                pass  # of an older version
        talk, problems = list(messages), tuple[str, ...]()
        for last in (False, True):
            answer = self.complete(talk, schema, pictures, deadline)
            try:
                value = _read(answer, schema, last)
            except BadAnswer as bad:
                problems = bad.problems
                talk = [
                    *messages,
                    Message("assistant", without_control(answer.text[:_QUOTED]) or "(nothing)"),
                    _again(problems),
                ]
                continue
            if self.cache is not None:
                self.cache.put(key, answer.text, last, self.who)
            return value
        fix = "ask again with other words or another seed, or take a larger model"
        rule = f"must give a usable {schema.name}, but twice did not: {shorten('; '.join(problems[:_NAMED]), 300)}"
        raise InputError(self.who, rule, answer.text.strip()[:200] or None, fix)

    def _hash(self, messages: Sequence[Message], schema: AnswerSchema[Any], images: Sequence[Picture]) -> str:
        """A hash of all that the answer depends on."""
        content = {
            "who": self.identity(), "messages": [[m.role, m.text] for m in messages], "schema": schema.json,
            "images": [[list(i.shape), hashlib.sha256(np.ascontiguousarray(i).tobytes()).hexdigest()] for i in images],
        }  # fmt: skip
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read(answer: Completion, schema: AnswerSchema[T], last: bool) -> T:
    """The object in an answer: the first one that passes, the largest first."""
    if answer.problem:
        raise BadAnswer(answer.problem)
    found = json_values(answer.text)
    if not found:
        raise BadAnswer("there is no JSON object in the answer")
    first: BadAnswer | None = None
    for each in found:
        cut = BadAnswer("the answer was cut off before its end: write shorter texts")
        whole = each.whole and not answer.cut
        if not whole and not last:
            first = first or cut
            continue
        try:
            return schema.read(each.value, last)
        except BadAnswer as bad:
            first = first or (bad if whole else cut)
    assert first is not None
    raise first


def _again(problems: Sequence[str]) -> Message:
    listed = "\n".join(f"- {shorten(problem, 300)}" for problem in problems[:_NAMED])
    return Message(
        "user",
        f"That answer cannot be used:\n{listed}\nAnswer again with the whole JSON object, corrected, and nothing else.",
    )
