"""A small real HTTP server that speaks the protocol of chat completions and answers what a test has written down."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Seen:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Answer:
    """One answer: a status, headers and a body, sent slowly or not to its end.

    Attributes:
        pause: seconds before the first byte.
        each: seconds between two bytes.
        cut: close the connection after so many bytes of the body.
    """

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    pause: float = 0.0
    each: float = 0.0
    cut: int | None = None


def said(text: str | None, *, finish: str = "stop", **message: Any) -> Answer:
    """A completion whose words are `text`."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    usage = {"prompt_tokens": 120, "completion_tokens": 30}
    return Answer(body=json.dumps({"choices": [choice], "usage": usage}))


def failed(status: int, message: str = "no", **headers: str) -> Answer:
    """An error as servers word it."""
    body = json.dumps({"error": {"message": message}})
    return Answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


class ChatServer:
    """Gives its answers in turn, the last one for ever; `seen` are the requests."""

    def __init__(self, answers: Sequence[Answer | Callable[[Seen], Answer]], port: int) -> None:
        self.answers, self.seen, self.port = list(answers), [], port
        self.url = f"http://127.0.0.1:{port}/v1"
        self.stopped = threading.Event()

    seen: list[Seen]


@contextmanager
def chatting(*answers: Answer | Callable[[Seen], Answer] | str) -> Iterator[ChatServer]:
    """Run a server that gives these answers; a text is a completion."""
    made = [said(answer) if isinstance(answer, str) else answer for answer in answers]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Seen(self.path, dict(self.headers.items()), json.loads(raw) if raw else {})
            chat.seen.append(request)
            answer = chat.answers[min(len(chat.seen), len(chat.answers)) - 1]
            answer = answer(request) if callable(answer) else answer
            chat.stopped.wait(answer.pause)
            body = answer.body.encode("utf-8", "surrogatepass")
            try:
                self.send_response(answer.status)
                for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Connection", "close")
                self.end_headers()
                if answer.each:
                    for n in range(len(body)):
                        if chat.stopped.wait(answer.each):
                            return
                        self.wfile.write(body[n : n + 1])
                        self.wfile.flush()
                else:
                    self.wfile.write(body[: answer.cut])
            except OSError:
                pass  # the client has had enough
            self.close_connection = True

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    chat = ChatServer(made, server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield chat
    finally:
        chat.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


def waited(work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` gives or raises, and the seconds it took."""
    began = time.monotonic()
    try:
        result = work()
    except Exception as error:
        result = error
    return result, time.monotonic() - began
