"""Director and Shot Refiner (STAGE §4.3): a theme becomes a storyboard, a shot's frames become its video prompt."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..comfyui.checks import checked
from .sockets import StoryboardSocket

__all__ = ["Director", "ShotRefiner"]

CLIP_TIP = (
    "A text encoder that can write: Qwen3-VL, Qwen3.5 or Gemma (Load CLIP). ComfyUI cannot write with Qwen2.5-VL. "
    "Default: none, the endpoint writes, or rules that know the pocket studio only."
)
URL_TIP = (
    "Without clip: an OpenAI-compatible endpoint on this machine, e.g. http://127.0.0.1:8080/v1 (llama.cpp, Ollama, LM "
    "Studio). Others only where ComfyUI was started with ANCHORSHOT_API_URL; that one alone gets the key in "
    "ANCHORSHOT_API_KEY. Default: empty."
)
MODEL_TIP = "The endpoint's name of the model. Default: empty."
LENGTH_TIP = "Longest answer of clip in tokens; default {}. A longer one takes memory and time."
TIMEOUT_TIP = "Seconds in all for an answer; default 600."


class Director(io.ComfyNode):
    """Write a storyboard about a theme."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotDirector",
            display_name="Director",
            category="Anchorshot/story",
            description="Writes a storyboard about a theme: cast, places, and shots with text, camera and length. A "
            "language model thinks first and answers by a schema; what it writes is checked, mended, or asked again "
            "once. Link story to a Storyboard node for all its lists.",
            search_aliases=["llm", "story generator", "screenwriter", "storyboard agent", "stage", "plot"],
            inputs=[
                io.String.Input(
                    "theme",
                    default="Two friends meet in the desert, dance and part.",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="What the film is about, at most 4000 characters. Default: two friends who meet.",
                ),
                io.Int.Input(
                    "shots",
                    default=0,
                    min=0,
                    max=100,
                    tooltip="Number of shots. Default 0: as many as the story needs.",
                ),
                io.Int.Input(
                    "width", default=160, min=32, max=4096, step=16,
                    tooltip="Width of the film in pixels, a multiple of 16; default 160, the pocket studio's.",
                ),
                io.Int.Input(
                    "height", default=80, min=32, max=4096, step=16,
                    tooltip="Height of the film in pixels, a multiple of 16; default 80, the pocket studio's.",
                ),
                io.Float.Input(
                    "fps", default=8.0, min=1.0, max=120.0, step=0.01,
                    tooltip="Frames per second; default 8, the pocket studio's. Wan 2.1 has 16, Wan 2.2 5B has 24.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Another seed, another story; default 0.",
                ),
                io.Clip.Input("clip", optional=True, tooltip=CLIP_TIP),
                io.String.Input("url", default="", optional=True, tooltip=URL_TIP),
                io.String.Input("model", default="", optional=True, tooltip=MODEL_TIP),
                io.Int.Input(
                    "max_length", default=4096, min=64, max=32768, optional=True, advanced=True,
                    tooltip=LENGTH_TIP.format(4096),
                ),
                io.Int.Input(
                    "timeout", default=600, min=1, max=86400, optional=True, advanced=True, tooltip=TIMEOUT_TIP
                ),
            ],
            outputs=[
                StoryboardSocket.Output("storyboard", tooltip="The checked storyboard."),
                io.String.Output("story", tooltip="The same as YAML, to read, to change, or for a Storyboard node."),
                io.Int.Output("count", display_name="shots", tooltip="Number of shots."),
            ],
        )  # fmt: skip

    @classmethod
    @checked()
    def execute(
        cls,
        theme: str,
        shots: int,
        width: int,
        height: int,
        fps: float,
        seed: int,
        clip: Any = None,
        url: str = "",
        model: str = "",
        max_length: int = 4096,
        timeout: int = 600,
    ) -> io.NodeOutput:
        from ..agents.director import direct
        from ..comfyui.agents import client_for
        from ..story.writer import story_text

        client = client_for(clip, url, model, seed, max_length, timeout)
        storyboard = direct(client, theme, shots or None, fps=fps, size=(width, height))
        text = story_text(storyboard)
        lines = [*storyboard.notes, client.cost.line(client.who), text]
        return io.NodeOutput(storyboard, text, len(storyboard.shots), ui=ui.PreviewText("\n".join(lines)))


class ShotRefiner(io.ComfyNode):
    """Write the video prompt of every shot from its words and both its frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotShotRefiner",
            display_name="Shot Refiner",
            category="Anchorshot/pairs",
            description="Writes the full prompt of every shot's video: a language model that sees reads the shot's "
            "text and camera, looks at the start and the end frame, and tells what happens from one to the other.",
            search_aliases=["llm", "vlm", "prompt enhancer", "video prompt", "caption frames", "stage"],
            is_input_list=True,
            inputs=[
                StoryboardSocket.Input("storyboard", tooltip="The film. No default: connect a Storyboard or Director."),
                io.Image.Input("start", tooltip="Start frames, one for each shot, in order. No default."),
                io.Image.Input("end", tooltip="End frames, one for each shot, in order. No default."),
                io.MultiType.Input(
                    io.String.Input("shot", default="1"),
                    types=[io.Int],
                    tooltip="The shot of the first pair of frames: its number from 1, or its id. Default 1.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Another seed, other words; default 0.",
                ),
                io.Clip.Input("clip", optional=True, tooltip=CLIP_TIP),
                io.String.Input("url", default="", optional=True, tooltip=URL_TIP),
                io.String.Input("model", default="", optional=True, tooltip=MODEL_TIP),
                io.Int.Input(
                    "max_length", default=1024, min=64, max=32768, optional=True, advanced=True,
                    tooltip=LENGTH_TIP.format(1024),
                ),
                io.Int.Input(
                    "timeout", default=600, min=1, max=86400, optional=True, advanced=True,
                    tooltip="Seconds in all for each shot; default 600.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "prompts", is_output_list=True, tooltip="Video prompt of every shot, for CLIP Text Encode."
                ),
            ],
        )  # fmt: skip

    @classmethod
    @checked("start", "end")
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        from ..comfyui.agents import refine_shots
        from ..comfyui.images import only

        frames = {name: inputs.pop(name) for name in ("start", "end")}
        prompts, line = refine_shots(**frames, **{name: only(value) for name, value in inputs.items()})
        return io.NodeOutput(prompts, ui=ui.PreviewText("\n\n".join([*prompts, line])))
