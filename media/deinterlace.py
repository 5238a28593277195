"""Frames of two fields as whole pictures, by FFmpeg's filter bwdif."""

from __future__ import annotations

from collections.abc import Iterator

import av
from av.filter import Graph

__all__ = ["Deinterlacer"]


class Deinterlacer:
    """One picture for each frame: its first field stays, the lines of the second are interpolated in space and time.

    Frames that are not marked interlaced pass unchanged. A frame comes out once the next one is there.
    """

    def __init__(self) -> None:
        self._graph: Graph | None = None

    def push(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """Take a frame; yield what is ready."""
        if self._graph is None:
            self._graph = graph = Graph()
            graph.threads = 1
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
            )
            graph.link_nodes(source, graph.add("bwdif", "send_frame:auto:interlaced"), graph.add("buffersink"))
            graph.configure()
        self._graph.push(frame)
        yield from self._ready()

    def flush(self) -> Iterator[av.VideoFrame]:
        """Yield what is left at the end."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._ready()

    def _ready(self) -> Iterator[av.VideoFrame]:
        assert self._graph is not None
        while True:
            try:
                yield self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
