"""What tests give to nodes."""

from __future__ import annotations

from typing import Any

import nodes as comfy_nodes

__all__ = ["STORY", "encode"]

STORY = """
title: Two friends
fps: 8
size: [160, 80]
characters: {Mira: a yellow square with a crown, Pip: a pink circle with a bow}
places: {dunes: the desert, town: the town}
shots:
  - {id: s01, place: dunes, action: <Mira> waves on the left., frames: 5}
  - id: s02
    place: town
    action: <Pip> jumps on the right.
    frames: 9
    transition: blend
    keyframes: [{at: 0}, {at: 0.5}]
"""


def encode(clip: Any, text: str) -> list[Any]:
    """CONDITIONING of a text, by the core node."""
    return comfy_nodes.CLIPTextEncode().encode(clip, text)[0]
