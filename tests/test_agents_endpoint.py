"""The endpoint's client against a real small server: errors, waits, slow and cut answers, a key that stays secret."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from chat_server import Answer, Seen, chatting, failed, said, waited

from anchorshot.agents.cache import AnswerCache
from anchorshot.agents.client import AnswerSchema, BadAnswer, Message
from anchorshot.agents.endpoint import EndpointClient
from anchorshot.core.errors import InputError

KEY = "sk-very-secret-0123456789abcdef"
GOOD = '{"word": "yes"}'


def read(data: Any, last: bool) -> str:
    if not isinstance(data, dict) or not isinstance(data.get("word"), str):
        raise BadAnswer("word: there is none")
    return str(data["word"])


SCHEMA = AnswerSchema("word", {"type": "object", "properties": {"word": {"type": "string", "maxLength": 9}},
                               "required": ["word"], "additionalProperties": False}, read)  # fmt: skip
QUESTION = [Message("system", "Answer."), Message("user", "Well?")]


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("ANCHORSHOT_API_KEY", KEY)
    return KEY


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anchorshot.agents.endpoint._FIRST_WAIT", 0.01)


def ask(*answers: Answer | str, timeout: float = 20, **options: Any) -> tuple[Any, float, list[Seen]]:
    """What comes of a question to a server with these answers, how long it took, and what the server saw."""
    with chatting(*answers) as server:
        client = EndpointClient(server.url, "tiny", timeout=timeout, **options)
        result, seconds = waited(lambda: client.ask(QUESTION, SCHEMA))
        return result, seconds, server.seen


def test_the_protocol(key: str) -> None:
    result, _, (seen,) = ask(GOOD, seed=7)
    assert result == "yes" and seen.path == "/v1/chat/completions"
    assert seen.headers["Authorization"] == f"Bearer {KEY}" and seen.headers["Content-Type"] == "application/json"
    assert seen.body["model"] == "tiny" and seen.body["seed"] == 7 and seen.body["stream"] is False
    form = seen.body["response_format"]
    assert form["type"] == "json_schema" and form["json_schema"]["strict"] is True
    assert form["json_schema"]["schema"]["properties"] == {"word": {"type": "string"}}, "strict servers know no lengths"
    assert seen.body["messages"] == [{"role": "system", "content": "Answer."}, {"role": "user", "content": "Well?"}]


@pytest.mark.parametrize("ending", ["", "/", "/chat/completions", "/chat/completions/"])
def test_an_address_may_end_in_either_way(ending: str) -> None:
    with chatting(GOOD) as server:
        EndpointClient(server.url + ending, "tiny").ask(QUESTION, SCHEMA)
        assert server.seen[0].path == "/v1/chat/completions"
        assert "Authorization" not in server.seen[0].headers, "no key, no header"


TRANSIENT = {
    "429": failed(429, "slow down"), "429 with a date": failed(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
    "500": failed(500), "502": Answer(502, "<html>bad gateway</html>"), "503": failed(503, Retry_After="0.05"),
    "529": failed(529, "overloaded"), "cut in the body": Answer(body=said(GOOD).body, cut=20),
    "cut at once": Answer(body=said(GOOD).body, cut=0),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSIENT)
def test_what_passes_is_tried_again(name: str) -> None:
    result, seconds, seen = ask(TRANSIENT[name], TRANSIENT[name], GOOD)
    assert result == "yes" and len(seen) == 3 and seconds < 10


@pytest.mark.parametrize("name", TRANSIENT)
def test_what_does_not_pass_is_one_error(name: str) -> None:
    result, seconds, seen = ask(TRANSIENT[name])
    assert isinstance(result, InputError) and "failed 6 times" in str(result) and "\n" not in str(result)
    assert len(seen) == 6 and seconds < 15


def test_the_wait_that_a_server_asks_for_is_kept_and_bounded() -> None:
    result, seconds, _ = ask(failed(429, Retry_After="1"), GOOD)
    assert result == "yes" and seconds >= 1
    result, seconds, seen = ask(failed(429, "quota", Retry_After="3600"))
    assert isinstance(result, InputError) and "wait 3600 s" in str(result) and len(seen) == 1 and seconds < 5
    result, seconds, _ = ask(failed(503, Retry_After="30"), timeout=3)
    assert isinstance(result, InputError) and "must answer within 3 s" in str(result) and seconds < 3


def test_waits_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anchorshot.agents.endpoint._FIRST_WAIT", 0.1)
    _, seconds, seen = ask(failed(500))
    assert len(seen) == 6 and 0.75 * 0.1 * 31 <= seconds < 12  # 0.1 · (1 + 2 + 4 + 8 + 16)


@pytest.mark.parametrize("slow", [Answer(body=said(GOOD).body, pause=30), Answer(body=said(GOOD).body, each=0.2)],
                         ids=["silent", "byte by byte"])  # fmt: skip
def test_slow_answers_end_at_the_timeout(slow: Answer) -> None:
    result, seconds, _ = ask(slow, timeout=1.5)
    assert isinstance(result, InputError) and "must answer within 1.5 s" in str(result)
    assert 1.4 < seconds < 6


def test_the_second_question_has_the_same_deadline() -> None:
    result, seconds, seen = ask(said("no"), Answer(body=said(GOOD).body, pause=30), timeout=1.5)
    assert isinstance(result, InputError) and len(seen) == 2 and seconds < 6


def test_nobody_there() -> None:
    with chatting(GOOD) as server:
        url = server.url
    result, _ = waited(lambda: EndpointClient(url, "tiny", timeout=10).ask(QUESTION, SCHEMA))
    assert isinstance(result, InputError) and "check the address, and whether the server runs" in str(result)


REFUSED = {
    "401": (failed(401, "bad key"), "must accept the key"), "403": (failed(403), "must accept the key"),
    "404": (failed(404, "no such model"), "check the address and the model's name"),
    "400": (failed(400, "context too long"), "HTTP 400: context too long"),
    "402": (failed(402, "pay"), "HTTP 402: pay"),
    "a page": (Answer(body="<html>hello</html>"), "as chat completions do"),
    "no choices": (Answer(body='{"choices": []}'), "as chat completions do"),
    "choices of another kind": (Answer(body='{"choices": {"0": 1}}'), "as chat completions do"),
    "deep": (Answer(body="[" * 9000), "as chat completions do"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_other_try_mends_is_one_error(name: str) -> None:
    answer, words = REFUSED[name]
    result, _, seen = ask(answer)
    assert isinstance(result, InputError) and words in str(result) and "\n" not in str(result)
    assert len(seen) <= 3  # a server that knows no response_format answers 400


def test_a_server_that_knows_no_schema_is_asked_plainly() -> None:
    def old(seen: Seen) -> Answer:
        form = seen.body.get("response_format", {}).get("type")
        return failed(400, f"unknown field response_format {form}") if form or "seed" in seen.body else said(GOOD)

    with chatting(old) as server:
        client = EndpointClient(server.url, "tiny", seed=1, timeout=20)
        assert client.ask(QUESTION, SCHEMA) == "yes"
        forms = [request.body.get("response_format", {}).get("type") for request in server.seen]
        assert forms == ["json_schema", "json_object", None, None]
        assert client.ask(QUESTION, SCHEMA) == "yes" and len(server.seen) == 5, "it is remembered"


def test_a_huge_reply_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anchorshot.agents.http.MAX_REPLY", 1 << 20)
    result, _, _ = ask(Answer(body="x" * (3 << 20)))
    assert isinstance(result, InputError) and "at most 1 MiB" in str(result)


# The key


def test_redirects_never_carry_the_key_to_another_host(key: str) -> None:
    with chatting(GOOD) as thief, chatting(Answer(307, "", {"Location": thief.url + "/chat/completions"})) as server:
        for status in (301, 302, 303, 307, 308):
            server.answers[0].status = status
            result, _ = waited(lambda: EndpointClient(server.url, "tiny", timeout=10).ask(QUESTION, SCHEMA))
            assert isinstance(result, InputError) and "redirects are not followed" in str(result)
        assert thief.seen == [] and len(server.seen) == 5


def test_no_key_in_any_file_log_or_error(
    key: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Servers repeat the key in errors, headers and answers: it goes nowhere."""
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    echo = [
        failed(401, f"Incorrect API key provided: {KEY}"), failed(400, KEY), failed(500, KEY),
        Answer(307, "", {"Location": f"http://127.0.0.1:1/{KEY}"}), Answer(body=f"<html>{KEY}"),
        said(f"{KEY} is no JSON"), said(json.dumps({"word": KEY})), Answer(body=f'{{"error": "{KEY}"', cut=9),
    ]  # fmt: skip
    cache = AnswerCache(tmp_path / "cache")
    for answer in echo:
        with chatting(answer) as server:
            client = EndpointClient(server.url, "tiny", timeout=10, cache=cache)
            result, _ = waited(lambda client=client: client.ask(QUESTION, SCHEMA))
            assert server.seen[0].headers["Authorization"] == f"Bearer {KEY}"
            told += [str(result), repr(result), str(getattr(result, "args", "")), repr(client), client.who]
            told += [json.dumps(client.identity()), client.cost.line(client.who)]
    written = [path.read_text("utf-8") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 1  # the answer that was good
    out = capfd.readouterr()
    for text in (*told, *written, caplog.text, out.out, out.err):
        assert KEY not in text
    assert "[key]" in told[0]


@pytest.mark.parametrize(
    ("url", "words"),
    [("http://example.com/v1", "must be https"), ("http://8.8.8.8/v1", "must be https"), ("ftp://x/v1", "http"),
     ("file:///etc/passwd", "http"), ("x", "http"), ("http://", "http"), ("http://[::1", "address"),
     ("https://user:pass@host/v1", "no password"), ("https://host/v1?key=1", "no password"),
     ("http://host:99999999/v1", "address"), ("http://ho st/v1", "http"), ("http://ho\nst/v1", "http")],
)  # fmt: skip
def test_addresses_that_are_none_and_keys_on_open_roads_are_refused(url: str, words: str, key: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        EndpointClient(url, "tiny")
    assert "pass@" not in str(caught.value) and KEY not in str(caught.value)


def test_keys_of_named_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    _, _, (seen,) = ask(GOOD, key_env="MY_KEY")
    assert seen.headers["Authorization"] == f"Bearer {KEY}"
    with pytest.raises(InputError, match="MISSING"):
        EndpointClient("http://127.0.0.1/v1", "tiny", key_env="MISSING")
    with pytest.raises(InputError, match="another text") as caught:  # a key in the place of its variable's name
        EndpointClient("http://127.0.0.1/v1", "tiny", key_env=KEY)
    assert KEY not in str(caught.value)
    monkeypatch.setenv("MY_KEY", "two\r\nX-Header: lines")
    with pytest.raises(InputError, match="plain characters") as caught:
        EndpointClient("http://127.0.0.1/v1", "tiny", key_env="MY_KEY")
    assert "X-Header" not in str(caught.value)


# Cache and cost


def test_the_same_question_is_free_the_second_time(tmp_path: Path) -> None:
    with chatting(failed(500), "no", GOOD) as server:
        options: dict[str, Any] = {"timeout": 20, "cache": AnswerCache(tmp_path)}
        client = EndpointClient(server.url, "tiny", **options)
        assert client.ask(QUESTION, SCHEMA) == client.ask(QUESTION, SCHEMA) == "yes"
        assert len(server.seen) == 3
        line = "endpoint (tiny): 2 requests, 1 more try, 1 from the cache, 240 + 60 tokens (read + written)"
        assert client.cost.line(client.who) == line
        again = EndpointClient(server.url, "tiny", **options)
        assert again.ask(QUESTION, SCHEMA) == "yes" and len(server.seen) == 3, "in another process, too"
        for other in (
            EndpointClient(server.url, "other", **options),
            EndpointClient(server.url, "tiny", seed=2, **options),
        ):
            seen = len(server.seen)
            assert other.ask(QUESTION, SCHEMA) == "yes" and len(server.seen) == seen + 1
        seen = len(server.seen)
        client.ask([*QUESTION[:1], Message("user", "And now?")], SCHEMA)
        assert len(server.seen) == seen + 1


def test_a_broken_cache_is_as_none(tmp_path: Path) -> None:
    with chatting(GOOD) as server:
        cache = AnswerCache(tmp_path)
        EndpointClient(server.url, "tiny", cache=cache).ask(QUESTION, SCHEMA)
        (kept,) = tmp_path.iterdir()
        for text in ("", "{", "[]", '{"version": 1}', '{"version": 1, "answer": "no", "last": true}', '{"version": 9}'):
            kept.write_text(text)
            seen = len(server.seen)
            assert EndpointClient(server.url, "tiny", cache=cache).ask(QUESTION, SCHEMA) == "yes"
            assert len(server.seen) == seen + 1
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="^cache: "):
        AnswerCache(tmp_path / "file")


def test_somebody_who_wants_to_stop_is_heard_within_a_moment() -> None:
    began = time.monotonic()

    def tick() -> None:
        if time.monotonic() - began > 0.3:
            raise KeyboardInterrupt

    with chatting(Answer(body=said(GOOD).body, pause=30)) as server, pytest.raises(KeyboardInterrupt):
        EndpointClient(server.url, "tiny", timeout=60, tick=tick).ask(QUESTION, SCHEMA)
    assert time.monotonic() - began < 5
