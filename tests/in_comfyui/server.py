"""Starts the real ComfyUI server on the CPU in a folder of its own, for tests that talk to it over HTTP.

    with running(tmp_path, {"anchorshot": ROOT}) as server:
        server.get("/object_info")

The checkout is never written to: models, inputs, outputs, user settings and the database live in the given folder.
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

COMFYUI = Path(os.environ.get("COMFYUI_PATH", Path.home() / "comfy" / "ComfyUI"))
ROOT = Path(__file__).resolve().parents[2]
"""The pack: link it into custom_nodes under any name."""

PACK = "anchorshot-1.0-beta"
"""A name that is no Python identifier, as folders of downloaded archives have."""

_SETTINGS = {
    # A first-run template browser and tour would lie over the graph that a browser test looks at.
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.49.6",
    "Comfy.Locale": "en",
}


class ComfyServer:
    """A running server: `url`, its folder `base`, and JSON requests. `log` is all it printed so far."""

    def __init__(self, process: subprocess.Popen[bytes], base: Path, port: int) -> None:
        self.process = process
        self.base = base
        self.url = f"http://127.0.0.1:{port}"

    @property
    def log(self) -> str:
        """Everything the server printed."""
        return (self.base / "server.log").read_text("utf-8", "replace")

    def request(self, path: str, body: Any = None, *, timeout: float = 60) -> Any:
        """GET `path`, or POST `body` as JSON to it; returns the JSON answer, or None for an empty one.

        Raises:
            RuntimeError: an HTTP error, with the server's own words.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{path}: HTTP {error.code}: {error.read().decode('utf-8', 'replace')}") from error
        return json.loads(text) if text else None

    def get(self, path: str) -> Any:
        """GET JSON."""
        return self.request(path)

    def post(self, path: str, body: Any) -> Any:
        """POST JSON."""
        return self.request(path, body)

    def settings(self, **values: Any) -> None:
        """Set frontend settings; ``__`` in a name stands for a dot: ``Comfy__ColorPalette="light"``."""
        self.post("/settings", {name.replace("__", "."): value for name, value in values.items()})

    def run(self, prompt: Mapping[str, Any], *, timeout: float = 120) -> dict[str, Any]:
        """Queue an API-format prompt and wait; returns its history entry. Raises TimeoutError."""
        return self.wait(self.post("/prompt", {"prompt": prompt})["prompt_id"], timeout=timeout)

    def wait(self, prompt_id: str, *, timeout: float = 120) -> dict[str, Any]:
        """The history entry of a queued prompt, once there is one. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return dict(history[prompt_id])
            time.sleep(0.1)
        raise TimeoutError(f"prompt not finished after {timeout} s; the server says:\n{self.log[-4000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    base: Path, packs: Mapping[str, Path], *, options: tuple[str, ...] = (), timeout: float = 240
) -> Iterator[ComfyServer]:
    """Start the server in `base` with `packs` (name in custom_nodes → folder) and stop it at the end.

    Args:
        base: an empty folder that becomes ComfyUI's base directory.
        packs: what custom_nodes holds; folders are linked, not copied.
        options: further command line options.
        timeout: seconds to wait for the first answer.

    Raises:
        RuntimeError: the server ended or did not answer; the message holds the end of its log.
    """
    (base / "custom_nodes").mkdir(parents=True, exist_ok=True)
    for name in ("models", "input", "output", "temp", "user/default"):
        (base / name).mkdir(parents=True, exist_ok=True)
    for name, folder in packs.items():
        (base / "custom_nodes" / name).symlink_to(folder.resolve(), target_is_directory=True)
    (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(_SETTINGS))

    port = _free_port()
    command = [sys.executable, "main.py", "--cpu", "--disable-xformers", "--disable-auto-launch", "--disable-api-nodes"]
    command += ["--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(base)]
    command += ["--database-url", "sqlite:///:memory:", *options]
    environment = {**os.environ, "COMFYUI_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    # The test run's own path may hold the pack's root, whose `nodes` would shadow ComfyUI's.
    environment.pop("PYTHONPATH", None)
    with open(base / "server.log", "wb") as log:
        process = subprocess.Popen(command, cwd=COMFYUI, env=environment, stdout=log, stderr=subprocess.STDOUT)
    server = ComfyServer(process, base, port)
    try:
        _wait_until_it_answers(server, timeout)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_answers(server: ComfyServer, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"ComfyUI ended with {server.process.returncode}:\n{server.log[-4000:]}")
        try:
            server.get("/system_stats")
            return
        except (OSError, RuntimeError):
            time.sleep(0.25)
    raise RuntimeError(f"ComfyUI did not answer within {timeout} s:\n{server.log[-4000:]}")
