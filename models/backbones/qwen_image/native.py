"""Start-end pairs on ComfyUI's native Qwen-Image (STAGE §4.1): both frames are denoised together beside a memory.

A patched clone samples a latent [1, 16, F, h, w] of the F frames that are new, start before end. Frames that are given
and the remembered ones are reference latents of the conditioning: each its own rectangle, clean, modulated at t = 0 in
the stock forward. The patch says where every image stands (`layouts.start_end`). All else stays ComfyUI's: loaders,
LoRA, quantisation, offload, samplers, previews, interrupt. The model that was cloned is never changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.ldm.qwen_image.model
import comfy.sample
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from einops import rearrange
from torch import Tensor

from ....core.errors import InputError
from ....memory.memory_pack import PackTile
from ...layouts.pairs import PATCH, Size
from ...layouts.start_end import text_ids
from ..native_adapter import Callback, Conditioning
from ..native_pairs import NativePairs, PairFrame, PairModelSettings
from .native_inputs import PairSequence, check_conditioning, check_options, lay_out, only_entry

__all__ = ["PAIRS", "patch_pair", "rescaled_guidance", "sample_pair"]

KEY = "anchorshot_start_end"
METHODS = {"zero": "index_timestep_zero", "shared": "index"}
"""ComfyUI's words for what references are modulated at."""


def sample_pair(
    model: Any,
    positive: Conditioning,
    negative: Conditioning,
    size: Size,
    memory: Sequence[tuple[PackTile, Tensor]] = (),
    given: Mapping[PairFrame, Tensor] | None = None,
    settings: PairModelSettings | None = None,
    *,
    sigmas: Tensor,
    noise: Mapping[PairFrame, Tensor],
    cfg: float = 1.0,
    sampler: Any = None,
    seed: int = 0,
    callback: Callback | None = None,
    disable_pbar: bool = False,
) -> dict[PairFrame, Tensor]:
    """Sample a start and an end frame together. Arguments and errors as `NativePairs.sample`."""
    sequence, clean = lay_out(size, memory, given or {}, settings or PairModelSettings())
    fixed = dict(given or {})
    against = sequence.settings.guidance_against
    if against == "memory":
        negative = positive
        cfg = cfg if memory else 1.0  # else both branches would be equal
    start = torch.cat([_plain(noise[name], size) for name in sequence.new], 2)
    out = comfy.sample.sample_custom(
        patch_pair(model, sequence),
        start,
        cfg,
        comfy.samplers.sampler_object("euler") if sampler is None else sampler,
        sigmas.clone(),  # some samplers write into theirs (uni_pc)
        _with_references("positive", positive, clean),
        _with_references("negative", negative, clean if against == "text" else clean[: len(fixed)]),
        torch.zeros_like(start),
        callback=callback,
        disable_pbar=disable_pbar,
        seed=seed,
    )
    return fixed | {name: out[:, :, i] for i, name in enumerate(sequence.new)}


def patch_pair(model: Any, sequence: PairSequence) -> Any:
    """A clone of `model` that samples the new frames of `sequence`.

    Raises:
        InputError: another kind of model.
    """
    _check_model(model)
    clone = model.clone()
    if sequence.settings.rescale and "sampler_cfg_function" in clone.model_options:
        fix = "take the node that changes guidance (RescaleCFG, CFG-Zero and the like) off, or switch rescale off"
        raise InputError("model", "must leave guidance to the pair when it is rescaled", "a CFG function", fix)
    if sequence.settings.rescale:
        clone.set_model_sampler_cfg_function(rescaled_guidance)
    patch = _Patch(sequence)
    for kind, wrapper in (
        (WrappersMP.DIFFUSION_MODEL, patch.diffusion_model),
        (WrappersMP.OUTER_SAMPLE, patch.outer_sample),
    ):
        clone.remove_wrappers_with_key(kind, KEY)  # of an earlier patch: the last one counts
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    return clone


def rescaled_guidance(args: Mapping[str, Any]) -> Tensor:
    """ComfyUI's `sampler_cfg_function`: guided, then brought to the length that the positive's velocity has.

    Token by token, as the published inference does. x − x0 = t·v, so t cancels.
    """
    positive, negative = _tokens(args["cond"]), _tokens(args["uncond"])
    guided = negative + args["cond_scale"] * (positive - negative)
    norm = guided.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(guided.dtype).tiny)
    guided = guided * (positive.norm(dim=-1, keepdim=True) / norm)
    rows, cols = args["cond"].shape[-2] // PATCH, args["cond"].shape[-1] // PATCH
    return rearrange(guided, "b (f h w) (c p q) -> b c f (h p) (w q)", h=rows, w=cols, p=PATCH, q=PATCH)


