"""Text2Story on native MODELs: `prompt_mixing` and `blending` of `sampling.text2story`, behind ComfyUI's wrappers.

The guider is core's CFGGuider on the patched model, so both ways are one. Nothing of a run is kept on the patch: it
travels in that run's own model options. The one thing that stays is the record of finished runs, for DIPW Weights.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import comfy.model_sampling
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import comfy.utils
import numpy as np
import torch
from torch import Tensor

from ..core.errors import InputError
from ..media.curve import draw_curves
from ..models.backbones.native_fit import fit_texts, text_width
from ..models.encoders.text_cond import TextCond
from ..sampling.text2story.blending import Blend, blend_noise
from ..sampling.text2story.prompt_mixing import DIPW, MixStep, PromptMixer, Scorer, zero_padded
from .checks import finite
from .fits import fit_prompt, video_latent
from .mixing_weighting import Weighting

__all__ = ["blending_patch", "mixing_guider", "mixing_patch", "weight_curve"]

_KEY = "anchorshot_dipw"
_W = comfy.patcher_extension.WrappersMP
_TEXT = ("cross_attn", "attention_mask", "pooled_output")
_SCENE_ONLY = {"area", "mask", "control", "gligen", "hooks", "start_percent", "end_percent"}


# --- prompt mixing ---------------------------------------------------------------------------------------------------


def mixing_guider(model: Any, scene: Any, action: Any, negative: Any, cfg: float, weighting: Weighting) -> Any:
    """GUIDER: core's, on the patched model.

    Raises:
        InputError: a prompt of another model's text encoder; and see `mixing_patch`.
    """
    for name, prompt in (("scene", scene), ("negative", negative)):
        fit_prompt(prompt, name, text_width(model))
    guider = comfy.samplers.CFGGuider(mixing_patch(model, action, weighting))
    guider.set_conds(scene, negative)
    guider.set_cfg(cfg)
    return guider


def mixing_patch(model: Any, action: Any, weighting: Weighting) -> Any:
    """A clone of a MODEL that mixes `action` into the sampler's positive prompt.

    Raises:
        InputError: an input is missing or out of range, or the model has such a patch already.
    """
    if model.wrappers.get(_W.PREDICT_NOISE, {}).get(_KEY):
        raise InputError("model", "must not have a DIPW patch yet", "a patched model", "connect the one before DIPW")
    fit_prompt(action, "action", text_width(model))
    settings, (scorer, additional) = weighting.settings, weighting.scorer(model)
    scored = weighting.start_percent, weighting.end_percent
    mixing = _Mixing(action, settings, scored, scorer, weighting.schedule)
    model = model.clone()
    model.add_wrapper_with_key(_W.SAMPLER_SAMPLE, _KEY, mixing.sample)
    model.add_wrapper_with_key(_W.PREDICT_NOISE, _KEY, _predict)
    model.set_attachments(_KEY, mixing.record)
    if additional:  # loaded together with the model: loading them between steps could evict it
        model.set_additional_models(_KEY, additional)
    return model


@dataclass
class _Record:
    """Weights of the last finished runs, by the latents that they made."""

    runs: deque[tuple[str, tuple[MixStep, ...]]] = field(default_factory=lambda: deque(maxlen=16))

    def add(self, latents: Tensor, steps: Sequence[MixStep]) -> None:
        self.runs.append((_fingerprint(latents), tuple(steps)))

    def of(self, latents: Tensor) -> tuple[MixStep, ...]:
        """Steps of the run that made these latents; of the last run if they were changed since."""
        wanted = _fingerprint(latents)
        return next((steps for name, steps in reversed(self.runs) if name == wanted), self.runs[-1][1])


@dataclass
class _Run:
    """One sampling run: the mixer, and the conditioning that it mixes."""

    mixer: PromptMixer
    scene: dict[str, Any]
    masked: bool

    def positive(self, t: float) -> list[dict[str, Any]]:
        """The positive prompt for a call at noise level t."""
        text, conds = self.mixer.text(t), dict(self.scene["model_conds"])
        conds["c_crossattn"] = conds["c_crossattn"]._copy_with(text.tokens if self.masked else zero_padded(text))
        if self.masked:
            kind = conds["attention_mask"].cond.dtype
            whole = torch.int64 if kind.is_floating_point or kind == torch.bool else kind
            conds["attention_mask"] = conds["attention_mask"]._copy_with(text.mask.to(whole))
            if "num_tokens" in conds:  # some models read so many, whatever the mask says
                conds["num_tokens"] = conds["num_tokens"]._copy_with(max(1, int(text.mask.sum(1).max())))
        if text.pooled is not None:
            conds["y"] = conds["y"]._copy_with(text.pooled)
        return [{**self.scene, "model_conds": conds}]


@dataclass
class _Mixing:
    """What a patch knows before any run."""

    action: Any
    settings: DIPW
    scored: tuple[float, float]
    scorer: Scorer | None
    schedule: Tensor | None
    record: _Record = field(default_factory=_Record)

    def sample(self, executor: Any, guider: Any, sigmas: Tensor, extra: dict[str, Any], *rest: Any, **more: Any) -> Any:
        """SAMPLER_SAMPLE: give the run its state, and keep its record once it is finished."""
        if len(sigmas) < 2:  # half of a schedule that is split at one of its ends
            return executor(guider, sigmas, extra, *rest, **more)
        run = self._start(guider, sigmas, extra, *rest, **more)
        extra = {**extra, "model_options": {**extra["model_options"], _KEY: run}}
        samples = executor(guider, sigmas, extra, *rest, **more)
        self.record.add(guider.inner_model.process_latent_out(samples.to(torch.float32)), run.mixer.record)
        return samples

    def _start(
        self,
        guider: Any,
        sigmas: Tensor,
        extra: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> _Run:
        scenes, actions = guider.conds.get("positive") or [], comfy.sampler_helpers.convert_cond(self.action)
        for name, prompts in (("scene", scenes), ("action", actions)):
            if len(prompts) != 1:
                raise InputError(name, "must be one prompt, for the whole picture", len(prompts), "encode one text")
        if own := sorted(_SCENE_ONLY & actions[0].keys()):
            fix = "put it on the scene, which gives the action its place and its control"
            raise InputError("action", "must be a text alone", ", ".join(own), fix)
        if noise.ndim not in (4, 5):
            fix = "use a model of pictures or videos"
            raise InputError("latent", "must be one of pictures or videos", tuple(noise.shape), fix)
        if noise.ndim == 5 and guider.model_patcher.get_model_object("latent_format").latent_dimensions == 2:
            fix = "connect an empty latent of a picture, or a video model"
            raise InputError("latent", "must be one of pictures, as the model", tuple(noise.shape), fix)
        fit_texts(guider, {"positive": "scene"})
        scene = scenes[0]
        shared = {key: value for key, value in scene.items() if key not in _TEXT}
        encoded = comfy.samplers.encode_model_conds(
            guider.inner_model.extra_conds,
            [{**shared, **actions[0], "model_conds": {}}],
            noise,
            noise.device,
            "positive",
            latent_image=latent_image,
            denoise_mask=denoise_mask,
            seed=extra.get("seed"),
            latent_shapes=getattr(guider.inner_model, "latent_shapes", None),
        )[0]["model_conds"]
        a, b = [_text_cond(conds, noise) for conds in (scene["model_conds"], encoded)]
        if a.tokens.shape[-1] != b.tokens.shape[-1]:
            rule = f"must be {a.tokens.shape[-1]} wide, as the scene"
            raise InputError("action", rule, b.tokens.shape[-1], "encode both with the text encoder of this model")
        for name, text in (("scene", a), ("action", b)):
            finite(text.tokens, name, "prompt tokens")
        masked = all(_has_mask(conds) for conds in (scene["model_conds"], encoded))
        if "num_tokens" in encoded and noise.shape[0] > 1 and not torch.equal(a.mask.sum(1), b.mask.sum(1)):
            fix = "use batch_size 1, and queue several"  # it crops all rows alike, though each has its dominant prompt
            raise InputError("latent", "must be one video: this model has no mask for each", noise.shape[0], fix)
        start, end = (_level(guider, share) for share in self.scored)
        settings = replace(self.settings, start=start, end=end)
        levels = sigmas.tolist()
        span = _span(guider, levels) if self.schedule is None else (0.0, 1.0)
        whole = levels if self.schedule is None else _whole(self.schedule, levels)
        return _Run(PromptMixer(a, b, whole, self.scorer, settings, span, _noise(guider)), scene, masked)


def _level(guider: Any, share: float) -> float:
    """Noise level at a share of the schedule; asked for at a run's start, since later nodes may shift the schedule."""
    return float(guider.model_patcher.get_model_object("model_sampling").percent_to_sigma(share))


