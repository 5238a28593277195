"""SmartDirector's Director-SR (§3.3) on ComfyUI's own Wan models: 2.2 5B, for which it was published, and 2.1's class.

What runs is Director-Gen's layout (`native`): the same clone of the MODEL, the same pinned keyframes, core's samplers.
Only the start is another one. Eq. 5 is a bridge without noise, z_t = (1 − t) z_HR + t z_LR, so the upsampled latent of
the small video is handed to core in the place of the noise, in the network's own scale. Core's flow sampling multiplies
it by σ = 1 and adds nothing.
"""

from __future__ import annotations

from typing import Any

import comfy.sample
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....core.errors import InputError
from ...layouts.chunks import VideoPlan
from ...layouts.neighbourhood import neighbourhood
from ...layouts.video_latents import lay_out
from ..native_adapter import Callback, Conditioning, NativeUpscale
from .native import _takes_images, patch_model, sample_native

__all__ = ["UPSCALE", "upscale_native"]


def upscale_native(
    model: ModelPatcher,
    positive: Conditioning,
    plan: VideoPlan,
    z_lr: Tensor,
    clean_latents: Tensor,
    sigmas: Tensor,
    *,
    start_noise: float = 0.0,
    near: int | None = None,
    sampler: Any = "euler",
    seed: int = 0,
    callback: Callback | None = None,
    disable_pbar: bool = False,
) -> Tensor:
    """Sample high-resolution latents from the upsampled latents of a small video, through ComfyUI's own sampling.

    Args:
        model: Wan 2.2 5B, or a text-to-video model of Wan 2.1's class, with LoRAs, fp8, GGUF as it is.
        positive: what the video shows. There is no guidance.
        plan: the layout in latent time.
        z_lr: `[B, C, F, h, w]`, latents of the small video, upsampled to the large one's size; as core's VAEs give
            them, before the MODEL's `process_latent_in`.
        clean_latents: `[B, C, K, h, w]`, latents of the large keyframes at `plan.pinned`; they keep every bit.
        sigmas: noise levels, falling to 0. From 1: the bridge. From below 1: what models do that were not trained for
            it (ours, not the paper's), z_LR with as much noise as the first level says, and denoised.
        start_noise: standard deviation of noise added to z_LR where the bridge starts, in the network's scale; 0 in
            the paper.
        near: latent frames that each attends to on both sides, besides all keyframes; None: all.
        sampler: a deterministic sampler's name, or a SAMPLER.
        seed: of the noise, where there is any.
        callback: as in `sample_native`.

    Returns:
        `[B, C, F, h, w]` fp32 on the CPU.

    Raises:
        InputError: an image-to-video model, a sampler that adds noise, latents that do not fit the plan.
    """
    if _takes_images(model):
        fix = "load Wan 2.2 5B, or a text-to-video model"
        raise InputError("model", "must upscale from latents alone", "an image-to-video model", fix)
    if z_lr.ndim != 5 or z_lr.shape[2] != plan.latents:
        rule = f"must have {plan.latents} latent frames, as the layout"
        raise InputError("latent", rule, list(z_lr.shape), "give the latent that was laid out so")
    latent = lay_out(plan, clean_latents)
    noise = None
    if float(sigmas[0]) >= 1:
        noise = model.model.process_latent_in(z_lr.float())
        if start_noise:
            noise = noise + start_noise * comfy.sample.prepare_noise(z_lr, seed)
    else:
        samples = z_lr.float().clone()
        samples[:, :, plan.pinned] = latent["samples"][:, :, plan.pinned].to(samples)
        latent["samples"] = samples
    out: Tensor = sample_native(
        patch_model(model, plan, near=neighbourhood(plan, near)),
        positive,
        positive,
        latent,
        sigmas,
        sampler=sampler,
        seed=seed,
        noise=noise,
        callback=callback,
        disable_pbar=disable_pbar,
    )["samples"].float().cpu()  # fmt: skip
    out = out.clone()
    # On their way through the MODEL's scale and back they were rounded.
    out[:, :, plan.pinned] = clean_latents.to(out)
    return out


class _Upscale:
    """How the upscaling node uses a Wan MODEL."""

    sample = staticmethod(torch.no_grad()(upscale_native))


UPSCALE: NativeUpscale = _Upscale()
