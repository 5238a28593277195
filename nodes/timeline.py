"""Keyframe Timeline: how long a shot is and when each of its keyframes comes (SmartDirector §3.2)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..comfyui.checks import checked
from ..comfyui.images import keyframe_images
from ..comfyui.timeline import plan, read_edit
from ..core.errors import InputError
from ..story.timeline import MAX_FPS, MAX_FRAMES, MIN_FPS
from .sockets import StoryboardSocket, TimelineSocket

__all__ = ["KeyframeTimeline"]

_PICTURES = 1
"""The number of the output `keyframes`."""


class KeyframeTimeline(io.ComfyNode):
    """Plan a video's length and keyframe times; the web widget edits the `timeline` text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotKeyframeTimeline",
            display_name="Keyframe Timeline",
            category="Anchorshot/video",
            has_intermediate_output=True,
            description="Says how long a video is and when each keyframe comes. Times snap to the grid of the video "
            "VAE (chunks of 4n+1 frames), by at most 2 frames; the snapped frame is shown.",
            search_aliases=[
                "keyframes",
                "keyframe times",
                "start end frame",
                "first last frame",
                "multi keyframe",
                "prompt travel",
                "pacing",
                "shot length",
            ],
            inputs=[
                io.Float.Input(
                    "fps",
                    default=16.0,
                    min=MIN_FPS,
                    max=MAX_FPS,
                    step=0.001,
                    tooltip="Frames per second; default 16. Wan 2.1 and 2.2 14B make 16, Wan 2.2 5B 24, the pocket "
                    "studio 8. A connected storyboard gives its own.",
                ),
                io.Float.Input(
                    "seconds",
                    default=5.0,
                    min=0.01,
                    max=MAX_FRAMES,
                    step=0.001,
                    tooltip="Length of the video in seconds; default 5. Snaps to the grid, by at most 2 frames. A "
                    "connected storyboard, or durations in the timeline, give the length instead.",
                ),
                io.String.Input(
                    "timeline",
                    default="",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="JSON that the timeline widget edits: keyframes[].requested in seconds from the start, "
                    "and durations in seconds for a video of several shots. Default: empty, which takes the "
                    "storyboard's keyframes, or one at 0 s. A plain list such as [0, 2.5] works too.",
                ),
                StoryboardSocket.Input(
                    "storyboard",
                    optional=True,
                    tooltip="Gives frame rate, lengths and, where the timeline text is empty, keyframe times. "
                    "Default: none, the widgets count.",
                ),
                io.String.Input(
                    "shot",
                    default="",
                    optional=True,
                    tooltip="Which shot of the storyboard: its number from 1, or its id. Default: empty, all shots "
                    "one after the other as one video.",
                ),
                io.Image.Input(
                    "keyframes",
                    optional=True,
                    tooltip="Pictures of the keyframes in order of time, one each; shown on the time axis and passed "
                    "on. Default: none.",
                ),
            ],
            outputs=[
                TimelineSocket.Output("timeline_out", display_name="timeline", tooltip="The planned timeline."),
                io.Image.Output("keyframes_out", display_name="keyframes", tooltip="The pictures, checked: one each."),
                io.Int.Output("frames", display_name="frames", tooltip="Length on the grid, in frames."),
                io.Float.Output("fps_out", display_name="fps", tooltip="Frames per second."),
                io.String.Output("json", display_name="json", tooltip="The timeline as JSON, snapped times included."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    def validate_inputs(cls, timeline: str | None = None) -> bool | str:
        try:
            read_edit(timeline or "")
        except InputError as error:
            return str(error)
        return True

    @classmethod
    @checked()
    def execute(
        cls,
        fps: float,
        seconds: float,
        timeline: str,
        storyboard: Any = None,
        shot: str = "",
        keyframes: Any = None,
    ) -> io.NodeOutput:
        from ..comfyui.host import picture_reader

        planned = plan(read_edit(timeline), fps, seconds, storyboard, shot)
        image = keyframe_images(keyframes, planned)
        graph = cls.hidden
        if image is None and graph and (reader := picture_reader(graph.prompt, graph.unique_id, _PICTURES)):
            fix = "connect one picture for each keyframe, or take that link away"
            raise InputError("keyframes", f"are needed, because {reader} takes them from here", None, fix)
        shown: dict[str, Any] = {"timeline": [planned.to_json()], "text": [planned.describe()]}
        if image is not None:
            shown["thumbnails"] = ui.PreviewImage(image, cls=cls).values
        return io.NodeOutput(planned, image, planned.frames, float(planned.fps), planned.to_json(), ui=shown)
