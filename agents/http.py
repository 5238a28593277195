"""One POST of JSON, bounded in time and size, that keeps a secret.

Redirects are not followed: they could lead the key to another host. Nothing that is raised or returned holds the key,
also where the server repeats it.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ..core.errors import InputError
from .deadline import Deadline

__all__ = ["Broken", "Reply", "check_url", "is_local", "post_json"]

MAX_REPLY = 8 << 20
"""Largest reply that is read, in bytes."""
_BLOCK = 1 << 16
_SLICE = 0.1  # seconds between looks at the clock and at whether somebody wants to stop
_HIDDEN = "[key]"


@dataclass(frozen=True)
class Reply:
    """What a server answered, whatever its status."""

    status: int
    headers: Mapping[str, str]
    body: str


class Broken(Exception):
    """The connection failed, or ended before the reply did: another try may work."""


def check_url(url: str, field: str) -> SplitResult:
    """The parts of an address. Raises InputError where it is none of http(s), or holds a name and password."""
    fix = "write e.g. http://127.0.0.1:8080/v1"
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InputError(field, "must be an address", url, fix) from None
    if parts.scheme not in ("http", "https") or not host or not url.isascii() or any(c.isspace() for c in url.strip()):
        raise InputError(field, "must be an http:// or https:// address", url, fix)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InputError(
            field, "must hold no password, ? or #", f"{parts.scheme}://{host}/…", "name the key's variable"
        )
    return parts


def is_local(host: str) -> bool:
    """Whether a host is this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_private(host: str) -> bool:
    """Whether a host is this machine or lies in a private network, by its address or name."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.lower().rpartition(".")[2] in ("local", "lan", "internal", "home", "intranet")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **named: Any) -> None:
        return None


def post_json(
    url: str, body: Any, deadline: Deadline, *, key: str = "", tick: Callable[[], None] = lambda: None
) -> Reply:
    """POST `body` as JSON and read the whole reply.

    Args:
        url: checked by `check_url`.
        body: plain values.
        deadline: by when; how slowly a server dribbles its bytes makes no difference.
        key: sent as a bearer token where it is not empty.
        tick: called about ten times a second; may raise to give up.

    Raises:
        Broken: no connection, or one that ended early.
        InputError: the deadline has passed, or the reply is too large.
    """
    data = json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "anchorshot"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, data, headers, method="POST")
    handlers: list[Any] = [_NoRedirects()]
    if is_local(urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    opener = urllib.request.build_opener(*handlers)
    done: queue.SimpleQueue[Reply | Exception] = queue.SimpleQueue()

    def work() -> None:
        try:
            done.put(_exchange(opener, request, deadline))
        except Exception as error:
            done.put(error)

    # In a thread of its own: a socket's timeout starts anew with every byte, and Ctrl-C must not wait for one.
    threading.Thread(target=work, name="anchorshot-http", daemon=True).start()
    while True:
        try:
            result = done.get(timeout=min(_SLICE, max(deadline.left, 0.001)))
        except queue.Empty:
            tick()
            deadline.check()
            continue
        break
    if isinstance(result, Reply):
        headers = {name: _without(value, key) for name, value in result.headers.items()}
        return Reply(result.status, headers, _without(result.body, key))
    if isinstance(result, InputError):
        raise result
    raise Broken(_without(_reason(result), key)) from None


def _exchange(opener: urllib.request.OpenerDirector, request: urllib.request.Request, deadline: Deadline) -> Reply:
    try:
        response = opener.open(request, timeout=max(deadline.left, 0.01))
    except urllib.error.HTTPError as error:
        response = error  # which is a response, too
    with response:
        parts, size = [], 0
        while block := response.read1(_BLOCK) if hasattr(response, "read1") else response.read(_BLOCK):
            deadline.check()
            size += len(block)
            if size > MAX_REPLY:
                fix = "ask for a shorter answer"
                raise InputError("endpoint", f"must answer with at most {MAX_REPLY >> 20} MiB", "more", fix)
            parts.append(block)
        length = response.headers.get("Content-Length", "")
        if length.isdigit() and size < int(length):
            raise Broken(f"the connection ended after {size} of {length} bytes")
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Reply(int(response.status), headers, b"".join(parts).decode("utf-8", "replace"))


def _reason(error: Exception) -> str:
    if isinstance(error, Broken):
        return str(error)
    if isinstance(error, http.client.IncompleteRead):
        return "the connection ended in the middle of the reply"
    inner = getattr(error, "reason", error)
    words = getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
    return " ".join(str(words).split())


def _without(text: str, key: str) -> str:
    return text.replace(key, _HIDDEN) if key else text
