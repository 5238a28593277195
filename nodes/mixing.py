"""Prompt mixing: Text2Story's prompt weighting (DIPW) and blending between segments (TWB, SAR), on any video MODEL."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..comfyui.checks import checked
from .mixing_sar import SAR

__all__ = ["DIPWGuider", "DIPWModelPatch", "DIPWWeights", "SAR", "TWBBlend"]

PROGRESS_SHIFT, PROGRESS_CLOCK = 300.0, "noise"
"""As `sampling.text2story.prompt_mixing.DIPW` has them, whose import would cost torch."""

_MODEL = "Any video model with text (Wan, Mochi, …). No default."
_WORDS = "in plain words, for the CLIP pair. Default: empty, which is right only without a CLIP pair."


def _weighting() -> list[io.Input]:
    """How both prompts are weighted: inputs of the guider and of the patch."""
    kinds = {"picture": "what the foreseen picture shows", "previous": "what was used in the step before",
             "progress": "how far the run is: scene first, action later"}  # fmt: skip
    return [
        *[
            io.Float.Input(
                f"lambda_{kind}",
                default=1.0,
                min=0.0,
                max=100.0,
                step=0.05,
                tooltip=f"How much {what} counts, a factor; default 1 as in the paper. 0 leaves it out.",
            )
            for kind, what in kinds.items()
        ],
        io.Float.Input(
            "temperature",
            default=0.5,
            min=0.01,
            max=100.0,
            step=0.01,
            tooltip="Temperature of the weights' softmax; default 0.5 as in the paper. Lower decides more sharply.",
        ),
        io.Int.Input(
            "score_every",
            default=4,
            min=1,
            max=1000,
            tooltip="Look at the foreseen picture every so many steps; default 4. 1 is the paper's, and slower.",
        ),
        io.Float.Input(
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            advanced=True,
            tooltip="Share of the noise schedule, 0…1, before which no picture is scored; default 0.",
        ),
        io.Float.Input(
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            advanced=True,
            tooltip="Share of the noise schedule, 0…1, after which the last score stays; default 1.",
        ),
        io.Combo.Input(
            "preview",
            options=["latent_rgb", "decoded_frame", "decoded_video"],
            default="latent_rgb",
            tooltip="Picture that is scored. latent_rgb (default): latent channels mapped to colours, nearly free. "
            "decoded_frame: the middle latent frame through the VAE; sharper and slower. decoded_video: its middle "
            "frame once all are decoded, as in the paper; much slower.",
        ),
        io.String.Input(
            "scene_text", default="", multiline=True, dynamic_prompts=False, tooltip=f"The scene prompt {_WORDS}"
        ),
        io.String.Input(
            "action_text", default="", multiline=True, dynamic_prompts=False, tooltip=f"The action prompt {_WORDS}"
        ),
        io.Clip.Input(
            "clip",
            optional=True,
            tooltip="Text half of a CLIP pair, with its projection. Default: none, and pictures are not scored.",
        ),
        io.ClipVision.Input(
            "clip_vision",
            optional=True,
            tooltip="Picture half of the CLIP pair; stays loaded beside the model. Default: none, and pictures are "
            "not scored.",
        ),
        io.Vae.Input(
            "vae",
            optional=True,
            tooltip="The model's VAE: for decoded_frame and decoded_video, and for latent_rgb where a model has no "
            "published colours. Default: none.",
        ),
        io.Float.Input(
            "progress_shift",
            optional=True,  # saved workflows lack it
            default=PROGRESS_SHIFT,
            min=0.05,
            max=1000.0,
            step=0.05,
            tooltip="When the action takes over, a factor; default 300, and 1 with the clock steps is the paper's. "
            "Higher is sooner: poses and motion follow the action better. Lower is later: the scene counts more.",
        ),
        io.Sigmas.Input(
            "schedule",
            optional=True,
            tooltip="The whole schedule, where two samplers share it: progress then counts its steps. Default: none, "
            "and progress is told by the noise level, which is the same for simple and beta. The clock noise needs "
            "none.",
        ),
        io.Combo.Input(
            "progress_clock",
            optional=True,  # saved workflows lack it, and are given steps by web/js/mixing.js
            options=["noise", "steps"],
            default=PROGRESS_CLOCK,
            tooltip="What progress goes by. noise (default): the noise that is gone, which is the same moment of the "
            "picture in every schedule. steps: the steps that are done, as in the paper.",
        ),
    ]


class DIPWGuider(io.ComfyNode):
    """A GUIDER that weights a scene and an action prompt anew at every step."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotDIPWGuider",
            display_name="DIPW Guider",
            category="Anchorshot/prompt mixing",
            description="Weights a scene and an action prompt anew at every step, by what the picture already shows "
            "(Text2Story). For SamplerCustomAdvanced, on any video model.",
            search_aliases=["text2story", "prompt weighting", "prompt mixer", "dynamics", "cfg guider", "story"],
            inputs=[
                io.Model.Input("model", tooltip=_MODEL),
                io.Conditioning.Input("scene", tooltip="Prompt of the place and who is there. No default."),
                io.Conditioning.Input("action", tooltip="Prompt of what happens. No default."),
                io.Conditioning.Input("negative", tooltip="Negative prompt. No default."),
                io.Float.Input(
                    "cfg",
                    default=4.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Classifier-free guidance scale; default 4.5, the paper's with Mochi. 1 leaves the "
                    "negative out and costs half.",
                ),
                *_weighting(),
            ],
            outputs=[io.Guider.Output("guider", tooltip="For SamplerCustomAdvanced, and for DIPW Weights.")],
        )

    @classmethod
    @checked()
    def execute(cls, model: Any, scene: Any, action: Any, negative: Any, cfg: float, **weighting: Any) -> io.NodeOutput:
        from ..comfyui.mixing import mixing_guider
        from ..comfyui.mixing_weighting import Weighting

        return io.NodeOutput(mixing_guider(model, scene, action, negative, cfg, Weighting(**weighting)))


