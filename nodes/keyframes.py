"""Keyframe stage: Captain Cinema's interleaved keyframes on a native image MODEL (§3.2)."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import torch
from comfy_api.latest import io, ui

from ..comfyui.checks import checked
from ..comfyui.images import only, to_image
from .sockets import Context, StoryboardSocket

__all__ = ["InterleavedKeyframeSampler"]


class InterleavedKeyframeSampler(io.ComfyNode):
    """New keyframes beside a memory of earlier ones; one prompt or a whole film's list of them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnchorshotInterleavedKeyframeSampler",
            display_name="Interleaved Keyframe Sampler",
            category="Anchorshot/keyframes",
            description="Samples keyframes that look back at earlier ones, so that characters and places stay "
            "themselves. Give it one prompt, or a list with one for each shot: every new frame is then remembered by "
            "the next.",
            search_aliases=["captain cinema", "consistent characters", "keyframe", "story images", "flux memory"],
            is_input_list=True,
            inputs=[
                io.Model.Input("model", tooltip="FLUX.1-class text-to-image model; LoRAs and fp8 stay. No default."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="One prompt for each keyframe (a list runs in order), or for each shot of a storyboard "
                    "whose keyframes have no texts of their own. No default.",
                ),
                io.Latent.Input(
                    "latent", tooltip="Empty latent with the size of one keyframe, batch 1, 16 channels. No default."
                ),
                io.Vae.Input("vae", tooltip="VAE of the model: decodes new frames and encodes them again as memory."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="Seed of the noise; keyframe k of a list takes seed + k. Default 0. With a storyboard it "
                    "counts takes: 0 is the first, the same that the command line makes.",
                ),
                io.Int.Input(
                    "steps", default=20, min=1, max=1000, tooltip="Sampler steps of each keyframe; default 20."
                ),
                io.Float.Input(
                    "cfg",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Classifier-free guidance scale; default 1, which leaves the negative out and costs "
                    "half. FLUX.1-dev has its own guidance (FluxGuidance).",
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
                    "(ModelSamplingFlux).",
                ),
                io.Combo.Input(
                    "attention",
                    options=["causal", "full"],
                    default="causal",
                    advanced=True,
                    tooltip="What frames see. causal (default): a frame sees those before it, and the memory is "
                    "computed once and kept. full: all see all, computed anew at every step.",
                ),
                io.Float.Input(
                    "context_noise",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Noise on remembered frames, 0…1; default 0.1. The paper's best range is 0.001 to 0.25 "
                    "(see context_noise_high); more forgets them.",
                ),
                io.Int.Input(
                    "window",
                    default=1,
                    min=1,
                    max=32,
                    advanced=True,
                    tooltip="Keyframes sampled together; default 1. More see each other while they are made (with "
                    "attention full all of them), and need memory for each.",
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="One negative prompt for all, or one for each. Default: empty."
                ),
                Context.Input(
                    "context",
                    optional=True,
                    tooltip="Memory from GoldenMem Context, or from another keyframe sampler. Default: none, nothing "
                    "is remembered.",
                ),
                StoryboardSocket.Input(
                    "storyboard",
                    optional=True,
                    tooltip="Gives every shot its number of keyframes, its seeds, its retrieval query and your own "
                    "pictures. Default: none, one keyframe for each prompt.",
                ),
                io.String.Input(
                    "queries",
                    default="",
                    optional=True,
                    force_input=True,
                    tooltip="What each keyframe shows, for the ranking; one for each prompt. Default: the "
                    "storyboard's, or the context's query.",
                ),
                io.Sigmas.Input(
                    "sigmas", optional=True, tooltip="Own noise levels, 1 … 0, in place of scheduler and steps."
                ),
                io.Float.Input(
                    "context_noise_high",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Above context_noise: each remembered frame has a noise of its own between the two, drawn "
                    "from the seed, as in the paper. Default 0: all have context_noise.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "images",
                    is_output_list=True,
                    tooltip="Keyframes in order: one batch for each prompt, with a storyboard for each shot.",
                ),
                io.Latent.Output("latents", is_output_list=True, tooltip="Their latents, in the same batches."),
                Context.Output("context_out", display_name="context", tooltip="The memory with the new frames."),
            ],
        )

    @classmethod
    @checked("positive", "negative", "queries")
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        from ..comfyui.keyframe_inputs import empty_latent, sampling_of, with_queries
        from ..comfyui.keyframes import make_keyframes, plan_keyframes

        single = {name: only(value) for name, value in inputs.items()}
        positive, negative = inputs["positive"], inputs.get("negative")
        sampling, latent = sampling_of(single), empty_latent(single["model"], single["latent"])
        size = latent.shape[-2] * 8, latent.shape[-1] * 8
        tasks = plan_keyframes(len(positive), single["seed"], single.get("storyboard"), size)
        tasks = with_queries(tasks, inputs.get("queries"), len(positive))
        frames, latents, memory = make_keyframes(tasks, positive, negative, latent, sampling, single.get("context"))
        groups = [[i for i, task in enumerate(tasks) if task.group == g] for g in range(tasks[-1].group + 1)]
        images = [to_image(torch.stack([frames[i] for i in group])) for group in groups]
        encoded = [{"samples": torch.cat([latents[i] for i in group])} for group in groups]
        return io.NodeOutput(images, encoded, memory, ui=ui.PreviewImage(torch.cat(images), cls=cls))
