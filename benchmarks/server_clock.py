"""A clock on how soon a ComfyUI server answers others while `odd_graphs` keeps it busy."""

from __future__ import annotations

import select
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

__all__ = ["Clock", "slowest"]

_EVERY = 0.1


class Clock:
    """Asks a server something small ten times a second, from a process of its own, and keeps how long each took.

    Args:
        url: of the server.
        folder: where the times are kept.
    """

    def __init__(self, url: str, folder: Path) -> None:
        paths = [url + path for path in ("/system_stats", "/object_info/AnchorshotStoryboard")]
        self._file = folder / f"clock-{time.monotonic_ns()}.txt"
        with open(self._file, "wb") as out:
            self._process = subprocess.Popen([sys.executable, __file__, *paths], stdout=out, stdin=subprocess.PIPE)

    def stop(self) -> list[tuple[float, float]]:
        """(start, end) of every request, on the clock of `time.monotonic`."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=120)
        lines = self._file.read_text().splitlines()
        return [(float(first), float(second)) for first, second in map(str.split, lines)]


def slowest(asked: list[tuple[float, float]], spans: list[tuple[float, float]]) -> float:
    """The longest request that overlaps one of the `spans`; 0 if none does."""
    return max((e - s for s, e in asked if any(s < end and e > begin for begin, end in spans)), default=0.0)


def _ask_on(paths: list[str]) -> None:
    """Ask until standard input ends."""
    number = 0
    while not select.select([sys.stdin], [], [], _EVERY)[0]:
        number += 1
        start = time.monotonic()
        with urllib.request.urlopen(paths[number % len(paths)], timeout=100) as answer:
            answer.read()
        print(start, time.monotonic(), flush=True)


if __name__ == "__main__":
    _ask_on(sys.argv[1:])
