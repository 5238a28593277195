"""Loading the pocket studio, with progress."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.utils

from ..pocket.native_studio import NativeStudio
from .host import stop_if_asked

__all__ = ["PARTS", "load_pocket", "weights_fingerprint"]

PARTS = (
    "keyframe", "video", "keyframe_clip", "video_clip", "image_vae", "video_vae", "clip_vision", "retrieval_clip",
    "pair", "pair_clip", "upscale", "upscale_vae",
)  # fmt: skip
"""Attributes of the studio, in the order of the node's outputs."""


def load_pocket() -> list[Any]:
    """Every part of the studio."""
    studio = NativeStudio("pocket")
    bar = comfy.utils.ProgressBar(len(PARTS))
    parts = []
    for part in PARTS:
        stop_if_asked()
        parts.append(getattr(studio, part))
        bar.update(1)
    return parts


def weights_fingerprint() -> str:
    """Changes when a file of the studio does."""
    folder = Path(__file__).resolve().parent.parent / "pocket" / "weights"
    files = sorted(folder.glob("*.safetensors"))
    return "|".join(f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files)