def _tokens(latent: Tensor) -> Tensor:
    return rearrange(latent, "b c f (h p) (w q) -> b (f h w) (c p q)", p=PATCH, q=PATCH)


@dataclass(frozen=True, eq=False)
class _Patch:
    """The wrappers of one clone. Nothing in it changes: clones share it."""

    sequence: PairSequence

    def outer_sample(self, executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Refuse what cannot combine, before the first step."""
        guider = executor.class_obj
        check_options(guider.model_options)
        for kind, entries in guider.conds.items():
            for entry in entries:
                check_conditioning(kind, entry | {"reference_latents": None})
        wanted = (len(self.sequence.new), *(PATCH * side for side in self.sequence.grid))
        if noise.ndim != 5 or tuple(noise.shape[2:]) != wanted:
            seen = tuple(noise.shape)
            fix = "sample with the node that laid the pair out"
            raise InputError(
                "latent", "must be that of the pair's new frames, [1, 16, {}, {}, {}]".format(*wanted), seen, fix
            )
        return executor(noise, *args, **kwargs)

    def diffusion_model(
        self,
        executor: Any,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        attention_mask: Tensor | None = None,
        ref_latents: list[Tensor] | None = None,
        additional_t_cond: Any = None,
        transformer_options: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """The stock forward, with our positions; other packs' wrappers still go around it."""
        sequence, clean = self.sequence, len(ref_latents or ())
        if sequence.settings.guidance_against != "text" and clean == len(sequence.given):
            sequence = replace(sequence, tiles=())  # the negative branch remembers nothing
        if clean != (wanted := len(sequence.given) + len(sequence.tiles)):
            fix = "take model, positive and negative from the same node"
            raise InputError("conditioning", f"must hold {wanted} clean frames", clean, fix)
        if clean:  # a conditioning's own method would win over the model's
            kwargs["ref_latents_method"] = METHODS[self._reference_timestep(executor.class_obj)]
        options = dict(transformer_options or {})
        patches = options.get("patches", {})
        options["patches"] = patches | {"post_input": [*patches.get("post_input", ()), _Patch(sequence).positions]}
        return executor(x, timestep, context, attention_mask, ref_latents, additional_t_cond, options, **kwargs)

    def positions(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """ComfyUI's `post_input` patch: the ids of all images and of the text, as they were laid out."""
        old, text = args["img_ids"], args["txt_ids"]
        ids = torch.cat(self.sequence.ids()).to(old)
        words = text_ids(text.shape[1], self.sequence.text_start()).to(text)
        return {**args, "img_ids": ids.expand_as(old), "txt_ids": words.expand_as(text)}

    def _reference_timestep(self, network: Any) -> str:
        """What the user asks for, else what the file says (Qwen-Image-Edit-2511 has t = 0)."""
        own = "zero" if network.default_ref_method == "index_timestep_zero" else "shared"
        return self.sequence.settings.reference_timestep or own


def _with_references(field: str, conditioning: Conditioning, clean: Sequence[Tensor]) -> Conditioning:
    tokens, entry = only_entry(field, conditioning)
    return [[tokens, {**entry, "reference_latents": list(clean)} if clean else entry]]


def _plain(noise: Tensor, size: Size) -> Tensor:
    """Noise of one frame as `[1, C, 1, h, w]`."""
    frame = noise[:, :, None] if noise.ndim == 4 else noise
    if frame.ndim != 5 or tuple(frame.shape[2:]) != (1, *size):
        rule = f"must be [1, C, {size[0]}, {size[1]}] for each new frame"
        raise InputError("noise", rule, tuple(noise.shape), "draw it with the pair's own function")
    return frame


def _check_model(model: Any) -> None:
    """Raise InputError unless this is a Qwen-Image model."""
    base = model.model
    network = getattr(base, "diffusion_model", None)
    if not isinstance(network, comfy.ldm.qwen_image.model.QwenImageTransformer2DModel):
        seen = type(base).__name__ if network is None else f"{type(base).__name__} ({type(network).__name__})"
        fix = "load Qwen-Image-Edit (2509 or 2511), or the pocket pair model"
        raise InputError("model", "must be a Qwen-Image model", seen, fix)


class _Pairs:
    sample = staticmethod(sample_pair)


PAIRS: NativePairs = _Pairs()
