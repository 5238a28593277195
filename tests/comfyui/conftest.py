"""Tests against a real ComfyUI: found at $COMFYUI_PATH or ~/comfy/ComfyUI, on the CPU; skipped loudly without one."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

COMFYUI = Path(os.environ.get("COMFYUI_PATH", Path.home() / "comfy" / "ComfyUI"))
FOUND = (COMFYUI / "comfy_extras" / "nodes_wan.py").is_file()

if FOUND:
    # First on the path: the pack's own root may be there too (``python -m pytest`` adds it), and its `nodes` would
    # shadow ComfyUI's.
    sys.path.insert(0, str(COMFYUI))
    os.environ.setdefault("COMFYUI_DISABLE_TELEMETRY", "1")
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    comfy.cli_args.args.disable_xformers = True
else:
    collect_ignore_glob = ["test_*.py"]
    warnings.warn(f"ComfyUI tests SKIPPED: no checkout at {COMFYUI}; set COMFYUI_PATH to one", stacklevel=1)