class DIPWModelPatch(io.ComfyNode):
    """The same on a MODEL, for any sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotDIPWModelPatch",
            display_name="DIPW Model Patch",
            category="Anchorshot/prompt mixing",
            description="The same as DIPW Guider on the model itself, so that KSampler and any other sampler weights "
            "both prompts: give the sampler the scene as its positive prompt.",
            search_aliases=["text2story", "prompt weighting", "prompt mixing", "ksampler", "story"],
            inputs=[
                io.Model.Input("model", tooltip=_MODEL),
                io.Conditioning.Input(
                    "action", tooltip="Prompt of what happens; the sampler's positive is the scene. No default."
                ),
                *_weighting(),
            ],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="Mixes the action into the positive.")],
        )

    @classmethod
    @checked()
    def execute(cls, model: Any, action: Any, **weighting: Any) -> io.NodeOutput:
        from ..comfyui.mixing import mixing_patch
        from ..comfyui.mixing_weighting import Weighting

        return io.NodeOutput(mixing_patch(model, action, Weighting(**weighting)))


class TWBBlend(io.ComfyNode):
    """A MODEL that starts a segment where the one before it ended."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotTWBBlend",
            display_name="TWB Blend",
            category="Anchorshot/prompt mixing",
            description="Draws the first latent frame of what is sampled towards the previous segment, so that "
            "segments flow into each other (Text2Story's time-weighted blending). For any sampler and video model.",
            search_aliases=["text2story", "blend segments", "video continuity", "latent blend", "extend video"],
            inputs=[
                io.Model.Input("model", tooltip="Any video model; DIPW may come before or after. No default."),
                io.Float.Input(
                    "gamma",
                    default=0.25,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    tooltip="Strength γ, 0…0.5; default 0.25. 0 changes nothing, 0.5 replaces the frame. SAR sets it.",
                ),
                io.Combo.Input(
                    "when",
                    options=["every_step", "initial_noise"],
                    default="every_step",
                    tooltip="every_step (default): on the clean latents foreseen at each step. initial_noise: once, on "
                    "the noise that sampling starts from; does nothing in a sampler that adds none.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the noise schedule, 0…1, after which frames are left alone; default 1, to the "
                    "end. Lower lets the model finish the joint.",
                ),
                io.Combo.Input(
                    "end",
                    options=["first", "last"],
                    default="first",
                    advanced=True,
                    tooltip="Which frame is drawn. first (default): towards the segment before, as in the paper. "
                    "last: towards the segment after.",
                ),
                io.Float.Input(
                    "decay",
                    default=0.9,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Weight of a neighbour's frame over the one nearer to the joint, 0…1; default 0.9 as in "
                    "the paper. Lower looks at the last frames only.",
                ),
                io.Latent.Input(
                    "previous",
                    optional=True,
                    tooltip="Sampled latent of the previous segment, of the same width and height. Default: none, for "
                    "the first segment; nothing changes then.",
                ),
            ],
            outputs=[io.Model.Output("model_out", display_name="model", tooltip="For this segment only.")],
        )

    @classmethod
    @checked()
    def execute(cls, model: Any, gamma: float, previous: Any = None, **settings: Any) -> io.NodeOutput:
        from ..comfyui.mixing import blending_patch

        return io.NodeOutput(blending_patch(model, previous, gamma, **settings))


class DIPWWeights(io.ComfyNode):
    """The weights of a run as a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotDIPWWeights",
            display_name="DIPW Weights",
            category="Anchorshot/prompt mixing",
            description="Draws how much scene and action counted at every step of the run that made a latent.",
            search_aliases=["text2story", "weight curve", "prompt weights", "plot", "chart"],
            has_intermediate_output=True,
            inputs=[
                io.MultiType.Input(
                    "mixed",
                    types=[io.Guider, io.Model],
                    tooltip="Guider of DIPW Guider, or model of DIPW Model Patch. No default.",
                ),
                io.Latent.Input("latent", tooltip="What the sampler made with it. No default."),
            ],
            outputs=[io.Image.Output("curve", tooltip="Weights of scene and action over the steps, 0…1.")],
        )

    @classmethod
    @checked()
    def execute(cls, mixed: Any, latent: Any) -> io.NodeOutput:
        from ..comfyui.mixing import weight_curve

        picture = weight_curve(mixed, latent)
        return io.NodeOutput(picture, ui=ui.PreviewImage(picture, cls=cls))
