"""The pack's own socket types: plans travel along links, never in a hidden widget."""

from __future__ import annotations

from comfy_api.latest import io

__all__ = ["Context", "StoryboardSocket", "TimelineSocket"]

StoryboardSocket = io.Custom("ANCHORSHOT_STORYBOARD")
"""A `story.storyboard.Storyboard`."""
TimelineSocket = io.Custom("ANCHORSHOT_TIMELINE")
"""A `story.timeline.Timeline`."""
Context = io.Custom("ANCHORSHOT_CONTEXT")
"""A `memory.frame_memory.FrameMemory`: earlier frames, and how new ones look back at them."""
