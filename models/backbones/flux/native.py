"""Captain Cinema on ComfyUI's native Flux: interleaved keyframes through wrappers and object patches (§3.2).

A patched clone samples NestedTensor latents of one [B, 16, h, w] per frame, new frames first (so that previews show
the frame being made), with one caption per frame in the conditioning. Everything else stays ComfyUI's: loaders, LoRA,
quantisation, offload, samplers, interrupt. The model that was cloned is never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import comfy.conds
import comfy.ldm.flux.model
import comfy.model_base
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.ldm.flux.layers import timestep_embedding
from comfy.model_management import dtype_size
from comfy.nested_tensor import NestedTensor
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from torch import Tensor

from ....core.errors import InputError
from ....memory.frame_memory import ContextFrame
from ...layouts.pair_cache import KVCache
from ...layouts.pairs import PairLayout, Pairs, PairSettings, pack_latent, token_size, unpack_latent
from .native_blocks import ContextCaches, run_pairs
from .native_checks import Conditioning, check_conditioning, check_options, check_shapes
from .native_inputs import DEFAULTS, Caption, lay_out, negative_captions, positive_captions
from .native_run import PairRun, seeded

__all__ = [
    "PairInputs",
    "PairSettings",
    "frames_of",
    "patch_pairs",
    "prepare_pairs",
    "sample_native",
]

KEY = "anchorshot_pairs"
TEXTS, POOLED, LEVELS = "anchorshot_texts", "anchorshot_pooled", "anchorshot_context_levels"
Callback = Callable[[int, Any, Any, int], None]
"""ComfyUI's sampler callback: (step, x0, x, steps)."""


class PairInputs(NamedTuple):
    """What KSampler or SamplerCustomAdvanced takes: a MODEL, two CONDITIONINGs and a LATENT with its noise_mask."""

    model: Any
    positive: Conditioning
    negative: Conditioning
    latent: dict[str, Any]


def sample_native(
    model: Any,
    prompts: Sequence[Conditioning],
    latents: Sequence[Tensor],
    context: Sequence[ContextFrame[Conditioning]] = (),
    negative: Sequence[Conditioning] | None = None,
    settings: PairSettings = DEFAULTS,
    *,
    sigmas: Tensor,
    seed: int = 0,
    cfg: float = 1.0,
    sampler: Any = None,
    callback: Callback | None = None,
    disable_pbar: bool = False,
) -> list[Tensor]:
    """Sample new frames beside a memory of earlier ones (Captain Cinema §3.2).

    Args:
        model: ModelPatcher of a Flux text-to-image model.
        prompts: W captions, one per new frame.
        latents: W latents [B, 16, h, w]; zeros to start from noise.
        context: earlier frames, the most relevant first; none samples all frames jointly.
        negative: see `prepare_pairs`; matters from `cfg` ≠ 1 on.
        settings: attention mode, noise of the context, cache.
        sigmas: noise levels 1 … 0, [steps + 1].
        seed: of the noise; the same seed draws the same noise as the headless sampler's generator.
        cfg: classifier-free guidance; 1 runs the positive alone.
        sampler: a SAMPLER; None takes Euler.
        callback: called after every step with nested x0 and x (plain ones for a single frame without context).
        disable_pbar: no progress bar in the console.

    Returns:
        W latents [B, 16, h, w], ready for VAE Decode.

    Raises:
        InputError: what cannot be sampled together (see `prepare_pairs` and `native_checks`).
    """
    inputs = prepare_pairs(model, prompts, latents, context, negative, settings)
    samples = inputs.latent["samples"]
    out = comfy.sample.sample_custom(
        inputs.model,
        comfy.sample.prepare_noise(samples, seed),
        cfg,
        comfy.samplers.sampler_object("euler") if sampler is None else sampler,
        sigmas.clone(),  # some samplers write into theirs (uni_pc)
        inputs.positive,
        inputs.negative,
        samples,
        noise_mask=inputs.latent.get("noise_mask"),
        callback=callback,
        disable_pbar=disable_pbar,
        seed=seed,
    )
    return frames_of(out)[: len(prompts)]


