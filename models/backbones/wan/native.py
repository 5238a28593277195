"""SmartDirector's Director-Gen (§3.2) on ComfyUI's own Wan models and VAEs: 2.1, the two experts of 2.2, and 2.2 5B.

A clone of the MODEL gets two wrappers and two object patches, and loses them with the clone: core loaders, LoRA, fp8,
offloading, previews, interrupt and core samplers stay what they are. What a video looks like in latent time comes from
`models.layouts.chunks`, the same code that the headless adapter runs.

The method follows an ordinary differential equation: use deterministic samplers (euler, heun, dpmpp_2m, uni_pc, …). One
that adds noise at every step (ancestral, SDE, LCM) still keeps the keyframes, but its frames are not the ones that the
method defines, and two experts do not continue each other exactly; `sample_native` refuses it, other samplers warn.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import comfy.model_base
import comfy.sample
import torch
from comfy.ldm.wan.model import WanModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....core.errors import InputError
from ...layouts.chunks import Experts, VideoPlan, frame_timesteps
from ...layouts.neighbourhood import Neighbourhood, attend_near
from ...layouts.video_latents import Latent, MultiChunkVideo, plan_of
from ..native_adapter import NativeVideo
from ..native_fit import fit_texts
from ..native_solvers import adds_noise, ode_solver, solver_name

__all__ = ["VIDEO", "Experts", "patch_model", "patch_video", "sample_native"]

logger = logging.getLogger(__name__)

_KEY = "anchorshot_multi_chunk"
_ROPE, _INPAINT = "diffusion_model.rope_encode", "scale_latent_inpaint"
_OVERRIDE = "optimized_attention_override"


def patch_video(model: ModelPatcher, video: MultiChunkVideo) -> ModelPatcher:
    """`patch_model` for a video; an image-to-video model also gets the keyframes in its own way."""
    return patch_model(model, video.plan, video.image_latent if _takes_images(model) else None)


def patch_model(
    model: ModelPatcher, plan: VideoPlan, image_latent: Tensor | None = None, near: Neighbourhood | None = None
) -> ModelPatcher:
    """A clone of a Wan MODEL that samples this layout, with any sampler: timestep 0 at given latents, and MC-RoPE.

    The latent to sample is `MultiChunkVideo.latent`; given latents come out of the sampler bit for bit, also from a
    first expert that stops half-way (without that they would drift by 1 / (1 − σ)).

    Args:
        model: Wan 2.1 or 2.2: text-to-video, image-to-video, or 5B; with LoRAs, fp8, GGUF as it is.
        plan: the layout. Patching again replaces it.
        image_latent: for image-to-video models, `MultiChunkVideo.image_latent`.
        near: which latent frames attend to which; None: all to all.

    Raises:
        InputError: another class of model, or one whose positions another node has patched.
    """
    network = _network(model)
    for name in (_ROPE, _INPAINT):
        other = model.object_patches.get(name)
        if other is not None and not isinstance(other, _Rope) and other is not _keep_clean:
            fix = "remove the other node: one model can have one of them"
            raise InputError("model", "must be free of foreign position or inpainting patches", name, fix)
    director = _Director(plan, image_latent, _takes_images(model), near)
    patched = model.clone()
    patched.add_object_patch(_ROPE, _Rope(network.rope_embedder, network.patch_size, plan.rope_index))
    patched.add_object_patch(_INPAINT, _keep_clean)
    for kind, wrapper in (
        (WrappersMP.DIFFUSION_MODEL, director.forward),
        (WrappersMP.OUTER_SAMPLE, director.sample),
    ):
        patched.remove_wrappers_with_key(kind, _KEY)
        patched.add_wrapper_with_key(kind, _KEY, wrapper)
    return patched


@torch.no_grad()
def sample_native(
    model: ModelPatcher | Experts,
    positive: Any,
    negative: Any,
    latent: Latent,
    sigmas: Tensor,
    *,
    cfg: float | tuple[float, float] = 1.0,
    sampler: Any = "euler",
    seed: int = 0,
    noise: Tensor | None = None,
    callback: Callable[[int, Tensor, Tensor, int], None] | None = None,
    disable_pbar: bool = False,
) -> Latent:
    """Sample a multi-chunk latent through ComfyUI's own sampling; with two experts in one go.

    Args:
        model: the MODEL or two `Experts`, patched (`patch_video`) or not.
        positive, negative: CONDITIONING.
        latent: `MultiChunkVideo.latent`, or a batch of them.
        sigmas: noise levels, falling; 1 … 0 for a whole run.
        cfg: guidance, one or (high, low); 1 leaves the negative out and costs half.
        sampler: a deterministic sampler's name, or a SAMPLER.
        seed: of the noise, the same on every device; `noise` replaces it.
        callback: (step, x0, x, steps) after every step, as `latent_preview.prepare_callback` makes it; x0 starts with
            a frame that is being made, so that a preview shows that one and not a keyframe.

    Returns:
        LATENT with the same noise_mask and plan; given latents bit for bit.

    Raises:
        InputError: a sampler that adds noise, or a model patched for another video. ComfyUI's interrupt passes through
            and leaves nothing behind.
    """
    plan = plan_of(latent)
    experts = model if isinstance(model, Experts) else Experts(model, model, 0.0)
    scales = cfg if isinstance(cfg, tuple) else (cfg, cfg)
    solver = ode_solver(sampler)
    levels = [float(s) for s in sigmas]
    samples, mask = latent["samples"], latent.get("noise_mask")
    first = next((i for i, s in enumerate(levels) if s < experts.boundary), len(levels) - 1)
    first = min(first, len(levels) - 1)
    x = comfy.sample.prepare_noise(samples, seed) if noise is None else noise
    for patcher, scale, start, end in (
        (experts.high, scales[0], 0, first),
        (experts.low, scales[1], first, len(levels) - 1),
    ):
        if start == end:
            continue
        samples = comfy.sample.sample_custom(
            _patched(patcher, plan),
            x,
            scale,
            solver,
            sigmas[start : end + 1],
            positive,
            negative,
            samples,
            noise_mask=mask,
            callback=None if callback is None else _preview(callback, plan, start, len(levels) - 1),
            disable_pbar=disable_pbar,
            seed=seed,
        )
        x = torch.zeros_like(samples)
    return {**latent, "samples": samples}


class _Rope:
    """MC-RoPE (Eq. 4) in the place of WanModel.rope_encode, in fp32: bf16 would round a position 64.25 to 64.

    Holds what has no weights only, so that a clone of the model on another GPU can use it too.
    """

    def __init__(self, embedder: Any, patch_size: Sequence[int], index: Tensor) -> None:
        self.embedder, self.patch_size, self.index = embedder, tuple(patch_size), index.float()

    def __call__(
        self, t: int, h: int, w: int, *args: Any, device: Any = None, transformer_options: Any = None, **kwargs: Any
    ) -> Tensor:
        options = (transformer_options or {}).get("rope_options") or {}
        _, ph, pw = self.patch_size
        rows = (self.index, torch.arange((h + ph // 2) // ph), torch.arange((w + pw // 2) // pw))
        axes = [
            row.to(device, torch.float32) * options.get(f"scale_{name}", 1.0) + options.get(f"shift_{name}", 0.0)
            for row, name in zip(rows, "tyx", strict=True)
        ]
        ids = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        return self.embedder(ids.reshape(1, -1, 3)).movedim(1, 2)


def _keep_clean(sigma: Tensor, noise: Tensor, latent_image: Tensor, **kwargs: Any) -> Tensor:
    """In the place of scale_latent_inpaint: given latents go into the network clean, at every noise level."""
    return latent_image


class _Director:
    """The two wrappers of a patched MODEL. Holds nothing that changes, so interrupts and queued runs cannot mix."""

    def __init__(
        self, plan: VideoPlan, image_latent: Tensor | None, takes_images: bool, near: Neighbourhood | None
    ) -> None:
        self.plan, self.image_latent, self.takes_images, self.near = plan, image_latent, takes_images, near

    def forward(
        self,
        executor: Any,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        clip_fea: Tensor | None = None,
        time_dim_concat: Tensor | None = None,
        transformer_options: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """DIFFUSION_MODEL: one timestep per latent frame, 0 at given ones."""
        plan, frames = self.plan, x.shape[2]
        reference = executor.class_obj.ref_conv is not None and kwargs.get("reference_latent") is not None
        if reference or time_dim_concat is not None or kwargs.get("context_latents") is not None:
            fix = "remove the reference from the conditioning"
            raise InputError("conditioning", "reference latents cannot be combined with keyframes", "a reference", fix)
        if frames != plan.latents:
            rule = f"must reach the model whole, {plan.latents} latent frames"
            raise InputError("latent", rule, frames, "remove context windows, and use this timeline's own latent")
        if timestep.ndim == 2 and timestep.shape[1] == frames:  # the 5B model reads its own off the noise mask
            times = timestep.clone()
            times[:, plan.pinned] = 0
        else:
            times = frame_timesteps(timestep.reshape(len(timestep), -1)[:, 0], plan.pinned, frames)
        options = {} if transformer_options is None else transformer_options
        if self.near is not None:
            _, rows, columns = executor.class_obj.patch_size
            tokens = frames * -(-x.shape[3] // rows) * -(-x.shape[4] // columns)
            limited = _NearAttention(self.near, tokens, context.shape[1] == tokens, options.get(_OVERRIDE))
            options = {**options, _OVERRIDE: limited}
        return executor(x, times, context, clip_fea, time_dim_concat, options, **kwargs)

    def sample(
        self,
        executor: Any,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """OUTER_SAMPLE: check the latent before anything runs, and give given latents back untouched."""
        guider = executor.class_obj
        self._check(guider, latent_image, denoise_mask)
        if adds_noise(sampler):
            said = "%s adds noise at every step; SmartDirector is defined for ODE samplers such as euler"
            logger.warning(said, solver_name(sampler))
        if self.image_latent is not None:
            image = {"concat_latent_image": self.image_latent, "concat_mask": denoise_mask}
            for cond in (c for conds in guider.conds.values() for c in conds):
                for key, value in image.items():
                    cond.setdefault(key, value)
        out = executor(noise, latent_image, sampler, sigmas, denoise_mask, *args, **kwargs)
        if not bool(torch.isfinite(out).all()):  # else the film would be black, and nobody would know why
            fix = "look at the prompts and the latent that go in; a model that overflows in fp16 needs bf16 or fp32"
            raise InputError("model", "must sample finite values", "NaN or infinity", fix)
        if self.plan.pinned:
            # A solver moves x and only its x0 is held, so what is given comes back with rounding, or scaled by
            # 1 / (1 − σ) where a stage ends at σ > 0.
            out = out.clone()
            out[:, :, self.plan.pinned] = latent_image[:, :, self.plan.pinned].to(out)
        return out

    def _check(self, guider: Any, latent: Tensor, mask: Tensor | None) -> None:
        fit_texts(guider)
        plan = self.plan
        fix = "connect the latent that belongs to this model"
        channels = guider.model_patcher.get_model_object("latent_format").latent_channels
        if latent.ndim != 5 or latent.shape[2] != plan.latents or latent.shape[1] != channels:
            rule = f"must be [B, {channels}, {plan.latents}, h, w], as the model and its timeline"
            raise InputError("latent", rule, list(latent.shape), fix)
        if plan.pinned and (mask is None or bool((mask[:, :, plan.pinned] != 0).any())):
            seen = "none" if mask is None else "another one"
            raise InputError("latent", "must come with the noise_mask that pins the keyframes", seen, fix)
        if self.takes_images and self.image_latent is None and plan.pinned:
            if not all("concat_latent_image" in cond for conds in guider.conds.values() for cond in conds):
                rule = "an image-to-video model must be given the keyframes as images too"
                raise InputError("model", rule, "none", "patch it with patch_video, or use text-to-video")


class _NearAttention:
    """ComfyUI's attention override of one forward: self-attention within a neighbourhood; the prompt is seen whole.

    Args:
        near: who sees whom.
        tokens: of the video.
        alike: whether the prompt has as many; then calls are told apart by their order, as blocks have it.
        outer: another's override (an attention kernel, say), which still does the computing.
    """

    def __init__(self, near: Neighbourhood, tokens: int, alike: bool, outer: Callable[..., Tensor] | None) -> None:
        self.near, self.tokens, self.alike, self.outer = near, tokens, alike, outer
        self.prompt_next = False

    def __call__(self, func: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Any:
        attend = func if self.outer is None else partial(self.outer, func)
        itself = q.shape[1] == k.shape[1] == self.tokens
        if itself and self.alike:
            itself, self.prompt_next = not self.prompt_next, not self.prompt_next
        if not itself:
            return attend(q, k, v, *args, **kwargs)
        return attend_near(lambda q, k, v: attend(q, k, v, *args, **kwargs), q, k, v, self.near)


def _network(model: ModelPatcher) -> WanModel:
    base = model.model
    network: Any = getattr(base, "diffusion_model", None)
    # By exact class: Vace, Camera, Animate and others put frames or tokens of their own between ours.
    kinds = (comfy.model_base.WAN21, comfy.model_base.WAN22)
    if type(base) not in kinds or type(network) is not WanModel or network.patch_size[0] != 1:
        fix = "load a Wan 2.1 or 2.2 text-to-video or image-to-video model, or Wan 2.2 5B"
        raise InputError("model", "must be a plain Wan model", type(base).__name__, fix)
    return network


def _takes_images(model: ModelPatcher) -> bool:
    """Whether this is an image-to-video model: besides the noise it reads an image latent and four mask channels.

    By its width: ComfyUI loads Wan 2.2's image-to-video experts as its text-to-video class.
    """
    channels = model.model.latent_format.latent_channels
    return _network(model).in_dim == 2 * channels + 4


def _patched(model: ModelPatcher, plan: VideoPlan) -> ModelPatcher:
    wrappers = model.get_wrappers(WrappersMP.OUTER_SAMPLE, _KEY)
    if not wrappers:
        return patch_model(model, plan)
    if wrappers[0].__self__.plan != plan:
        fix = "connect model and latent of the same timeline"
        raise InputError("model", "must be patched for the latent's timeline", "another timeline", fix)
    return model


def _preview(callback: Callable[..., None], plan: VideoPlan, done: int, steps: int) -> Callable[..., None]:
    """Count the steps of both experts, and put a frame that is being made first: previews show the first."""
    shown = plan.free[len(plan.free) // 2] if plan.free else 0

    def see(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        callback(done + step, x0[:, :, shown:], x, steps)

    return see


class _Video:
    """How the video nodes use a Wan MODEL."""

    patch = staticmethod(patch_video)
    sample = staticmethod(sample_native)


VIDEO: NativeVideo = _Video()
