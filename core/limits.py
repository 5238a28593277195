"""How much a storyboard may hold. Readers check these while they read, so that no text costs more than its size."""

from __future__ import annotations

__all__ = [
    "MAX_BYTES", "MAX_DEPTH", "MAX_FILM_KEYFRAMES", "MAX_KEYFRAMES", "MAX_LINES", "MAX_NAMED", "MAX_SHOTS", "MAX_TAGS",
    "MAX_TEXT", "MAX_VALUES",
]  # fmt: skip

MAX_BYTES = 1 << 20
"""Largest story file or text: 1 MiB, several times a thousand shots."""
MAX_SHOTS = 1000
"""Most shots of a film."""
MAX_NAMED = 200
"""Most characters, and most places."""
MAX_KEYFRAMES = 64
"""Most keyframes of a shot."""
MAX_FILM_KEYFRAMES = 4000
"""Most keyframes of a film: four for each of the most shots."""
MAX_TAGS = 40
"""Most `<Name>` tags in a scene, an action or a keyframe's text: each stands for looks of up to 400 characters."""
MAX_TEXT = 2000
"""Longest scene or action, in characters."""
MAX_VALUES = 30_000
"""Most values in YAML or JSON, with aliases written out: thirty for each of the most shots."""
MAX_LINES = 50_000
"""Most lines of a story: fifty for each of the most shots."""
MAX_DEPTH = 24
"""Deepest nesting of YAML or JSON."""
