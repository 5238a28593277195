"""A real ComfyUI server on the CPU, in a folder of its own: for benchmarks, and for tests that talk to it over HTTP.

    with running(checkout, folder, {"anchorshot": ROOT}) as server:
        server.get("/object_info")

Nothing is written to the checkout: models, inputs, outputs, user settings and the database lie in the folder.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "ComfyServer", "running"]

ROOT = Path(__file__).resolve().parents[1]
"""The pack: it goes into custom_nodes under any name."""
_FOLDERS = ("custom_nodes", "models", "input", "output", "temp", "user/default")


class ComfyServer:
    """A running server: its `process`, its folder `base`, its `url`, and JSON requests."""

    def __init__(self, process: subprocess.Popen[bytes], base: Path, url: str) -> None:
        self.process, self.base, self.url = process, base, url

    @property
    def log(self) -> str:
        """Everything that it has printed."""
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

    def get(self, path: str) -> Any:
        """GET JSON. Raises RuntimeError for an HTTP error, with the server's own words."""
        return self._answer(path, None)

    def post(self, path: str, body: Any) -> Any:
        """POST JSON. Raises RuntimeError for an HTTP error, with the server's own words."""
        return self._answer(path, body)

    def settings(self, **values: Any) -> None:
        """Set frontend settings; ``__`` in a name stands for a dot: ``Comfy__ColorPalette="light"``."""
        self.post("/settings", {name.replace("__", "."): value for name, value in values.items()})

    def run(self, prompt: Mapping[str, Any], *, timeout: float = 120) -> dict[str, Any]:
        """Queue an API-format prompt and wait; returns its history entry.

        Raises:
            RuntimeError: it was refused.
            TimeoutError: it did not end.
        """
        return self.wait(self.post("/prompt", {"prompt": prompt})["prompt_id"], timeout=timeout)

    def wait(self, prompt_id: str, *, timeout: float = 120) -> dict[str, Any]:
        """The history entry of a queued prompt, once there is one. Raises TimeoutError."""
        found = self.finished(prompt_id, timeout)
        if found is None:
            raise TimeoutError(f"prompt not finished after {timeout} s; the server says:\n{self.log[-4000:]}")
        return found

    def finished(self, prompt_id: str, seconds: float) -> dict[str, Any] | None:
        """The history entry of a queued prompt once it has ended, or None after so many `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.get(f"/history/{prompt_id}")
            if prompt_id in found:
                return dict(found[prompt_id])
            time.sleep(0.05)
        return None

    def _answer(self, path: str, body: Any) -> Any:
        status, answer = self.ask(path, body)
        if status >= 400:
            said = answer if isinstance(answer, str) else json.dumps(answer)
            raise RuntimeError(f"{path}: HTTP {status}: {said}")
        return answer


@contextmanager
def running(
    comfyui: Path,
    base: Path,
    packs: Mapping[str, Path],
    *,
    options: tuple[str, ...] = (),
    settings: Mapping[str, Any] | None = None,
    memory: int | None = None,
    timeout: float = 900,
) -> Iterator[ComfyServer]:
    """Start the server of a checkout in the folder `base`, and stop it at the end.

    Args:
        comfyui: the checkout.
        base: becomes its base directory.
        packs: what custom_nodes holds, by name; folders are linked, not copied.
        options: further command line options.
        settings: of the frontend.
        memory: bytes of address space that it may take (Unix); None sets no limit.
        timeout: seconds to wait for the first answer.

    Raises:
        RuntimeError: it ended or did not answer; the message holds the end of its log.
    """
    for name in _FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)
    for name, folder in packs.items():
        if not (base / "custom_nodes" / name).exists():
            (base / "custom_nodes" / name).symlink_to(folder.resolve(), target_is_directory=True)
    if settings is not None:
        (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(settings))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "main.py", "--cpu", "--disable-xformers", "--disable-auto-launch", "--disable-api-nodes"]
    command += ["--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(base)]
    command += ["--database-url", "sqlite:///:memory:", *options]
    environment = {**os.environ, "COMFYUI_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    environment.pop("PYTHONPATH", None)  # it may hold the pack's root, whose `nodes` would shadow ComfyUI's
    with open(base / "server.log", "ab") as log:
        process = subprocess.Popen(command, cwd=comfyui, env=environment, stdout=log, stderr=subprocess.STDOUT)
    server = ComfyServer(process, base, f"http://127.0.0.1:{port}")
    try:
        if memory is not None:
            import resource  # Unix alone has it

            resource.prlimit(process.pid, resource.RLIMIT_AS, (memory, memory))
        _await(server, timeout)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(server: ComfyServer, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise RuntimeError(f"ComfyUI ended with {server.process.returncode}:\n{server.log[-4000:]}")
        try:
            server.ask("/system_stats")
            return
        except OSError:
            time.sleep(0.25)
    raise RuntimeError(f"ComfyUI did not answer within {seconds:g} s:\n{server.log[-4000:]}")
