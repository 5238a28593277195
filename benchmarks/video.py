"""Video: our sampler against the stock diffusers pipeline at equal tokens, and what keyframes cost at full size."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from ..evaluation.metrics.cost import Call, peak_bytes, seconds, unit
from ..models.backbones.wan.cost import WAN, wan_cost
from ..models.backbones.wan.headless import DirectorWan
from ..models.backbones.wan.vae import VideoVAE
from ..pocket import configs
from ..sampling.flow import flow_sigmas
from ..sampling.video import VideoSettings, denoise, plan_video, sample_video
from ..story.timeline import Timeline
from .stock import wan_pipeline
from .table import Row, row

if TYPE_CHECKING:
    from ..models.studio import Studio

__all__ = ["run_video"]

FPS, SECONDS, KEYED_SECONDS = 8, 3.125, 2.125
KEYFRAMES = (0.0, 1.0, 2.0)
LATENT = (10, 20)
"""Height and width of a latent frame: 80×160 px with a VAE of factor 8."""
STEPS, SHIFT, TEXT = 4, 5.0, 64


def run_video(studio: Studio | None = None, repeats: int = 15) -> list[Row]:
    """Compare with WanPipeline on one set of weights, and count FLOPs of Wan 2.2 with keyframes.

    Args:
        studio: whose video model to time; None makes a random one of the pocket studio's architecture.
        repeats: timed rounds.

    Returns:
        Rows of what, ours, reference, ratio. Two comparisons: without keyframes, where both sides compute the same;
        and with three keyframes, where ours has a timestep per latent frame and pins the given latents.
    """
    model: Any
    model, vae = _random_models() if studio is None else (studio.video, studio.video_vae)
    pipeline = wan_pipeline(model, SHIFT)
    device = model.device
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(1, TEXT, model.config.text_dim, generator=generator).to(device, model.dtype)
    free = Timeline.plan(FPS, SECONDS, ())
    keyed = Timeline.plan(FPS, KEYED_SECONDS, KEYFRAMES)

    def stock(latents: int) -> Tensor:
        out = pipeline(
            prompt_embeds=text,
            height=8 * LATENT[0],  # a pipeline without VAE takes its factor to be 8
            width=8 * LATENT[1],
            num_frames=4 * (latents - 1) + 1,
            num_inference_steps=STEPS,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
            return_dict=False,
        )
        return out[0]

    size = (LATENT[0] * vae.spatial_compression, LATENT[1] * vae.spatial_compression)

    def ours_free() -> Tensor:
        seed = torch.Generator().manual_seed(0)
        return sample_video(
            model, vae, text, free, size=size, settings=VideoSettings(steps=STEPS, shift=SHIFT), generator=seed
        )

    given = torch.randn(1, vae.latent_channels, len(KEYFRAMES), *LATENT, generator=generator).to(device)
    plan, sigmas = plan_video(keyed), flow_sigmas(STEPS, SHIFT)

    def ours_keyed() -> Tensor:
        return denoise(model, text, plan, given, sigmas, generator=torch.Generator().manual_seed(0))

    rows: list[Row] = []
    for name, ours, latents in (
        ("no keyframes", ours_free, free.latents),
        (f"{len(KEYFRAMES)} keyframes", ours_keyed, keyed.latents),
    ):
        label = f"{name}, {latents} latent frames, {STEPS} steps; reference: WanPipeline at equal tokens"
        calls: dict[str, Call] = {"ours": ours, "stock": functools.partial(stock, latents)}
        taken = seconds(calls, repeats, device=device)
        rows.append(row(f"{unit(device)}, {label}", taken["ours"], taken["stock"]))
        peaks = {key: peak_bytes(call, device) / 2**20 for key, call in calls.items()}
        rows.append(row(f"peak MiB above the weights, {label}", peaks["ours"], peaks["stock"]))
    return rows + _flops_rows()


def _flops_rows() -> list[Row]:
    """Count what keyframes add to a step of Wan 2.2 A14B at 480×832 and 81 frames: one latent frame per chunk."""
    config = WAN["wan2.2-t2v-a14b"]
    reference = wan_cost(config, (21, 60, 104)).flops / 1e12
    rows = []
    for count in (1, 2, 3, 5):
        timeline = Timeline.plan(16, 81 / 16, [5.0 * k / count for k in range(count)])
        cost = wan_cost(config, (timeline.latents, 60, 104), timesteps=timeline.latents)
        keys = f"{count} keyframe{'s' if count > 1 else ''}"
        what = f"TFLOP a step, Wan 2.2 A14B, {timeline.frames} frames at 480×832, {keys}; reference: 81 without"
        rows.append(row(what, cost.flops / 1e12, reference))
    return rows


def _random_models() -> tuple[DirectorWan, VideoVAE]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DirectorWan(**configs.VIDEO).eval(), VideoVAE(AutoencoderKLWan(**configs.VAE))