def prepare_pairs(
    model: Any,
    prompts: Sequence[Conditioning],
    latents: Sequence[Tensor],
    context: Sequence[ContextFrame[Conditioning]] = (),
    negative: Sequence[Conditioning] | None = None,
    settings: PairSettings = DEFAULTS,
) -> PairInputs:
    """Captions, context and settings as MODEL, positive, negative and LATENT for any core sampler.

    Args:
        model: ModelPatcher of a Flux text-to-image model.
        prompts: W captions, one per new frame; guidance and schedules come from the first.
        latents: W latents [B, 16, h, w] of one size; zeros to start from noise.
        context: earlier frames, the most relevant first.
        negative: one caption for all new frames, or one for each; None zeroes them. The context keeps its captions, so
            guidance pushes away from the negative text and not from what is remembered.
        settings: attention mode, noise of the context, cache.

    Raises:
        InputError: numbers or sizes that do not fit, a model or a conditioning that cannot take part.
    """
    flux = _flux(model)
    frames, layout = lay_out(prompts, latents, context, settings)
    captions = positive_captions(flux.params, prompts, context)
    against = negative_captions(flux.params, captions[: layout.new], negative) + captions[layout.new :]
    lengths = [max(a.tokens.shape[1], b.tokens.shape[1]) for a, b in zip(captions, against, strict=True)]
    layout = replace(layout, text_lengths=tuple(lengths))
    latent: dict[str, Any] = {"samples": frames[0]}
    if len(frames) > 1:
        given = [torch.ones(1, 1, *f.shape[-2:]) * (i < layout.new) for i, f in enumerate(frames)]
        latent = {"samples": NestedTensor(frames), "noise_mask": NestedTensor(given)}
    patched = patch_pairs(model, layout, frames[layout.new :])
    return PairInputs(patched, _conditioning(captions), _conditioning(against), latent)


def patch_pairs(model: Any, layout: PairLayout, context: Sequence[Tensor] = ()) -> Any:
    """A clone of `model` that samples the frames of `layout` together.

    Args:
        model: ModelPatcher of a Flux text-to-image model.
        layout: sizes, order, mode, noise of the context.
        context: clean latents [B or 1, 16, h, w] of the context frames, in the layout's order.

    Raises:
        InputError: another kind of model.
    """
    flux = _flux(model)
    if [token_size(latent) for latent in context] != list(layout.sizes[layout.new :]):
        seen = [tuple(latent.shape) for latent in context]
        raise InputError("context", "must have the sizes that were laid out", seen, "lay out these frames")
    clone = model.clone()
    cache_bytes = 2 * len(flux.single_blocks) * flux.hidden_size * dtype_size(model.model.get_dtype_inference())
    stock = {name: _stock(model, name) for name in ("scale_latent_inpaint", "memory_required")}
    patch = _Patch(layout, flux.params.in_channels, list(context), cache_bytes, stock)
    for name in stock:
        clone.add_object_patch(name, getattr(patch, name))
    for kind, wrapper in (
        (WrappersMP.DIFFUSION_MODEL, patch.diffusion_model),
        (WrappersMP.OUTER_SAMPLE, patch.outer_sample),
        (WrappersMP.PREPARE_SAMPLING, patch.prepare_sampling),
    ):
        clone.remove_wrappers_with_key(kind, KEY)  # of an earlier patch: the last one counts
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    return clone


def frames_of(samples: Any) -> list[Tensor]:
    """The frames of a LATENT's samples, new ones first: tensors [B, 16, h, w]."""
    return list(samples.unbind()) if getattr(samples, "is_nested", False) else [samples]