def _noise(guider: Any) -> Callable[[float], float] | None:
    """Share of noise at a noise level, where the level is not that itself: x = x0 + σ·noise of older models."""
    sampling = guider.model_patcher.get_model_object("model_sampling")
    return None if isinstance(sampling, comfy.model_sampling.CONST) else lambda level: level / (1 + level)


def _whole(schedule: Tensor, levels: Sequence[float]) -> list[float]:
    """All levels of the schedule that a sampler takes its part of."""
    whole: list[float] = schedule.tolist()
    if not whole or whole[0] < levels[0] - 1e-4 or whole[-1] > levels[-1] + 1e-4:
        seen = f"{len(whole)} levels from {whole[0]:g} to {whole[-1]:g}" if whole else "no levels"
        fix = f"connect the whole of what the sampler takes {levels[0]:g} to {levels[-1]:g} of"
        raise InputError("schedule", "must contain the sampler's noise levels", seen, fix)
    return whole


def _span(guider: Any, levels: Sequence[float]) -> tuple[float, float]:
    """Progress at both ends of a run: the shares of time at which their noise levels stand, in parts of 4096.

    A run that begins less than one and a half steps late begins at 0: some schedules (ddim_uniform) leave the top out.
    """
    parts = 1 << 12
    begin, end = (
        bisect_left(range(parts), -level - 1e-6, key=lambda i: -_level(guider, i / parts)) / parts
        for level in (levels[0], levels[-1])
    )
    return (0.0 if begin < 1.5 * (end - begin) / (len(levels) - 1) else begin), end


