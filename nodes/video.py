"""Video stage: SmartDirector's multi-chunk video on native video MODELs and VAEs (§3.2)."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..comfyui.checks import checked
from .shared_inputs import fit_input, keyframes_input, valid_sampler
from .sockets import TimelineSocket

__all__ = ["MultiChunkDecode", "MultiChunkModel", "MultiChunkVideoSampler", "RepinKeyframes"]

METHODS = ["multi_chunk", "latent_replacement", "replication"]
_TIMELINE = "Length and keyframe times, from Keyframe Timeline, Shot or Storyboard. No default."
_METHOD = (
    "How keyframes enter. multi_chunk (default): a chunk of its own for each. latent_replacement and replication: "
    "the paper's two baselines, for comparison."
)
_SIDE = "of the video in pixels. Default 0: the keyframes' size; needed only without keyframes."


class MultiChunkModel(io.ComfyNode):
    """A video MODEL and the LATENT of a video with its keyframes pinned, for any core sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotMultiChunkModel",
            display_name="Multi-Chunk Model",
            category="Anchorshot/video",
            description="Prepares a Wan model and a latent so that any core sampler (KSampler, "
            "SamplerCustomAdvanced) makes a video through keyframes at any times. Decode with Multi-Chunk Decode.",
            search_aliases=["smartdirector", "wan keyframes", "start end frame", "image to video", "video from images"],
            inputs=[
                io.Model.Input("model", tooltip="Wan 2.1 or 2.2 (text-to-video, image-to-video, 5B). No default."),
                io.Vae.Input("vae", tooltip="VAE of the model. No default."),
                TimelineSocket.Input("timeline", tooltip=_TIMELINE),
                io.Combo.Input("method", options=METHODS, default=METHODS[0], advanced=True, tooltip=_METHOD),
                keyframes_input(),
                io.Int.Input("width", default=0, min=0, max=8192, step=16, optional=True, tooltip=f"Width {_SIDE}"),
                io.Int.Input("height", default=0, min=0, max=8192, step=16, optional=True, tooltip=f"Height {_SIDE}"),
                fit_input(),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model", tooltip="For this timeline's latent only."),
                io.Latent.Output("latent", tooltip="Clean keyframes, their noise mask, and the layout."),
            ],
        )

    @classmethod
    @checked()
    def execute(
        cls,
        model: Any,
        vae: Any,
        timeline: Any,
        method: str,
        keyframes: Any = None,
        width: int = 0,
        height: int = 0,
        fit: str = "cover",
    ) -> io.NodeOutput:
        from ..comfyui.video import build_latent, hint_size, patch_video

        video = build_latent(vae, timeline, keyframes, method, width, height, fit)
        hint_size(model, video)
        return io.NodeOutput(patch_video(model, video), video.latent)


