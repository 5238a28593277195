"""Super-resolution of video: SmartDirector's Director-SR (§3.3) on native video MODELs and VAEs."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..comfyui.checks import checked
from ..comfyui.images import FITS
from .shared_inputs import valid_sampler
from .sockets import StoryboardSocket, TimelineSocket

__all__ = ["KeyframeSR"]


class KeyframeSR(io.ComfyNode):
    """Any video made larger, with the detail of large keyframes carried through it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotKeyframeSR",
            display_name="Keyframe SR",
            category="Anchorshot/video",
            description="Upscales any video, a VIDEO or IMAGE batch, and carries the detail of large, sharp keyframes "
            "through it (SmartDirector). Works without keyframes, too. Knows cuts, works in windows and tiles; times, "
            "sound and colours stay the video's.",
            search_aliases=[
                "upscale video",
                "video upscaler",
                "super resolution",
                "smartdirector",
                "enhance video",
                "hires fix video",
                "4k",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Wan 2.2 5B, a Wan 2.1 text-to-video model, or a model trained for super-resolution. LoRAs "
                    "and fp8 stay. No default.",
                ),
                io.Vae.Input("vae", tooltip="VAE of the model. No default."),
                io.MultiType.Input(
                    "video",
                    [io.Video, io.Image],
                    tooltip="What is made larger: a VIDEO, as Load Video gives it, which is read and written piece by "
                    "piece, or an IMAGE batch. No default.",
                ),
                io.Combo.Input(
                    "mode",
                    options=["auto", "bridge", "training_free"],
                    default="auto",
                    tooltip="bridge: the paper's way, from the small video's latents without noise, for a model that "
                    "was trained for it. training_free: for all others, with noise of that strength. Default: auto, "
                    "the bridge for models that say they know it.",
                ),
                io.Float.Input(
                    "scale",
                    default=2.0,
                    min=1.0,
                    max=8.0,
                    step=0.01,
                    tooltip="Factor along both sides; default 2. Width and height, where they are given, count "
                    "instead.",
                ),
                io.Int.Input(
                    "steps",
                    default=4,
                    min=1,
                    max=1000,
                    tooltip="Sampler steps for each window and tile; default 4, enough for the bridge. training_free "
                    "gains from 8 to 12.",
                ),
                io.Float.Input(
                    "strength",
                    default=0.4,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Noise level, 0…1, at which training_free starts; default 0.4. Higher invents more detail "
                    "and keeps less of the video. The bridge does not read it.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Seed of the noise of training_free; default 0. In the bridge nothing is random.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    default="euler",
                    advanced=True,
                    tooltip="A deterministic core sampler; default euler. Ancestral and SDE samplers are refused.",
                ),
                io.Int.Input(
                    "window",
                    default=81,
                    min=0,
                    max=4801,
                    advanced=True,
                    tooltip="Most frames that are sampled at once; default 81. Fewer need less memory. 0 takes every "
                    "shot whole. No window crosses a cut.",
                ),
                io.Int.Input(
                    "overlap",
                    default=8,
                    min=0,
                    max=256,
                    advanced=True,
                    tooltip="Frames that two windows of one shot share, where one dissolves into the other; default "
                    "8. A window must be at least twice as long.",
                ),
                io.Int.Input(
                    "near",
                    default=0,
                    min=0,
                    max=1200,
                    advanced=True,
                    tooltip="How many latents (of four frames) each looks at on both sides, besides the nearest "
                    "keyframes; default 0, as the model says, else all of the window. 1 to 8 need less time in long "
                    "windows, and windows agree better.",
                ),
                io.Int.Input(
                    "tile",
                    default=0,
                    min=0,
                    max=8192,
                    step=8,
                    advanced=True,
                    tooltip="Longest side of a tile in pixels of the source, the small video; default 0, frames are "
                    "taken whole. Tiles need less memory and more time.",
                ),
                io.Int.Input(
                    "tile_overlap",
                    default=32,
                    min=0,
                    max=1024,
                    step=8,
                    advanced=True,
                    tooltip="Pixels of the source that two tiles share, where one blends into the other; default 32.",
                ),
                io.Combo.Input(
                    "cuts",
                    options=["auto", "none"],
                    default="auto",
                    advanced=True,
                    tooltip="Where shots begin. auto (default): as the storyboard says, else found by looking. none: "
                    "the video is taken for one shot, and a scene may show in the next.",
                ),
                io.Boolean.Input(
                    "keep_colour",
                    default=True,
                    advanced=True,
                    tooltip="Give broad areas the small video's colours, whatever the model made of them; default on. "
                    "Finer detail stays: see colour_cell.",
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="What the video shows; there is no guidance, so it weighs little. Default: none, an empty "
                    "text.",
                ),
                io.Image.Input(
                    "keyframes",
                    optional=True,
                    tooltip="Large pictures of some frames, in order of time; those frames come out as these. "
                    "Pictures no larger than the video are left out. Default: none.",
                ),
                TimelineSocket.Input(
                    "timeline",
                    optional=True,
                    tooltip="When each keyframe comes: of the timeline that the video was made with the snapped "
                    "frames, of any other the times that were asked for. Default: none.",
                ),
                StoryboardSocket.Input(
                    "storyboard",
                    optional=True,
                    tooltip="Of a whole film, as the Film node joins it: says where its cuts and keyframes are. "
                    "Default: none.",
                ),
                io.String.Input(
                    "keyframe_times",
                    default="",
                    optional=True,
                    tooltip="When each keyframe comes, with commas in between: seconds (2.5), frames (48 frames) or "
                    "timecodes (00:00:03:12). Default: empty, as timeline or storyboard say; a single picture is then "
                    "the first frame.",
                ),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=16384,
                    optional=True,
                    tooltip="Width of what comes out in pixels, together with height. Default 0: by scale.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=16384,
                    optional=True,
                    tooltip="Height of what comes out in pixels, together with width. Default 0: by scale.",
                ),
                io.Combo.Input(
                    "fit",
                    options=FITS,
                    default=FITS[0],
                    optional=True,
                    advanced=True,
                    tooltip="Keyframes of another size than what comes out. cover (default): scaled to fill it and "
                    "cropped. contain: whole, on black. off: refused.",
                ),
                io.Float.Input(
                    "fps",
                    default=24.0,
                    min=1.0,
                    max=120.0,
                    step=0.001,
                    optional=True,
                    tooltip="Frames per second of an IMAGE batch; default 24. A VIDEO, a storyboard or a timeline "
                    "gives its own.",
                ),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="Sound of an IMAGE batch, from its start; a VIDEO keeps its own. Default: silent.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="The video's own latent, of this VAE, as Multi-Chunk Video Sampler gives it: it takes the "
                    "place of the frames, which then need not be encoded again. Used where one window holds the video "
                    "and the same keyframes are given. Default: none.",
                ),
                io.Int.Input(
                    "colour_cell",
                    default=0,
                    min=0,
                    max=256,
                    optional=True,
                    advanced=True,
                    tooltip="Side of the areas whose colour keep_colour takes from the small video, in its pixels; "
                    "default 0, as the model says, else 8. 1 makes the result, shrunk again, the small video itself: "
                    "for clean sources.",
                ),
                io.Float.Input(
                    "hold",
                    default=2.0,
                    min=0.0,
                    max=16.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip="Where the small video stands still, so does the large one: while a pixel changes by no "
                    "more than this, in 1/255, what is made of it is kept. Default 2, which noisy videos never stay "
                    "below. 0 takes every frame as it comes.",
                ),
            ],
            outputs=[
                io.Video.Output("video_out", display_name="video", tooltip="The large video, for Save Video."),
                io.Image.Output(
                    "images",
                    tooltip="Its frames. Those of a VIDEO that would need over 2 GB come as video only.",
                ),
                io.String.Output(
                    "report", tooltip="What was done, as text: sizes, mode, frames of keyframes and cuts, windows."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, sampler_name: str | None = None) -> bool | str:
        return valid_sampler(sampler_name)

    @classmethod
    @checked()
    def execute(
        cls,
        model: Any,
        vae: Any,
        video: Any,
        positive: Any = None,
        keyframes: Any = None,
        timeline: Any = None,
        storyboard: Any = None,
        audio: Any = None,
        latent: Any = None,
        **widgets: Any,
    ) -> io.NodeOutput:
        from ..comfyui.upscale import Upscaling, only_video, upscale_video

        given = {"positive": positive, "keyframes": keyframes, "timeline": timeline, "storyboard": storyboard}
        made, images, report = upscale_video(
            model, vae, video, Upscaling(**widgets), audio=audio, latent=latent, **given
        )
        return io.NodeOutput(made, only_video() if images is None else images, report)
