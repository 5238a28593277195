"""Film stage: clips joined to a VIDEO, and the contact sheet."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import InputImpl, Types, io, ui

from ..comfyui.checks import checked
from ..comfyui.images import only
from .sockets import StoryboardSocket

__all__ = ["ContactSheet", "Film"]


class Film(io.ComfyNode):
    """Clips joined to one video, with the storyboard's cuts and dissolves."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotFilm",
            display_name="Film",
            category="Anchorshot/film",
            description="Joins clips to one video: hard cuts, or dissolves where the storyboard says blend.",
            search_aliases=[
                "movie",
                "join videos",
                "concatenate video",
                "merge clips",
                "edit",
                "cut",
                "dissolve",
                "transition",
            ],
            is_input_list=True,
            inputs=[
                io.Autogrow.Input(
                    "clips",
                    template=io.Autogrow.TemplatePrefix(
                        io.Image.Input("clip", tooltip="Frames of one shot, or a list with one batch for each shot."),
                        prefix="clip_",
                        min=1,
                        max=48,
                    ),
                    tooltip="The shots in film order, all of one size. No default.",
                ),
                io.Float.Input(
                    "fps",
                    default=16.0,
                    min=1.0,
                    max=120.0,
                    step=0.001,
                    tooltip="Frames per second; default 16. A connected storyboard gives its own.",
                ),
                io.Combo.Input(
                    "transition",
                    options=["cut", "blend"],
                    default="cut",
                    tooltip="How shots join: cut (default), or blend, a dissolve of at most half a second. A "
                    "connected storyboard says it for every shot.",
                ),
                StoryboardSocket.Input(
                    "storyboard", optional=True, tooltip="Gives frame rate and transitions. Default: none."
                ),
                io.Audio.Input("audio", optional=True, tooltip="Sound of the film, from its start. Default: silent."),
            ],
            outputs=[
                io.Video.Output("video", tooltip="The film, for Save Video."),
                io.Image.Output("images", tooltip="All its frames."),
                io.Int.Output("frames", tooltip="Number of frames."),
            ],
        )

    @classmethod
    @checked()
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        from ..comfyui.film import join, transitions_of

        clips, fps, transitions = transitions_of(
            inputs["clips"], only(inputs.get("storyboard")), only(inputs["fps"]), only(inputs["transition"])
        )
        frames = join(clips, transitions, fps)
        parts = Types.VideoComponents(images=frames, audio=only(inputs.get("audio")), frame_rate=fps)
        return io.NodeOutput(InputImpl.VideoFromComponents(parts), frames, len(frames))


class ContactSheet(io.ComfyNode):
    """Every shot at a glance: keyframes, place, caption, times."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotContactSheet",
            display_name="Contact Sheet",
            category="Anchorshot/film",
            description="Draws every shot as a card: keyframes, place, caption, length, and the times that keyframes "
            "were asked for and got. Up to 48 shots a page.",
            search_aliases=["storyboard sheet", "overview", "thumbnails", "proof sheet"],
            is_input_list=True,
            is_output_node=True,
            inputs=[
                StoryboardSocket.Input("storyboard", tooltip="The film. No default."),
                io.Autogrow.Input(
                    "keyframes",
                    template=io.Autogrow.TemplatePrefix(
                        io.Image.Input(
                            "shot", tooltip="Keyframes of one shot, or a list with one batch for each shot."
                        ),
                        prefix="shot_",
                        min=1,
                        max=48,
                    ),
                    tooltip="The keyframes of every shot, in film order. No default.",
                ),
            ],
            outputs=[io.Image.Output("sheet", tooltip="The pages, one picture each.")],
        )

    @classmethod
    @checked()
    def execute(cls, storyboard: Any, keyframes: Any) -> io.NodeOutput:
        from ..comfyui.film import contact_sheet
        from ..comfyui.host import stop_if_asked

        sheet = contact_sheet(only(storyboard), keyframes, stop_if_asked)
        return io.NodeOutput(sheet, ui=ui.PreviewImage(sheet, cls=cls))
