"""Videos that go on: SmartDirector's extension (§1, Fig. 2) on native video MODELs and VAEs."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..comfyui.checks import checked
from .shared_inputs import fit_input, keyframes_input
from .sockets import TimelineSocket

__all__ = ["ExtendVideo", "ExtendedVideo"]


class ExtendVideo(io.ComfyNode):
    """A video MODEL and the LATENT that continue a given clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotExtendVideo",
            display_name="Extend Video",
            category="Anchorshot/video",
            description="Prepares a model and a latent so that any core sampler goes on from a given clip, all of "
            "which is clean context. Extended Video then puts what is new after it; Multi-Chunk Decode gives the new "
            "frames only.",
            search_aliases=["continue video", "video extension", "longer video", "next clip"],
            inputs=[
                io.Model.Input("model", tooltip="Wan 2.1 or 2.2. No default."),
                io.Vae.Input("vae", tooltip="VAE of the model. No default."),
                io.MultiType.Input(
                    "clip",
                    [io.Image, io.Video],
                    tooltip="What to go on from: frames, or a VIDEO of any length, as Load Video gives it, of which no "
                    "more than context_frames are held in memory. No default.",
                ),
                TimelineSocket.Input(
                    "timeline",
                    tooltip="Of the new part; its clock starts at the clip's last frame. A keyframe at 0 starts a "
                    "new shot. No default.",
                ),
                io.Int.Input(
                    "context_frames",
                    default=0,
                    min=0,
                    max=4801,
                    tooltip="Look back at most this many frames; default 0, the whole clip. Fewer need less time and "
                    "memory.",
                ),
                keyframes_input(),
                fit_input(),
                io.Float.Input(
                    "clip_fps",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    optional=True,
                    force_input=True,
                    tooltip="Frames per second of the clip, e.g. from Get Video Components; a VIDEO says its own. A "
                    "clip of another rate than the timeline's, or of varying rate, would play too fast or too slow: "
                    "it is refused. Default: 0, frames are taken at the timeline's rate.",
                ),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model", tooltip="For this latent only."),
                io.Latent.Output("latent", tooltip="The clip as clean context, and room for the new part."),
            ],
        )

    @classmethod
    @checked()
    def execute(
        cls,
        model: Any,
        vae: Any,
        clip: Any,
        timeline: Any,
        context_frames: int,
        keyframes: Any = None,
        fit: str = "cover",
        clip_fps: float = 0.0,
    ) -> io.NodeOutput:
        from ..comfyui.extend import build_extension, clip_end
        from ..comfyui.video import hint_size, patch_video

        frames = clip_end(clip, vae, timeline, context_frames, clip_fps)
        video = build_extension(vae, frames, timeline, keyframes, context_frames, fit)
        hint_size(model, video)
        return io.NodeOutput(patch_video(model, video), video.latent)


class ExtendedVideo(io.ComfyNode):
    """A clip and what was sampled after it, as one video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotExtendedVideo",
            display_name="Extended Video",
            category="Anchorshot/video",
            description="Decodes what a sampler made of Extend Video's latent and puts it after the clip, without a "
            "step in colour. Of a VIDEO the sound stays and its own frames are not touched.",
            search_aliases=["extend video", "continue video", "append video", "join videos", "longer video"],
            inputs=[
                io.Latent.Input("latent", tooltip="What a sampler made of Extend Video's latent. No default."),
                io.Vae.Input("vae", tooltip="VAE of the model. No default."),
                io.MultiType.Input(
                    "clip",
                    [io.Image, io.Video],
                    tooltip="What Extend Video was given: frames or a VIDEO. No default.",
                ),
                io.Audio.Input(
                    "audio", optional=True, tooltip="Sound of a clip of frames, from its start. Default: silent."
                ),
            ],
            outputs=[
                io.Video.Output(
                    "video",
                    tooltip="The clip and what is new, for Save Video. A clip that is H.264 in a file (MP4, MOV, MKV) "
                    "keeps its encoded frames; any other file is encoded again at high quality.",
                ),
                io.Image.Output(
                    "images",
                    tooltip="All frames of both. Of a VIDEO that is too long for the memory: nothing, and what is "
                    "connected here does not run.",
                ),
                io.Image.Output("new_images", tooltip="The new frames only."),
            ],
        )

    @classmethod
    @checked()
    def execute(cls, latent: Any, vae: Any, clip: Any, audio: Any = None) -> io.NodeOutput:
        from ..comfyui.extend import extended

        return io.NodeOutput(*extended(latent, vae, clip, audio))