class _Patch(PairRun):
    """The wrappers of one clone."""

    def outer_sample(
        self,
        executor: Any,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: int | None = None,
        latent_shapes: Any = None,
    ) -> Tensor:
        """Refuse what cannot combine, pin the context, give the run its cache and take it away again."""
        guider = executor.class_obj
        check_options(guider.model_options)
        for kind, entries in guider.conds.items():
            for entry in entries:
                check_conditioning(kind, entry)
        check_shapes(self.layout, latent_shapes or [latent_image.shape])
        if self.layout.context:
            noise, latent_image, pinned = self.pin(noise, latent_image, denoise_mask, seed)
            denoise_mask = pinned.to(guider.model_patcher.load_device)
        caches = ContextCaches()
        options = guider.model_options.setdefault("transformer_options", {})
        # Hooks may change weights between two steps; then nothing can be kept.
        hooked = any(entry.get("hooks") is not None for entries in guider.conds.values() for entry in entries)
        if self.layout.cached and not hooked:
            options[KEY] = caches
        try:
            with seeded(seed):
                options[LEVELS] = self.levels()  # the network may be called in another thread
                out = executor(
                    noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, latent_shapes
                )
        finally:
            options.pop(KEY, None)
            options.pop(LEVELS, None)
            caches.clear()
        return self.with_context(out)

    def prepare_sampling(
        self, executor: Any, model: Any, noise_shape: Any, conds: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Make room for what will run: the packed latent [B, 1, N] would be taken for N pixels, 16 times too many."""
        prepared = executor(model, self.true_shape(noise_shape), conds, *args, **kwargs)
        flux = prepared[0].diffusion_model
        try:  # a control LoRA widens the input once it is applied
            wide = flux.img_in.weight.shape[1] > flux.in_channels
        except AttributeError:  # some packs keep weights elsewhere; theirs have not been widened
            wide = False
        if wide:
            fix = "take the control LoRA off this model"
            raise InputError("model", "must read one latent a frame", "a control LoRA that reads a second one", fix)
        return prepared

    def diffusion_model(
        self,
        executor: Any,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        y: Tensor | None = None,
        guidance: Tensor | None = None,
        ref_latents: Any = None,
        control: Any = None,
        transformer_options: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """Run pairs in the place of the stock forward; other packs' wrappers still go around it."""
        texts, pooled = kwargs.pop(TEXTS, None), kwargs.pop(POOLED, None)
        if texts is None or len(texts) != len(self.layout.sizes):
            rule = f"must hold {len(self.layout.sizes)} captions, one for each frame"
            fix = "take model, positive and negative from the same node"
            raise InputError("conditioning", rule, 1 if texts is None else len(texts), fix)
        if context is None or not torch.equal(context, texts[0]):
            rule = "must stay as it was put together for these frames"
            fix = "use such nodes on the captions, before they are put together"
            raise InputError("conditioning", rule, "tokens that another node has changed", fix)
        forward = partial(self._forward, executor.class_obj, texts, pooled)
        rest = WrapperExecutor.new_class_executor(forward, executor.class_obj, executor.wrappers, executor.idx + 1)
        return rest.execute(
            x, timestep, context, y, guidance, ref_latents, control, transformer_options or {}, **kwargs
        )

    def _forward(
        self,
        flux: Any,
        texts: list[Tensor],
        pooled: list[Tensor] | None,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        y: Tensor | None,
        guidance: Tensor | None,
        ref_latents: Any,
        control: Any,
        transformer_options: dict[str, Any],
        **kwargs: Any,
    ) -> Tensor:
        layout, options = self.layout, transformer_options
        frames = comfy.utils.unpack_latents(x, self.shapes)
        times = timestep.float()[:, None].repeat(1, len(frames))
        times[:, layout.new :] = options.get(LEVELS, self.levels()).to(times)
        pairs = Pairs(
            latents=[pack_latent(frame) for frame in frames],
            sizes=list(layout.sizes),
            texts=texts,
            pooled=torch.stack(pooled, 1) if pooled else x.new_zeros(len(x), len(frames), 0),
            timestep=times,
            guidance=None if guidance is None else guidance[:, None].expand(-1, len(frames)),
            frames=layout.frames,
            reference=layout.reference,
        )
        sequence = pairs.pick(layout.order)
        memory, new = sequence.pick(range(layout.context)), sequence.pick(range(layout.context, len(frames)))
        if layout.cached:
            past = _encode(flux, memory, options)
            out = run_pairs(flux, new, _embed(flux, new), options, layout.mode, past)
        else:
            out = run_pairs(flux, sequence, _embed(flux, sequence), options, layout.mode)[layout.context :]
        velocity = [unpack_latent(o, layout.reference) for o in out]
        # The context is pinned by the mask: its velocity is never used.
        velocity += [torch.zeros_like(frame) for frame in frames[layout.new :]]
        return comfy.utils.pack_latents(velocity)[0] if len(velocity) > 1 else velocity[0]


def _encode(flux: Any, memory: Pairs, options: dict[str, Any]) -> KVCache:
    """The context's keys and values: the run's if it has them, else computed."""

    def encode() -> KVCache:
        store = KVCache()
        run_pairs(flux, memory, _embed(flux, memory), options, "causal", store=store)
        return store

    caches = options.get(KEY)
    if caches is None:  # the model is called outside a sampling run, or nothing may be kept
        return encode()
    inputs = [*memory.latents, *memory.texts, memory.pooled, memory.timestep]
    inputs += [] if memory.guidance is None else [memory.guidance]
    return caches.get((*options.get("uuids", ()), memory.latents[0].device), inputs, encode)


def _embed(flux: Any, pairs: Pairs) -> Tensor:
    """Modulation vectors [B, P, d], computed as the stock forward computes its one."""
    dtype = pairs.latents[0].dtype
    vec = flux.time_in(timestep_embedding(pairs.timestep.flatten(), 256).to(dtype))
    if flux.params.guidance_embed and pairs.guidance is not None:
        vec = vec + flux.guidance_in(timestep_embedding(pairs.guidance.flatten(), 256).to(dtype))
    if flux.vector_in is not None:
        vec = vec + flux.vector_in(pairs.pooled.flatten(0, 1)[:, : flux.params.vec_in_dim])
    return vec.unflatten(0, pairs.timestep.shape)


def _conditioning(captions: list[Caption]) -> Conditioning:
    """One CONDITIONING of all captions: core hands what is in `model_conds` to the model."""
    first = captions[0]
    conds = {TEXTS: comfy.conds.CONDList([c.tokens for c in captions])}
    pooled = [c.pooled for c in captions if c.pooled is not None]
    if pooled:
        conds[POOLED] = comfy.conds.CONDList(pooled)
    rest = {key: value for key, value in first.entry.items() if key not in ("attention_mask", "pooled_output")}
    return [[first.tokens, rest | {"model_conds": rest.get("model_conds", {}) | conds}]]


def _flux(model: Any) -> Any:
    """The network of a Flux text-to-image model.

    Raises:
        InputError: another model, or a Flux that reads a second latent (Fill, Canny, Depth).
    """
    base = model.model
    flux = getattr(base, "diffusion_model", None)
    others = (comfy.model_base.Flux2, comfy.model_base.LongCatImage)
    if not isinstance(flux, comfy.ldm.flux.model.Flux) or isinstance(base, others) or flux.params.global_modulation:
        seen = type(base).__name__ if flux is None else f"{type(base).__name__} ({type(flux).__name__})"
        raise InputError("model", "must be a FLUX.1 model", seen, "load FLUX.1-dev or -schnell, or the pocket model")
    params = flux.params
    if params.in_channels != params.out_channels:
        seen = f"{params.in_channels} channels in, {params.out_channels} out"
        fix = "Fill, Canny and Depth models cannot take part: load a text-to-image FLUX.1"
        raise InputError("model", "must read one latent a frame", seen, fix)
    return flux


def _stock(model: Any, name: str) -> Callable[..., Any]:
    """The model's method without our patch (another pack's stays)."""
    method = model.get_model_object(name)
    owner = getattr(method, "__self__", None)
    return owner.stock[name] if isinstance(owner, _Patch) else method
