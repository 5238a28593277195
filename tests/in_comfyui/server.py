"""Starts the real ComfyUI server on the CPU in a folder of its own, for tests that talk to it over HTTP.

with running(tmp_path, {"anchorshot": ROOT}) as server:
    server.get("/object_info")
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from anchorshot.benchmarks import comfy_server
from anchorshot.benchmarks.comfy_server import ROOT, ComfyServer

__all__ = ["COMFYUI", "PACK", "ROOT", "ComfyServer", "running"]

COMFYUI = Path(os.environ.get("COMFYUI_PATH", Path.home() / "comfy" / "ComfyUI"))

PACK = "anchorshot-1.0-beta"
"""A name that is no Python identifier, as folders of downloaded archives have."""

_SETTINGS = {
    # A first-run template browser and tour would lie over the graph that a browser test looks at.
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.49.6",
    "Comfy.Locale": "en",
}


def running(
    base: Path, packs: Mapping[str, Path], *, options: tuple[str, ...] = (), timeout: float = 240
) -> AbstractContextManager[ComfyServer]:
    """`comfy_server.running` for the checkout that is tested; a browser finds the graph without a tour over it."""
    return comfy_server.running(COMFYUI, base, packs, options=options, settings=_SETTINGS, timeout=timeout)
