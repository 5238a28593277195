"""Sampling runs of the native Flux adapter, as its tests share them."""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import torch
from in_comfyui import tiny
from in_comfyui.tiny import caption, latent

from anchorshot.memory.frame_memory import ContextFrame
from anchorshot.models.backbones.flux import native
from anchorshot.models.backbones.flux.native import sample_native
from anchorshot.models.layouts.pairs import PairSettings
from anchorshot.sampling.flow import flow_sigmas

SIGMAS = flow_sigmas(3)
SIZE = (8, 12)  # latent cells of a new frame
CONTEXT = [(4, 6), (8, 12), (2, 4)]  # of the context, most relevant first: three sizes


def context_of(sizes=CONTEXT, seed=50, config=tiny.FLUX) -> list[ContextFrame]:
    return [
        ContextFrame(latent(seed + i, h, w), caption(seed + i, 4 + i % 2, config)) for i, (h, w) in enumerate(sizes)
    ]


def run(model, prompts=(1,), context=None, rows=1, config=tiny.FLUX, sigmas=SIGMAS, **kwargs):
    """Sample new frames of `SIZE`, one per seed in `prompts`."""
    settings = kwargs.pop("settings", PairSettings())
    return sample_native(
        model,
        [caption(seed, config=config) for seed in prompts],
        [torch.zeros(rows, 16, *SIZE)] * len(prompts),
        context_of(config=config) if context is None else context,
        kwargs.pop("negative", None),
        settings,
        sigmas=sigmas,
        seed=7,
        disable_pbar=True,
        **kwargs,
    )


def stock_run(model, cfg=1.0, rows=1):
    """One frame by core's own means."""
    samples = torch.zeros(rows, 16, *SIZE)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(caption(1), caption(2))
    guider.set_cfg(cfg)
    sampler = comfy.samplers.sampler_object("euler")
    noise = comfy.sample.prepare_noise(samples, 7)
    return guider.sample(noise, samples, sampler, SIGMAS, disable_pbar=True, seed=7)


def core_sample(graph, sampler="euler", sigmas=SIGMAS, noise=None, samples=None, cfg=1.0, seed=7):
    """What SamplerCustomAdvanced does with the four outputs."""
    guider = comfy.samplers.CFGGuider(graph.model)
    guider.set_conds(graph.positive, graph.negative)
    guider.set_cfg(cfg)
    samples = graph.latent["samples"] if samples is None else samples
    noise = comfy.sample.prepare_noise(samples, seed) if noise is None else noise
    mask = graph.latent.get("noise_mask")
    out = guider.sample(
        noise, samples, comfy.samplers.sampler_object(sampler), sigmas.clone(), mask, disable_pbar=True, seed=seed
    )
    return native.frames_of(out)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def worst(a, b) -> float:
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


def lora_of(model, seed=3):
    """A LoRA on a double-stream and a single-stream block, in ComfyUI's key names."""
    g = torch.Generator().manual_seed(seed)
    state = {}
    for name in ("double_blocks.0.img_attn.qkv", "single_blocks.1.linear1"):
        out, width = model.model.diffusion_model.get_submodule(name).weight.shape
        state[f"diffusion_model.{name}.lora_A.weight"] = torch.randn(4, width, generator=g) * 0.2
        state[f"diffusion_model.{name}.lora_B.weight"] = torch.randn(out, 4, generator=g) * 0.2
    return state
