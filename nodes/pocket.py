"""Pocket Studio: the built-in family of tiny models as native objects."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

__all__ = ["PocketStudio"]


class PocketStudio(io.ComfyNode):
    """All models of the pocket studio, for core nodes and ours."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotPocketStudio",
            display_name="Pocket Studio",
            category="Anchorshot/pocket",
            description="The tiny models that come with Anchorshot, as native objects: cartoons of 160x80 pixels at "
            "8 frames per second, made in seconds, also on a CPU. They know the pocket world only: 8 colours of "
            "squares, circles, triangles and stars in 6 places.",
            search_aliases=["demo model", "tiny model", "test model", "built-in", "load pocket"],
            inputs=[],
            outputs=[
                io.Model.Output("keyframe_model", tooltip="FLUX.1-class model for keyframes, 160x80 pixels."),
                io.Model.Output("video_model", tooltip="Wan-class model for video, 160x80 pixels at 8 fps."),
                io.Clip.Output("clip", tooltip="Text encoder of the keyframe model."),
                io.Clip.Output("video_clip", tooltip="Text encoder of the video model."),
                io.Vae.Output("vae", tooltip="VAE for keyframes: a batch is so many pictures."),
                io.Vae.Output("video_vae", tooltip="The same VAE for video: a batch is one clip."),
                io.ClipVision.Output("clip_vision", tooltip="Sees frames, for clip retrieval."),
                io.Clip.Output("retrieval_clip", tooltip="The text half of clip_vision's CLIP."),
                io.Model.Output(
                    "pair_model", tooltip="Qwen-Image class model for start and end frames, 160x80 pixels."
                ),
                io.Clip.Output("pair_clip", tooltip="Text encoder of the pair model, which sees pictures, too."),
                io.Model.Output(
                    "upscale_model", tooltip="Wan-class model that doubles video to 320x160 pixels, for Keyframe SR."
                ),
                io.Vae.Output("upscale_vae", tooltip="VAE of the upscaling model."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls) -> Any:
        from ..comfyui.pocket import weights_fingerprint

        return weights_fingerprint()

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from ..comfyui.pocket import load_pocket

        return io.NodeOutput(*load_pocket())
