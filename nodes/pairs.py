"""Start and end frames of shots: STAGE's memory pack and pair predictor on native Qwen-Image MODELs (§4.1)."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io, ui

from ..comfyui.checks import checked
from ..comfyui.images import only, to_image
from .sockets import Context, StoryboardSocket, TimelineSocket

__all__ = ["MemoryPackNode", "PairsToTimeline", "StartEndPairPredictor"]


class MemoryPackNode(io.ComfyNode):
    """Earlier frames as STAGE remembers them: ranked, all together about as large as one frame."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotMemoryPack",
            display_name="Memory Pack",
            category="Anchorshot/pairs",
            description="Remembers the start and end frames of all earlier shots in the space of about one frame: "
            "the most relevant gets half of it, the next a quarter, and so on. Draws the pack and counts its tokens.",
            search_aliases=["stage", "memory", "multi-shot", "consistency", "storyboard", "character reference"],
            is_input_list=True,
            has_intermediate_output=True,
            inputs=[
                io.Vae.Input("vae", tooltip="VAE of the model that will look at the frames. No default."),
                io.Autogrow.Input(
                    "frames",
                    template=io.Autogrow.TemplatePrefix(
                        io.Image.Input(
                            "frame",
                            tooltip="Frames of earlier shots, oldest first: one picture, a batch or a list, all of "
                            "one size in multiples of 16 pixels.",
                        ),
                        prefix="frame_",
                        min=0,
                        max=48,
                    ),
                    tooltip="Frames of earlier shots, oldest first; the last one is the end frame before the next "
                    "shot. Default: none, the predictor fills the memory as it goes.",
                ),
                io.Combo.Input(
                    "rank_by",
                    options=["clip", "image", "recency"],
                    default="clip",
                    tooltip="How frames are ranked. clip (default): the shot's text to the frames, needs clip_vision. "
                    "image: likeness to the previous end frame, needs clip_vision. recency: the newest first.",
                ),
                io.Combo.Input(
                    "packing",
                    options=["canvas", "references"],
                    default="canvas",
                    tooltip="canvas (default, the paper's): all frames on one picture of a frame's size, which holds "
                    "about log2(tokens) of them. references (as published): each frame a reference image of its own, "
                    "at full size.",
                ),
                io.Boolean.Input(
                    "pyramid",
                    default=False,
                    tooltip="References only: from the third on each has half the width and height of the one before. "
                    "Default off: all at full size, so time and memory grow with the film.",
                ),
                io.Combo.Input(
                    "aspect",
                    options=["squeeze", "fit"],
                    default="squeeze",
                    advanced=True,
                    tooltip="Canvas only: squeeze (default) fills each tile with its frame; fit keeps the frame's "
                    "aspect and leaves the rest of the tile out.",
                ),
                io.Combo.Input(
                    "level",
                    options=["latent", "pixel"],
                    default="latent",
                    advanced=True,
                    tooltip="Where frames are shrunk. latent (default, the paper's): after the VAE. pixel: before it, "
                    "sharper, one encoding for each size.",
                ),
                io.Int.Input(
                    "limit",
                    default=0,
                    min=0,
                    max=1024,
                    advanced=True,
                    tooltip="Frames remembered at most. Default 0: as many as have room.",
                ),
                io.Float.Input(
                    "area",
                    default=1.0,
                    min=0.05,
                    max=1.0,
                    step=0.05,
                    advanced=True,
                    tooltip="Size of the canvas, or of a full reference, as a share of a frame's area; default 1. "
                    "Less is faster and remembers less detail.",
                ),
                io.String.Input(
                    "query",
                    default="",
                    multiline=True,
                    dynamic_prompts=False,
                    optional=True,
                    tooltip="What the next shot shows, with looks in the place of names, for the picture and where "
                    "the predictor gets no queries. Default: empty.",
                ),
                io.ClipVision.Input(
                    "clip_vision", optional=True, tooltip="Sees the frames, for clip and image ranking. Default: none."
                ),
                io.Clip.Input(
                    "retrieval_clip",
                    optional=True,
                    tooltip="The text half of clip_vision's CLIP, with its projection, for clip ranking. "
                    "Default: none.",
                ),
            ],
            outputs=[
                Context.Output("context", tooltip="The memory, for the Start-End Pair Predictor."),
                io.Image.Output("layout", tooltip="Picture of the pack, drawn to scale."),
                io.Int.Output("tokens", tooltip="Image tokens that the remembered frames take."),
            ],
        )

    @classmethod
    @checked()
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        from ..comfyui.memory_pack import memory_picture, pack_of, pack_tokens

        memory = pack_of(**inputs)
        picture = memory_picture(memory)
        return io.NodeOutput(memory, picture, pack_tokens(memory), ui=ui.PreviewImage(picture, cls=cls))