def _predict(executor: Any, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None) -> Tensor:
    """PREDICT_NOISE: one call of the model with the mixed prompt."""
    run: _Run | None = (model_options or {}).get(_KEY)
    if run is None:
        return executor(x, timestep, model_options or {}, seed)
    guider, kept = executor.class_obj, executor.class_obj.conds
    guider.conds = {**kept, "positive": run.positive(float(timestep.flatten()[0]))}
    try:
        x0 = executor(x, timestep, model_options, seed)
    finally:
        guider.conds = kept
    run.mixer.observe(x0 if x0.ndim == 5 else x0[:, :, None])
    return x0


def _has_mask(conds: dict[str, Any]) -> bool:
    """Whether there is a mask over the text's tokens."""
    mask = conds.get("attention_mask")
    return mask is not None and mask.cond.shape == conds["c_crossattn"].cond.shape[:2]


def _text_cond(conds: dict[str, Any], noise: Tensor) -> TextCond:
    """Text of processed conditioning, one row for each latent; padding is zero, as in `TextCond`."""
    if "c_crossattn" not in conds:
        fix = "use a model that reads its prompt by cross-attention or as tokens"
        raise InputError("model", "must take text", ", ".join(conds), fix)
    batch = noise.shape[0]
    tokens = comfy.utils.repeat_to_batch_size(conds["c_crossattn"].cond, batch).to(noise.device)
    if _has_mask(conds):
        mask = comfy.utils.repeat_to_batch_size(conds["attention_mask"].cond, batch).to(noise.device) > 0
        tokens = tokens.masked_fill(~mask[:, :, None], 0)
    else:  # a text ends where nothing but zeros follows
        mask = (tokens != 0).any(2).flip(1).cumsum(1).flip(1) > 0
    y = conds.get("y")
    pooled = comfy.utils.repeat_to_batch_size(y.cond, batch).to(noise.device) if y is not None else None
    return TextCond(tokens, mask, pooled if pooled is not None and pooled.ndim == 2 else None)


