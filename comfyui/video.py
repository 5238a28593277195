"""From the video nodes' inputs to the native adapter's calls, with progress and errors for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.samplers
from torch import Tensor

from ..core.errors import InputError
from ..models.backbones.native_fit import text_width
from ..models.backbones.native_models import video_on
from ..models.backbones.native_solvers import adds_noise
from ..models.layouts.chunks import Experts, plan_video
from ..models.layouts.video_latents import (
    NATIVE_SIZE,
    PLAN,
    ChunkVAE,
    MultiChunkVideo,
    decode_frames,
    multi_chunk_video,
)
from ..story.timeline import Timeline
from .fits import fit_prompt, fit_sigmas, fit_vae, sampled, video_latent
from .host import Progress, memory_errors, tell
from .images import fitted

__all__ = [
    "VideoSampling",
    "check_rate",
    "decode",
    "build_latent",
    "chunk_vae",
    "patch_video",
    "sample_video",
    "sampler_fault",
]

_FIX = "make the video shorter or smaller, or load the model in fp8"


def chunk_vae(vae: Any) -> ChunkVAE:
    """A VAE that encodes and decodes chunk by chunk; ComfyUI's interrupt stops it between two chunks."""
    return ChunkVAE(vae, comfy.model_management.throw_exception_if_processing_interrupted)


def patch_video(model: Any, video: MultiChunkVideo) -> Any:
    """A clone of the MODEL that samples this video's layout, with any sampler.

    Raises:
        InputError: a MODEL that cannot.
    """
    return video_on(model).patch(model, video)


def build_latent(
    vae: Any, timeline: Timeline, keyframes: Any, method: Any, width: int = 0, height: int = 0, fit: str = "cover"
) -> MultiChunkVideo:
    """`multi_chunk_video` for a node: `keyframes` may be missing, a size of 0 is the keyframes' own.

    Raises:
        InputError: one side without the other, or sides that make no whole tokens; and as `multi_chunk_video`.
    """
    chunks = chunk_vae(vae)
    if bool(width) != bool(height) or not (timeline.keyframes or keyframes is not None or width):
        missing = "height" if width else "width"
        rule = "is needed with the other side" if width or height else "and height are needed without keyframes"
        raise InputError(missing, rule, 0, "give the video's width and height in pixels")
    multiple = chunks.pixels_per_token
    for name, side in (("width", width), ("height", height)):
        if side % multiple:
            fix = f"use {max(1, round(side / multiple)) * multiple}"
            raise InputError(name, f"must divide by {multiple}", side, fix)
    images: Any = () if keyframes is None else keyframes
    size = (height, width) if width else None
    if keyframes is not None and size is not None:
        images = fitted(images, size, fit, "keyframes")
    with memory_errors("vae", f"{len(images)} keyframes", _FIX):
        return multi_chunk_video(chunks, timeline, images, method=method, size=size)


def check_rate(clip_fps: float, timeline: Timeline) -> None:
    """Refuse a clip of another rate than the timeline's; the average of a varying rate is hardly ever the same."""
    if clip_fps and abs(clip_fps - timeline.fps) > 0.002 * timeline.fps:
        rule = f"must be the timeline's {timeline.fps:g} frames per second"
        fix = "bring the clip to that rate first, or give the timeline the clip's"
        raise InputError("clip_fps", rule, round(clip_fps, 3), fix)


def decode(vae: Any, latent: Any, timeline: Timeline | None = None, method: Any = "multi_chunk") -> Tensor:
    """IMAGE of a sampled multi-chunk latent; `timeline` is needed where it has lost its layout.

    Raises:
        InputError: no layout, two that differ, or another VAE's latent.
    """
    chunks = chunk_vae(vae)
    samples = video_latent(latent, "latent", chunks.latent_channels)
    plan = None if timeline is None else plan_video(timeline, method)
    if plan is not None and latent.get(PLAN) not in (None, plan):
        fix = "disconnect the timeline: this latent knows its layout"
        raise InputError("timeline", "must be that of the latent", "another layout", fix)
    with memory_errors("vae", f"a latent of {tuple(samples.shape)}", _FIX):
        return decode_frames(chunks, latent, plan)


def hint_size(model: Any, video: MultiChunkVideo) -> None:
    """Say it where a model that knows its size shall make a much larger or smaller one."""
    native = model.attachments.get(NATIVE_SIZE)
    height, width = video.pixels.shape[-2:]
    if native is not None and not 1 / 3 <= height * width / (native[0] * native[1]) <= 3:
        fix = "set width and height: pictures are then scaled"
        tell(f"{width}x{height} is far from the {native[1]}x{native[0]} that this model was made for; {fix}", warn=True)


