"""Story stage: the storyboard as text or file, and its single shots."""

from __future__ import annotations

import asyncio
from typing import Any

from comfy_api.latest import io, ui

from ..comfyui.checks import checked
from ..comfyui.story_route import complaint
from .sockets import StoryboardSocket, TimelineSocket

__all__ = ["Shot", "Storyboard"]

SAMPLE = """title: Two friends
fps: 8
size: [160, 80]
characters:
  Mira: a yellow square with a crown
  Pip: a pink circle with a bow
places:
  dunes: the desert
  town: the town
shots:
  - id: s01
    place: dunes
    action: <Mira> waves on the left.
    seconds: 2.125
  - id: s02
    place: town
    action: <Pip> jumps on the right.
    camera: {scale: medium shot}
    seconds: 2.125
  - id: s03
    place: dunes
    scene: <Mira> stands on the left.
    action: <Pip> waves on the right.
    seconds: 2.125
    keyframes: [{at: 0}, {at: 1.0}]
"""


class Storyboard(io.ComfyNode):
    """Read and check a storyboard; its lists drive a whole film through mapped nodes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotStoryboard",
            display_name="Storyboard",
            category="Anchorshot/story",
            description="Reads a film as people write it down: cast, places and shots. The lists have one entry for "
            "each shot, in film order: nodes behind them run once for every shot.",
            search_aliases=["script", "screenplay", "shot list", "film", "story", "scenes", "yaml", "fountain", "csv"],
            inputs=[
                io.String.Input(
                    "story",
                    default=SAMPLE,
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="The storyboard: YAML, JSON, a shot list (CSV, or cells from a spreadsheet), a screenplay "
                    "(Fountain, Final Draft), timed prompts, or plain text with one shot per paragraph; or one line "
                    "with the name of such a file in ComfyUI's input folder. Default: a film of three shots. Pictures "
                    "named in it lie beside the file, or in the input folder.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Text encoder that will read the prompts. The pocket studio's knows few names: others "
                    "are replaced by names that it knows, the same all film long; and few words: others are listed "
                    "under the node. Default: none, names stay.",
                ),
            ],
            outputs=[
                StoryboardSocket.Output("storyboard", tooltip="The checked storyboard."),
                io.String.Output(
                    "prompts", is_output_list=True, tooltip="Prompt of every shot, for generation: <Name> tags."
                ),
                io.String.Output(
                    "queries", is_output_list=True, tooltip="The same with looks in the place of names, for retrieval."
                ),
                TimelineSocket.Output("timelines", is_output_list=True, tooltip="Timeline of every shot."),
                io.Int.Output("seeds", is_output_list=True, tooltip="Seed of every shot's video."),
                io.String.Output(
                    "tiled_prompt", tooltip="All prompts in one, for a video of several shots (Captain Cinema §3.3)."
                ),
                io.Int.Output("width", tooltip="Width of the film in pixels."),
                io.Int.Output("height", tooltip="Height of the film in pixels."),
                io.Float.Output("fps", tooltip="Frames per second."),
                io.Int.Output("count", display_name="shots", tooltip="Number of shots."),
                io.String.Output(
                    "keyframe_prompts",
                    is_output_list=True,
                    tooltip="Prompt of every keyframe, for the Interleaved Keyframe Sampler: its own text's, or its "
                    "shot's.",
                ),
                io.String.Output(
                    "keyframe_queries",
                    is_output_list=True,
                    tooltip="The same with looks in the place of names, for retrieval.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    async def validate_inputs(cls, story: str | None = None) -> bool | str:
        if story is None:  # a linked text is known only when the graph runs
            return True
        # In a thread: the server's only loop waits for this, and answers nobody meanwhile.
        return await asyncio.to_thread(complaint, story) or True

    @classmethod
    def fingerprint_inputs(cls, story: str | None = None, **links: Any) -> str:
        from ..comfyui.story import story_fingerprint

        return story_fingerprint(story, _node_id(cls))

    @classmethod
    @checked()
    def execute(cls, story: str, clip: Any = None) -> io.NodeOutput:
        from ..comfyui.story import lines_for_people, read_and_note, storyboard_outputs

        storyboard = read_and_note(story, _node_id(cls))
        lines = lines_for_people(storyboard, clip)
        return io.NodeOutput(*storyboard_outputs(storyboard, clip), ui=ui.PreviewText("\n".join(lines)))


def _node_id(cls: type[io.ComfyNode]) -> str:
    """The node's id in its graph; empty outside of one."""
    return str(getattr(cls.hidden, "unique_id", "") or "")


class Shot(io.ComfyNode):
    """One shot of a storyboard: its prompts and attributes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotShot",
            display_name="Shot",
            category="Anchorshot/story",
            description="One shot of a storyboard: prompt, retrieval query, length, seed and timeline.",
            search_aliases=["scene", "shot prompt", "storyboard entry"],
            inputs=[
                StoryboardSocket.Input("storyboard", tooltip="The film. No default: connect a Storyboard."),
                io.MultiType.Input(
                    io.String.Input("shot", default="1"),
                    types=[io.Int],
                    tooltip="Which shot: its number from 1, or its id such as s02. Default 1.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Text encoder that will read the prompts. The pocket studio's knows few names: others "
                    "are replaced by names that it knows, the same all film long. Default: none, names stay.",
                ),
            ],
            outputs=[
                io.String.Output("prompt", tooltip="For generation: camera, place and text, with <Name> tags."),
                io.String.Output("query", tooltip="For retrieval: looks in the place of names."),
                TimelineSocket.Output("timeline", tooltip="Length and keyframe times, on the grid."),
                io.Float.Output("seconds", tooltip="Length on the grid, in seconds."),
                io.Int.Output("seed", tooltip="Seed of the shot's video."),
                io.Int.Output("keyframes", tooltip="Number of keyframes."),
                io.String.Output("id", tooltip="The shot's id."),
                io.Int.Output("number", tooltip="The shot's place in the film, from 1."),
            ],
        )

    @classmethod
    @checked()
    def execute(cls, storyboard: Any, shot: str | int, clip: Any = None) -> io.NodeOutput:
        from ..comfyui.story import prompts_for, shot_at, shot_outputs

        position = shot_at(storyboard, shot)
        outputs = shot_outputs(storyboard, position, clip)
        line = f"{storyboard.shots[position].id}: {prompts_for(storyboard, clip)[position]}"
        return io.NodeOutput(*outputs, ui=ui.PreviewText(line))