class MultiChunkVideoSampler(io.ComfyNode):
    """A whole video through its keyframes, with one model or two experts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotMultiChunkVideoSampler",
            display_name="Multi-Chunk Video Sampler",
            category="Anchorshot/video",
            description="Makes a video through keyframes at any times: none, first, last, middle, several, or one "
            "for each shot. Each keyframe lands on its snapped frame. Takes Wan 2.2's two experts in one go.",
            search_aliases=[
                "smartdirector",
                "wan keyframes",
                "first last frame",
                "flf2v",
                "image to video",
                "two experts",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Wan 2.1 or 2.2; of Wan 2.2 14B the high-noise expert. LoRAs and fp8 stay. No default.",
                ),
                io.Conditioning.Input("positive", tooltip="Prompt of the whole video. No default."),
                io.Vae.Input("vae", tooltip="VAE of the model. No default."),
                TimelineSocket.Input("timeline", tooltip=_TIMELINE),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Seed of the noise; default 0. The same seed gives the same video.",
                ),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampler steps; default 20."),
                io.Float.Input(
                    "cfg",
                    default=5.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Classifier-free guidance scale; default 5. 1 leaves the negative out and costs half.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    default="euler",
                    tooltip="A deterministic core sampler; default euler. Ancestral and SDE samplers are refused.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="simple",
                    tooltip="Spacing of the noise levels; default simple. Shift is set on the model "
                    "(ModelSamplingSD3).",
                ),
                io.Combo.Input("method", options=METHODS, default=METHODS[0], advanced=True, tooltip=_METHOD),
                keyframes_input(),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="Negative prompt. Default: none, which needs cfg 1."
                ),
                io.Model.Input(
                    "model_low",
                    optional=True,
                    tooltip="Wan 2.2 14B's low-noise expert; keyframes stay clean in both. Default: one model does "
                    "all.",
                ),
                io.Float.Input(
                    "boundary",
                    default=0.875,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="Noise level, 0…1, below which model_low takes over; default 0.875 (text-to-video), 0.9 "
                    "for image-to-video.",
                ),
                io.Float.Input(
                    "cfg_low",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip="Guidance scale of model_low; default 0, which takes cfg.",
                ),
                io.Int.Input("width", default=0, min=0, max=8192, step=16, optional=True, tooltip=f"Width {_SIDE}"),
                io.Int.Input("height", default=0, min=0, max=8192, step=16, optional=True, tooltip=f"Height {_SIDE}"),
                io.Sigmas.Input(
                    "sigmas", optional=True, tooltip="Own noise levels, 1 … 0, in place of scheduler and steps."
                ),
                fit_input(),
            ],
            outputs=[
                io.Image.Output("images", tooltip="All frames of the video."),
                io.Latent.Output("latent", tooltip="The sampled latent, with its layout."),
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
        timeline: Any,
        positive: Any,
        keyframes: Any = None,
        negative: Any = None,
        model_low: Any = None,
        **widgets: Any,
    ) -> io.NodeOutput:
        from ..comfyui.video import VideoSampling, sample_video

        sampling = VideoSampling(**widgets)
        latent, images = sample_video(model, vae, timeline, positive, sampling, keyframes, negative, model_low)
        return io.NodeOutput(images, latent)


class MultiChunkDecode(io.ComfyNode):
    """The frames of a multi-chunk latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotMultiChunkDecode",
            display_name="Multi-Chunk Decode",
            category="Anchorshot/video",
            description="Decodes a latent of Multi-Chunk Model or Extend Video chunk by chunk, so that keyframes "
            "stay sharp. (VAE Decode would smear each chunk into the next.)",
            search_aliases=["vae decode", "decode video", "wan decode"],
            inputs=[
                io.Latent.Input("latent", tooltip="What a sampler made of a multi-chunk latent. No default."),
                io.Vae.Input("vae", tooltip="VAE of the model. No default."),
                TimelineSocket.Input(
                    "timeline",
                    optional=True,
                    tooltip="Of a latent that has lost its layout, as Save Latent and Load Latent lose it. Default: "
                    "none, the latent knows.",
                ),
                io.Combo.Input(
                    "method",
                    options=METHODS,
                    default=METHODS[0],
                    optional=True,
                    advanced=True,
                    tooltip="How keyframes entered such a latent; default multi_chunk.",
                ),
            ],
            outputs=[io.Image.Output("images", tooltip="The frames; after Extend Video the new ones only.")],
        )

    @classmethod
    @checked()
    def execute(cls, latent: Any, vae: Any, timeline: Any = None, method: str = METHODS[0]) -> io.NodeOutput:
        from ..comfyui.video import decode

        return io.NodeOutput(decode(vae, latent, timeline, method))


class RepinKeyframes(io.ComfyNode):
    """Clean keyframes back into a latent between two samplers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotRepinKeyframes",
            display_name="Re-pin Keyframes",
            category="Anchorshot/video",
            description="Puts the clean keyframes back between two samplers (Wan 2.2's two experts, a split "
            "schedule). They drift there if the first model is without Multi-Chunk Model's patch.",
            search_aliases=["high noise low noise", "two experts", "wan 2.2 14b", "keyframe drift"],
            inputs=[
                io.Latent.Input("latent", tooltip="What the first sampler gave. No default."),
                io.Latent.Input("clean", tooltip="The latent that the first sampler was given. No default."),
            ],
            outputs=[io.Latent.Output("latent_out", display_name="latent", tooltip="For the second sampler.")],
        )

    @classmethod
    @checked()
    def execute(cls, latent: Any, clean: Any) -> io.NodeOutput:
        from ..models.layouts.video_latents import repin

        return io.NodeOutput(repin(latent, clean))