def sampler_fault(name: str) -> InputError | None:
    """What is wrong with a sampler for multi-chunk video; None if nothing is."""
    if name in comfy.samplers.KSampler.SAMPLERS and not adds_noise(comfy.samplers.sampler_object(name)):
        return None
    fix = "use euler, heun, dpmpp_2m or uni_pc, or KSampler with Multi-Chunk Model"
    return InputError("sampler_name", "must be a core sampler that adds no noise of its own", name, fix)


@dataclass(frozen=True, eq=False)
class VideoSampling:
    """How a video is sampled: the Multi-Chunk Video Sampler's widgets.

    Attributes:
        seed: of the noise.
        steps, scheduler: noise levels, where `sigmas` gives none.
        cfg, cfg_low: classifier-free guidance of the model, and of the low-noise expert (0: the same).
        sampler_name: a core sampler that adds no noise.
        method: how keyframes condition the video, see `plan_video`.
        boundary: noise level from which the low-noise expert takes over.
        width, height: of the video in pixels; 0 is the keyframes' own.
        sigmas: noise levels of one's own.
        fit: how keyframes of another size come to the video's, see `images.FITS`.
    """

    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    method: str
    boundary: float = 0.875
    cfg_low: float = 0.0
    width: int = 0
    height: int = 0
    sigmas: Tensor | None = None
    fit: str = "cover"

    @property
    def scales(self) -> tuple[float, float]:
        """Guidance of the model and of the low-noise expert."""
        return self.cfg, self.cfg_low or self.cfg

    def noise_levels(self, model: Any) -> Tensor:
        """Sigmas [steps + 1], by default those of the model's schedule."""
        if self.sigmas is not None:
            return self.sigmas
        schedule = model.get_model_object("model_sampling")
        return comfy.samplers.calculate_sigmas(schedule, self.scheduler, self.steps)


def sample_video(
    model: Any,
    vae: Any,
    timeline: Timeline,
    positive: Any,
    sampling: VideoSampling,
    keyframes: Any = None,
    negative: Any = None,
    model_low: Any = None,
) -> tuple[Any, Tensor]:
    """The latent and the frames of a video, by the Multi-Chunk Video Sampler's inputs.

    Raises:
        InputError: inputs that do not fit together, or not enough memory on the device.
    """
    used = sampling.scales if model_low is not None else sampling.scales[:1]
    if negative is None and any(scale != 1 for scale in used):
        fix = "connect a negative prompt (an empty one will do), or set cfg to 1"
        raise InputError("negative", "is needed when cfg is not 1", None, fix)
    if fault := sampler_fault(sampling.sampler_name):
        raise fault
    native = video_on(model)
    for name, expert in (("model", model), ("model_low", model_low)):
        if expert is not None:
            _fit(expert, name, vae, positive, negative)
    if sampling.sigmas is not None:
        fit_sigmas(sampling.sigmas, model)
    video = build_latent(vae, timeline, keyframes, sampling.method, sampling.width, sampling.height, sampling.fit)
    hint_size(model, video)
    sigmas = sampling.noise_levels(model)
    patched = native.patch(model, video)
    experts = patched if model_low is None else Experts(patched, native.patch(model_low, video), sampling.boundary)
    height, width = video.pixels.shape[-2:]
    number, count, name = timeline.part or (1, 1, "")
    if name:
        tell(f"shot {number}/{count} · {name}")
    steps = len(sigmas) - 1
    progress = Progress(model, count * steps, done=(number - 1) * steps)
    with memory_errors("Multi-Chunk Video Sampler", f"{timeline.frames} frames of {width}x{height}", _FIX):
        latent = native.sample(
            experts,
            positive,
            positive if negative is None else negative,
            video.latent,
            sigmas,
            cfg=sampling.scales,
            sampler=sampling.sampler_name,
            seed=sampling.seed,
            callback=progress.callback(),
        )
    sampled([latent["samples"]])
    images = decode(vae, latent)
    progress.show(images[len(images) // 2][None])
    return latent, images


def _fit(model: Any, name: str, vae: Any, positive: Any, negative: Any) -> None:
    """Raise InputError if VAE or prompts are another model's."""
    fit_vae(vae, model, name)
    width = text_width(model)
    for field, prompt in (("positive", positive), ("negative", negative)):
        if prompt is not None:
            fit_prompt(prompt, field, width)
