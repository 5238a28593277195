"""Checks a Storyboard node's text while somebody types it: `POST /anchorshot/story`.

The body is the text, the answer `{"complaint": "…"}`: what a run would say, or empty. Reading happens in a thread, one
text at a time, so neither the server's loop nor its other threads wait for somebody's typing.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from ..core.errors import InputError
from ..core.limits import MAX_BYTES

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["PATH", "add_route", "complaint"]

PATH = "/anchorshot/story"

_MOST = 4 * MAX_BYTES
"""Bytes of a body: no more can be a text of `MAX_BYTES` characters, which the reader refuses in its own words."""


def complaint(story: str) -> str:
    """The first thing that is wrong with a storyboard's text, in a sentence; empty where it can be run."""
    from .story import read_story

    try:
        read_story(story)
    except InputError as error:
        return str(error)
    return ""


def add_route() -> None:
    """Answer at `PATH` on ComfyUI's server, if there is one: scripts and tests use the nodes without."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if server is None:
        return
    from aiohttp import web

    turn = asyncio.Lock()

    @server.routes.post(PATH)  # type: ignore[untyped-decorator]
    async def check(request: web.Request) -> web.Response:
        body = await _text(request)
        if body is None:
            raise web.HTTPRequestEntityTooLarge(max_size=_MOST, actual_size=request.content_length or _MOST + 1)
        async with turn:
            return web.json_response({"complaint": await asyncio.to_thread(complaint, body)})


async def _text(request: web.Request) -> str | None:
    """The body, or None if it is too long; never more than that is kept."""
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > _MOST:
            return None
    return body.decode("utf-8", "replace")