# --- blending --------------------------------------------------------------------------------------------------------


def blending_patch(
    model: Any,
    previous: Any,
    gamma: float,
    when: str = "every_step",
    end_percent: float = 1.0,
    end: str = "first",
    decay: float = 0.9,
) -> Any:
    """A clone of a MODEL that draws one end of what it samples towards the neighbouring segment's latent.

    Raises:
        InputError: the neighbour is no latent of a video, or (when sampling starts) of another size.
    """
    model = model.clone()
    if previous is None or gamma == 0 or (when == "every_step" and end_percent == 0):
        return model
    near = video_latent(previous, "previous")
    key = f"anchorshot_twb_{end}"
    if model.wrappers.get(_W.SAMPLER_SAMPLE, {}).get(key):
        fix = "use one TWB Blend for each end of a segment"
        raise InputError("model", "must not be blended at this end yet", f"end: {end}", fix)

    def sample(executor: Any, guider: Any, sigmas: Tensor, extra: dict[str, Any], *rest: Any, **more: Any) -> Any:
        callback, noise, *others = rest
        fit_texts(guider)
        sizes = [(*t.shape[1:2], *t.shape[3:]) for t in (near, noise)]
        if noise.ndim != 5 or sizes[0] != sizes[1]:
            seen = f"{tuple(near.shape)} for {tuple(noise.shape)}"
            raise InputError("previous", "must have the channels and size of the new latent", seen, "sample both alike")
        neighbour = comfy.utils.repeat_to_batch_size(near, noise.shape[0]).to(noise)
        neighbour = guider.inner_model.process_latent_in(neighbour)
        until = _level(guider, end_percent) if when == "every_step" else 0.0
        blend = Blend(neighbour, gamma, cast(Any, end), until, decay)
        if when == "initial_noise":
            if noise.any():  # else a second sampler goes on from the first one's latents
                noise = blend_noise(noise, blend)
            return executor(guider, sigmas, extra, callback, noise, *others, **more)
        extra = {**extra, "model_options": {**extra["model_options"], key: blend}}
        return executor(guider, sigmas, extra, *rest, **more)

    def after_cfg(args: dict[str, Any]) -> Tensor:
        blend: Blend | None = args["model_options"].get(key)
        x0: Tensor = args["denoised"]
        return x0 if blend is None else blend(x0, float(args["sigma"].flatten()[0]))

    model.add_wrapper_with_key(_W.SAMPLER_SAMPLE, key, sample)
    # Not PREDICT_NOISE: so DIPW scores what was blended, whichever of the two patches came first.
    model.set_model_sampler_post_cfg_function(after_cfg)
    return model


# --- the curve -------------------------------------------------------------------------------------------------------


def weight_curve(mixed: Any, latent: Any) -> Tensor:
    """IMAGE `[1, H, W, 3]`: weights over the steps of the run that made `latent`; of a batch the mean.

    Raises:
        InputError: `mixed` is not from a DIPW node, or has not been sampled yet.
    """
    record = getattr(mixed, "model_patcher", mixed).attachments.get(_KEY)
    if record is None or not record.runs:
        seen = "no DIPW" if record is None else "no finished run"
        raise InputError("mixed", "must be what the latent was sampled with", seen, "connect DIPW Guider or its model")
    if getattr(latent["samples"], "is_nested", False) is True:
        fix = "connect what the sampler made with it"
        raise InputError("latent", "must be of one picture or video", "a nested latent", fix)
    weights = torch.stack([step.weights.mean(0) for step in record.of(latent["samples"])])
    page = draw_curves("DIPW weights", {"scene": weights[:, 0].tolist(), "action": weights[:, 1].tolist()})
    return torch.from_numpy(np.asarray(page, dtype=np.float32) / 255)[None]


def _fingerprint(latents: Tensor) -> str:
    data = latents.detach().to("cpu", torch.float32).contiguous()
    return f"{tuple(data.shape)} {hashlib.sha1(data.numpy().tobytes()).hexdigest()}"