class StartEndPairPredictor(io.ComfyNode):
    """The first and the last frame of every shot, denoised together beside a memory of the shots before."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotStartEndPairPredictor",
            display_name="Start-End Pair Predictor",
            category="Anchorshot/pairs",
            description="Makes the start and the end frame of every shot together, so that what changes within the "
            "shot is planned, and looks back at earlier shots. The text encoder also sees the end frame before. Give "
            "it a storyboard, or one prompt for each shot.",
            search_aliases=["stage", "first last frame", "flf2v", "start end frame", "storyboard", "qwen edit shots"],
            is_input_list=True,
            has_intermediate_output=True,
            inputs=[
                io.Model.Input(
                    "model", tooltip="Qwen-Image-Edit (2509, 2511) class model; LoRAs and fp8 stay. No default."
                ),
                io.Clip.Input("clip", tooltip="Its Qwen2.5-VL text encoder (type qwen_image). No default."),
                io.Vae.Input("vae", tooltip="VAE of the model: decodes new frames and encodes them again as memory."),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=8192,
                    step=16,
                    tooltip="Width of the frames in pixels, a multiple of 16; of 32 is best. Default 0: the "
                    "storyboard's, or that of the remembered or given frames.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=8192,
                    step=16,
                    tooltip="Height of the frames in pixels. Default 0: as width.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Seed of the noise; shot k of a list takes seed + k. Default 0. With a storyboard it "
                    "counts takes: 0 is the first, the same that the command line makes.",
                ),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampler steps of each pair; default 20."),
                io.Float.Input(
                    "cfg",
                    default=4.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Classifier-free guidance scale; default 4. 1 leaves the negative out and costs half.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    default="euler",
                    tooltip="Any core sampler; default euler.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="simple",
                    tooltip="Spacing of the noise levels; default simple. Shift is set on the model "
                    "(ModelSamplingAuraFlow; 2.2 for STAGE's published weights).",
                ),
                io.Combo.Input(
                    "layout",
                    options=["stacked", "sequence"],
                    default="stacked",
                    advanced=True,
                    tooltip="Where the end frame stands for the model. stacked (default, as published): below the "
                    "start frame, in one picture. sequence: behind it, as the next frame.",
                ),
                io.Boolean.Input(
                    "match_cut",
                    default=False,
                    tooltip="Every shot starts with the end frame of the one before. Default off: a storyboard says "
                    "for which shots.",
                ),
                io.Combo.Input(
                    "reference_timestep",
                    options=["auto", "zero", "shared"],
                    default="auto",
                    advanced=True,
                    tooltip="How remembered and given frames are presented. zero: as clean (Edit-2511). shared: at "
                    "the noise level of the new ones (Edit-2509). auto (default): as the model's file says. A setting "
                    "of FluxKontextMultiReferenceLatentMethod has no effect here.",
                ),
                io.Boolean.Input(
                    "rescale",
                    default=True,
                    advanced=True,
                    tooltip="Bring the guided prediction to the strength of the unguided one, token by token. "
                    "Default on, as published.",
                ),
                StoryboardSocket.Input(
                    "storyboard",
                    optional=True,
                    tooltip="Gives every shot its prompt, query, seed, match cut and your own pictures at its first "
                    "and last frame. Default: none, prompts are needed.",
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    optional=True,
                    force_input=True,
                    tooltip="What each shot shows and how it is filmed, one text for each shot. Default: the "
                    "storyboard's, in which everybody's looks are told.",
                ),
                io.String.Input(
                    "queries",
                    default="",
                    optional=True,
                    force_input=True,
                    tooltip="What each shot shows, with looks in the place of names, for the ranking. Default: the "
                    "storyboard's, else the prompts.",
                ),
                io.String.Input(
                    "negative",
                    default=" ",
                    optional=True,
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="What guidance leads away from; default one blank, as published. The encoder sees the "
                    "same picture with it.",
                ),
                Context.Input(
                    "context",
                    optional=True,
                    tooltip="Memory from a Memory Pack, or from another predictor. Default: none, shots remember "
                    "nothing but the end frame before.",
                ),
                io.Image.Input(
                    "start_frames",
                    optional=True,
                    tooltip="Your own start frames, one for each shot or for the first ones. Default: none, all are "
                    "made.",
                ),
                io.Image.Input(
                    "end_frames",
                    optional=True,
                    tooltip="Your own end frames, one for each shot or for the first ones. Default: none.",
                ),
                io.Sigmas.Input(
                    "sigmas", optional=True, tooltip="Own noise levels, 1 … 0, in place of scheduler and steps."
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="Prompts that are encoded already, one for each shot, in place of prompts. The encoder "
                    "then does not see the frame before. Default: none.",
                ),
                io.String.Input(
                    "system_prompt",
                    default="",
                    optional=True,
                    multiline=True,
                    dynamic_prompts=False,
                    advanced=True,
                    tooltip="What the text encoder is told to do. Default: empty, the model's own (Qwen-Image-Edit's). "
                    "STAGE's published weights want the authors' text, which is in their repository.",
                ),
                io.Int.Input(
                    "drop_tokens",
                    default=-1,
                    min=-1,
                    max=4096,
                    optional=True,
                    advanced=True,
                    tooltip="States of the text encoder that are dropped at the front. Default -1: those before your "
                    "words. STAGE's published weights want 64, whatever the system prompt.",
                ),
                io.String.Input(
                    "template",
                    default="",
                    optional=True,
                    multiline=True,
                    dynamic_prompts=False,
                    advanced=True,
                    tooltip="What the text encoder reads of a storyboard's shot: {text}, and for models trained with "
                    "them {seconds} and {frames}. Default: empty, as the text encoder's file says, else {text}.",
                ),
                io.Float.Input(
                    "last_level",
                    default=0.0,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Noise level of the last step, to which the scheduler's levels are stretched; 0.02 in "
                    "Qwen-Image's and STAGE's own programs. Default 0: the scheduler's.",
                ),
                io.Combo.Input(
                    "guidance_against",
                    options=["text", "memory", "both"],
                    default="text",
                    optional=True,
                    advanced=True,
                    tooltip="What the branch lacks that guidance leads away from. text (default, as published): the "
                    "negative stands in its place. memory: the same text, but nothing is remembered, so characters "
                    "come back more alike; the negative is not read; try cfg 2 with rescale off. both: neither.",
                ),
            ],
            outputs=[
                io.Image.Output("starts", is_output_list=True, tooltip="Start frame of every shot, in order."),
                io.Image.Output("ends", is_output_list=True, tooltip="End frame of every shot, in order."),
                Context.Output("context_out", display_name="context", tooltip="The memory with the new frames."),
                io.Image.Output("layout", display_name="pack", tooltip="Picture of what the last shot remembered."),
                io.Int.Output("tokens", tooltip="Image tokens of what the last shot remembered."),
            ],
        )

    @classmethod
    @checked("prompts", "queries", "positive", "start_frames", "end_frames")
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        from ..comfyui.pair_inputs import predict

        single = {name: only(value) for name, value in inputs.items()}
        made = predict(inputs, single)
        starts, ends = ([to_image(frame[None]) for frame in frames] for frames in (made.starts, made.ends))
        shown = ui.PreviewImage(made.frames, cls=cls)
        return io.NodeOutput(starts, ends, made.memory, made.layout, made.tokens, ui=shown)


class PairsToTimeline(io.ComfyNode):
    """A shot's two frames as the first and last keyframe of its video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotPairsToTimeline",
            display_name="Pairs to Timeline",
            category="Anchorshot/pairs",
            description="Puts a shot's start and end frame at the first and last frame of its timeline, for the "
            "Multi-Chunk Video Sampler or for core's first-last-frame nodes. Lists run shot by shot.",
            search_aliases=["stage", "first last frame", "flf2v", "start end frame", "keyframes"],
            inputs=[
                io.Image.Input("start", tooltip="Start frame of the shot. No default."),
                io.Image.Input("end", tooltip="End frame of the shot. No default."),
                TimelineSocket.Input(
                    "timeline",
                    tooltip="Length of the shot, from Storyboard, Shot or Keyframe Timeline; its keyframes do not "
                    "count. No default.",
                ),
            ],
            outputs=[
                TimelineSocket.Output("timeline_out", display_name="timeline", tooltip="With two keyframes."),
                io.Image.Output("keyframes", tooltip="Start and end as one batch, for the timeline's keyframes."),
                io.Image.Output("start_out", display_name="start", tooltip="The start frame, for core nodes."),
                io.Image.Output("end_out", display_name="end", tooltip="The end frame, for core nodes."),
                io.Int.Output("frames", tooltip="Length of the shot in frames, 4n+1, for core nodes."),
                io.Float.Output("fps", tooltip="Frames per second."),
            ],
        )

    @classmethod
    @checked()
    def execute(cls, start: Any, end: Any, timeline: Any) -> io.NodeOutput:
        from ..comfyui.pair_inputs import timeline_outputs

        return io.NodeOutput(*timeline_outputs(start, end, timeline))
