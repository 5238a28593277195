"""A language model behind an OpenAI-compatible address: llama.cpp, vLLM, Ollama, LM Studio, or a paid service.

The address is given by the user; the key comes from an environment variable, is sent to that address only, and stands
in no file, log, error or cache.
"""

from __future__ import annotations

import email.utils
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..core.documents import parse_json
from ..core.errors import InputError, shorten
from .cache import AnswerCache
from .client import DEFAULT_TIMEOUT, AnswerSchema, Completion, Message, TextClient
from .deadline import Deadline
from .http import Broken, Reply, check_url, is_private, post_json
from .pictures import Picture, data_url

__all__ = ["KEY_VARIABLE", "EndpointClient", "read_key"]

KEY_VARIABLE = "ANCHORSHOT_API_KEY"
"""The environment variable of the key where no other is named."""
_PATH = "/chat/completions"
_MOST_TRIES = 6
_LONGEST_WAIT = 60.0
"""Seconds that a server may ask to wait (Retry-After) or a backoff may last."""
_FIRST_WAIT = 0.5
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
_UNKNOWN = frozenset({400, 404, 405, 415, 422, 501})  # how servers refuse a field that they do not know
_FORMATS = ("json_schema", "json_object", "")


class EndpointClient(TextClient):
    """Asks an endpoint.

    Args:
        url: its address, with or without ``/chat/completions`` at the end.
        model: the model's name there.
        key_env: the environment variable that holds the key; None: `KEY_VARIABLE`, if it is set.
        seed: sent where it is given.
        timeout, cache: see `TextClient`.
        tick: called while waiting; may raise to give up.
        send_key: False leaves the key at home, whatever the environment holds.

    Raises:
        InputError: an address that is none, a named variable that is empty, or a key that would travel unencrypted.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_env: str | None = None,
        seed: int | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        cache: AnswerCache | None = None,
        tick: Callable[[], None] = lambda: None,
        send_key: bool = True,
    ) -> None:
        super().__init__(timeout=timeout, cache=cache)
        parts = check_url(url, "url")
        path = parts.path.rstrip("/").removesuffix(_PATH)
        self._url = f"{parts.scheme}://{parts.netloc}{path}{_PATH}"
        self._model, self._seed, self._tick = model.strip(), seed, tick
        if not self._model:
            raise InputError("model", "must name the endpoint's model", None, "give its name")
        self._key = read_key(key_env) if send_key else ""
        if self._key and parts.scheme == "http" and not is_private(parts.hostname or ""):
            rule = "must be https where a key is sent, or anybody on the way reads the key"
            raise InputError("url", rule, f"{parts.scheme}://{parts.netloc}", "write https://, or unset the key")
        self._format = 0
        self._seeded = seed is not None

    @property
    def who(self) -> str:
        return f"endpoint ({shorten(self._model, 60)})"

    def identity(self) -> dict[str, Any]:
        return {"kind": "endpoint", "url": self._url, "model": self._model, "seed": self._seed}

    def complete(
        self, messages: Sequence[Message], schema: AnswerSchema[Any], images: Sequence[Picture], deadline: Deadline
    ) -> Completion:
        """See `TextClient.complete`. The schema is sent as ``response_format``, as far as the server knows that."""
        while True:
            reply = self._post(self._body(messages, schema, images), deadline)
            if reply.status == 200:
                return self._completion(reply)
            if reply.status in _UNKNOWN and self._plainer():
                continue
            raise self._refusal(reply)

    def _body(
        self, messages: Sequence[Message], schema: AnswerSchema[Any], images: Sequence[Picture]
    ) -> dict[str, Any]:
        talk: list[dict[str, Any]] = [{"role": m.role, "content": m.text} for m in messages]
        if images:  # with the first question of the user
            asked = next(turn for turn in talk if turn["role"] == "user")
            shown = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
            asked["content"] = [*shown, {"type": "text", "text": asked["content"]}]
        body: dict[str, Any] = {"model": self._model, "messages": talk, "stream": False}
        if self._seeded:
            body["seed"] = self._seed
        kind = _FORMATS[self._format]
        if kind == "json_schema":
            named = {"name": schema.name, "strict": True, "schema": _without_lengths(schema.json)}
            body["response_format"] = {"type": kind, "json_schema": named}
        elif kind:
            body["response_format"] = {"type": kind}
        return body

    def _plainer(self) -> bool:
        """Leave out what the server may not know; False when there is nothing left to leave out."""
        if self._format + 1 < len(_FORMATS):
            self._format += 1
        elif self._seeded:
            self._seeded = False
        else:
            return False
        return True

    def _post(self, body: Any, deadline: Deadline) -> Reply:
        """The first reply that is not a reason to try again; the last one otherwise. Raises InputError."""
        for attempt in range(_MOST_TRIES):
            self.cost.requests += attempt == 0
            self.cost.retries += attempt > 0
            broken, reply = "", None
            try:
                reply = post_json(self._url, body, deadline, key=self._key, tick=self._tick)
                if reply.status not in _AGAIN:
                    return reply
            except Broken as error:
                broken = str(error)
            seen = broken or f"HTTP {reply.status}: {_message(reply)}" if reply else broken
            wait = _wait(reply, attempt)
            if attempt + 1 < _MOST_TRIES and wait <= _LONGEST_WAIT and wait < deadline.left:
                self._sleep(wait, deadline)
                continue
            if reply is not None and attempt + 1 < _MOST_TRIES:
                fix = f"wait {wait:.0f} s and ask again" if wait > _LONGEST_WAIT else "allow more time (timeout)"
                raise InputError(self.who, f"must answer within {deadline.seconds:g} s", seen, fix)
            fix = "check the address, and whether the server runs" if broken else "ask again later"
            raise InputError(self.who, f"must answer, but failed {attempt + 1} times", seen, fix)
        raise AssertionError("not reached")

    def _sleep(self, seconds: float, deadline: Deadline) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._tick()
            deadline.check()
            time.sleep(min(left, 0.1))

    def _completion(self, reply: Reply) -> Completion:
        """The words of a good reply."""
        try:
            data = parse_json(reply.body, "endpoint")
            choice = data["choices"][0]
            message = choice["message"]
        except (InputError, LookupError, TypeError):
            rule, fix = (
                "must answer as chat completions do",
                "check that the address ends where /chat/completions follows",
            )
            raise InputError(self.who, rule, reply.body[:200], fix) from None
        usage = data.get("usage")
        if isinstance(usage, Mapping):
            self.cost.prompt_tokens += _count(usage.get("prompt_tokens"))
            self.cost.completion_tokens += _count(usage.get("completion_tokens"))
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, list):  # parts
            content = "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
        reason = choice.get("finish_reason") if isinstance(choice, Mapping) else None
        if isinstance(content, str) and content.strip():
            return Completion(content, reason == "length")
        if isinstance(message, Mapping) and (message.get("tool_calls") or message.get("function_call")):
            return Completion("", problem="there are no tools or files here: answer in words, with the JSON object")
        if isinstance(message, Mapping) and isinstance(message.get("refusal"), str):
            return Completion("", problem=f"refused: {shorten(message['refusal'], 200)}")
        if reason == "length":
            return Completion("", problem="the answer was cut off before its first word: think less")
        return Completion("", problem="the answer is empty")

    def _refusal(self, reply: Reply) -> InputError:
        """The error for a reply that no other try mends."""
        seen = f"HTTP {reply.status}: {_message(reply)}"
        if 300 <= reply.status < 400:
            target = shorten(reply.headers.get("location", "nowhere"), 100)
            fix = "give the address that it leads to, if you trust it"
            return InputError(self.who, "must answer itself; redirects are not followed", f"to {target}", fix)
        if reply.status in (401, 403):
            fix = f"check the key in the environment variable (default {KEY_VARIABLE})"
            return InputError(self.who, "must accept the key", seen, fix)
        if reply.status == 404:
            return InputError(
                self.who, "must know the address and the model", seen, "check the address and the model's name"
            )
        return InputError(self.who, "must accept the question", seen, "check the model's name and its context length")


def read_key(variable: str | None) -> str:
    """The key in an environment variable; empty where none is named and `KEY_VARIABLE` is not set.

    Raises:
        InputError: a named variable that is not set, or a key that cannot stand in a header.
    """
    name = KEY_VARIABLE if variable is None else variable.strip()
    key = os.environ.get(name, "").strip()
    if variable is not None and not key:
        fix = f"write e.g. `export {KEY_VARIABLE}=…` and name it, without the key itself"
        # A key in the place of a name must not be shown.
        seen = name if name.replace("_", "").isalnum() and name.isupper() and len(name) < 60 else "another text"
        raise InputError("key-env", "must name an environment variable that is set", seen, fix)
    if not key.isascii() or not key.isprintable() or " " in key or len(key) > 4000:
        raise InputError(
            "key-env", "must hold a key of plain characters", f"a text of {len(key)}", "copy the key again"
        )
    return key


def _wait(reply: Reply | None, attempt: int) -> float:
    """Seconds until the next try: what the server asks for, else twice as long each time, with some chance in it."""
    asked = (reply.headers.get("retry-after", "") if reply else "").strip()
    if asked.replace(".", "", 1).isdigit() and len(asked) < 12:
        return float(asked)
    if asked:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
        except (ValueError, OverflowError, TypeError):
            pass
    return min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt * random.uniform(0.75, 1.25))


def _message(reply: Reply) -> str:
    """A server's own words about an error."""
    try:
        data = parse_json(reply.body, "endpoint")
    except InputError:
        data = reply.body
    for _ in range(2):
        if isinstance(data, Mapping):
            data = data.get("error") or data.get("message") or data.get("detail") or ""
    return shorten(data if isinstance(data, str) else "", 160) or "no words"


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40 else 0


def _without_lengths(schema: Any) -> Any:
    """The schema without lengths of texts, which strict servers refuse; they are checked here anyway."""
    if isinstance(schema, Mapping):
        return {key: _without_lengths(value) for key, value in schema.items() if key != "maxLength"}
    return [_without_lengths(item) for item in schema] if isinstance(schema, list) else schema
