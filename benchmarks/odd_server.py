"""A real ComfyUI server on the CPU for `odd_graphs`, and a clock on how soon it answers others."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Clock", "OddServer", "running", "slowest"]

PACK = "anchorshot"
_ROOT = Path(__file__).resolve().parents[1]
_EVERY = 0.1


class OddServer:
    """A running server: its `url` and folder `base`."""

    def __init__(self, process: subprocess.Popen[bytes], base: Path, url: str) -> None:
        self.process, self.base, self.url = process, base, url

    @property
    def log(self) -> str:
        """Everything that it printed."""
        return (self.base / "server.log").read_text("utf-8", "replace")

    def ask(self, path: str, body: Any = None, timeout: float = 120) -> tuple[int, Any]:
        """GET `path`, or POST `body` as JSON to it: status, and the answer (text where it is no JSON)."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                status, raw = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, raw = error.code, error.read()
        try:
            return status, json.loads(raw) if raw else None
        except ValueError:
            return status, raw.decode("utf-8", "replace")

    def finished(self, prompt_id: str, seconds: float) -> dict[str, Any] | None:
        """The history of a queued prompt once it has ended, or None after so many `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.ask(f"/history/{prompt_id}")[1]
            if found:
                return dict(found[prompt_id])
            time.sleep(0.05)
        return None

    def run(self, prompt: dict[str, Any], seconds: float = 300) -> dict[str, Any]:
        """The history of a prompt that must be accepted and must end.

        Raises:
            RuntimeError: it was refused, or did not end.
        """
        status, answer = self.ask("/prompt", {"prompt": prompt})
        history = self.finished(answer["prompt_id"], seconds) if status == 200 else None
        if history is None:
            raise RuntimeError(f"no end: {status} {str(answer)[:500]}")
        return history


@contextmanager
def running(comfyui: Path, base: Path, memory: int = 14 << 30, wait: float = 900) -> Iterator[OddServer]:
    """Start the server of a checkout in the folder `base`, with this pack, and stop it at the end.

    Args:
        comfyui: the checkout; nothing is written there.
        base: becomes its base directory.
        memory: bytes of address space that it may take: an odd graph must not take the machine along.
        wait: seconds for the first answer.

    Raises:
        RuntimeError: it ended, or did not answer.
    """
    import resource  # Unix alone has it, and only a server needs it

    for name in ("custom_nodes", "models", "input", "output", "temp", "user/default"):
        (base / name).mkdir(parents=True, exist_ok=True)
    if not (base / "custom_nodes" / PACK).exists():
        (base / "custom_nodes" / PACK).symlink_to(_ROOT, target_is_directory=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "main.py", "--cpu", "--disable-xformers", "--disable-auto-launch", "--disable-api-nodes"]
    command += ["--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(base)]
    command += ["--database-url", "sqlite:///:memory:"]
    environment = {**os.environ, "COMFYUI_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    environment.pop("PYTHONPATH", None)  # it may hold the pack's root, whose `nodes` would shadow ComfyUI's
    with open(base / "server.log", "ab") as log:
        process = subprocess.Popen(command, cwd=comfyui, env=environment, stdout=log, stderr=subprocess.STDOUT)
    resource.prlimit(process.pid, resource.RLIMIT_AS, (memory, memory))
    server = OddServer(process, base, f"http://127.0.0.1:{port}")
    try:
        _await(server, wait)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(server: OddServer, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise RuntimeError(f"ComfyUI ended with {server.process.returncode}:\n{server.log[-3000:]}")
        try:
            server.ask("/system_stats")
            return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"ComfyUI does not answer:\n{server.log[-3000:]}")


class Clock:
    """Asks the server something small ten times a second, from a process of its own, and keeps how long each took."""

    def __init__(self, server: OddServer) -> None:
        paths = [server.url + path for path in ("/system_stats", "/object_info/AnchorshotStoryboard")]
        self._file = server.base / f"clock-{time.monotonic_ns()}.txt"
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
    import select

    number = 0
    while not select.select([sys.stdin], [], [], _EVERY)[0]:
        number += 1
        start = time.monotonic()
        with urllib.request.urlopen(paths[number % len(paths)], timeout=100) as answer:
            answer.read()
        print(start, time.monotonic(), flush=True)


if __name__ == "__main__":
    _ask_on(sys.argv[1:])
