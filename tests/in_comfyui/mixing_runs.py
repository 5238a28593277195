"""Prompt mixing and blending on tiny native models, as its tests share them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.patcher_extension
import comfy.samplers
import torch
from comfy_extras.nodes_custom_sampler import Noise_EmptyNoise, Noise_RandomNoise, SamplerCustomAdvanced
from in_comfyui.tiny_wan import TEXT
from torch import Tensor

from anchorshot.comfyui.mixing import _KEY
from anchorshot.nodes import mixing
from anchorshot.sampling.text2story.prompt_mixing import MixStep

MOCHI: dict[str, Any] = {
    "image_model": "mochi_preview", "depth": 2, "patch_size": 2, "num_heads": 2, "hidden_size_x": 64,
    "hidden_size_y": 32, "mlp_ratio_x": 192.0, "mlp_ratio_y": 2.0, "learn_sigma": False, "in_channels": 12,
    "qk_norm": True, "qkv_bias": False, "out_bias": True, "attn_drop": 0.0, "patch_embed_bias": True,
    "posenc_preserve_area": True, "timestep_mlp_bias": True, "attend_to_padding": False, "timestep_scale": 1000.0,
    "use_t5": True, "t5_feat_dim": TEXT, "t5_token_length": 16, "rope_theta": 10000.0,
}  # fmt: skip
CHANNELS = {"wan": 16, "mochi": 12}
PLAIN: dict[str, Any] = {"lambda_picture": 1.0, "scene_text": "a desert", "action_text": "a red triangle jumps"}


def looking(studio: dict[str, Any]) -> dict[str, Any]:
    """Inputs that let CLIP look at every step."""
    return PLAIN | {"clip": studio["retrieval_clip"], "clip_vision": studio["clip_vision"], "score_every": 1}


def prompt(seed: int, live: int = 9, padding: float = 1.0) -> list[Any]:
    """A random CONDITIONING of 16 tokens, of which the mask shows the first `live`."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(16) < live).long()[None]
    tokens = torch.randn(1, 16, TEXT, generator=generator)
    return [[torch.where(mask[:, :, None] > 0, tokens, padding * tokens), {"attention_mask": mask}]]


SCENE, ACTION, NEGATIVE = prompt(1, 6), prompt(2, 11), prompt(3, 2)


def latent(kind: str, frames: int = 3, rows: int = 1) -> Tensor:
    return torch.zeros(rows, CHANNELS[kind], frames, 4, 6)


def levels_of(model: Any, steps: int = 4, scheduler: str = "simple") -> Tensor:
    """Noise levels of one of core's schedules."""
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps)


def run(
    guider: Any,
    given: Tensor,
    steps: int = 4,
    sampler: str = "euler",
    seed: int | None = 1,
    part: slice | None = None,
    scheduler: str = "simple",
) -> Tensor:
    """What SamplerCustomAdvanced makes of latents with a schedule, or a part of its levels; no seed adds no noise."""
    levels = levels_of(guider.model_patcher, steps, scheduler)
    levels = levels if part is None else levels[part]
    chosen = comfy.samplers.sampler_object(sampler)
    noise = Noise_EmptyNoise() if seed is None else Noise_RandomNoise(seed)
    return SamplerCustomAdvanced.execute(noise, guider, chosen, levels, {"samples": given}).args[0]["samples"]


def plain(model: Any, positive: Any = SCENE, cfg: float = 4.0) -> Any:
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, NEGATIVE)
    guider.set_cfg(cfg)
    return guider


def mixed(
    model: Any, scene: Any = SCENE, action: Any = ACTION, negative: Any = NEGATIVE, cfg: float = 4.0, **weighting: Any
) -> Any:
    return mixing.DIPWGuider.execute(model, scene, action, negative, cfg, **weighting).args[0]


def patched(model: Any, action: Any = ACTION, **weighting: Any) -> Any:
    return mixing.DIPWModelPatch.execute(model, action, **weighting).args[0]


def blended(model: Any, previous: Tensor | None, gamma: float = 0.25, **settings: Any) -> Any:
    given = None if previous is None else {"samples": previous}
    return mixing.TWBBlend.execute(model, gamma, given, **settings).args[0]


def steps_of(guider: Any) -> tuple[MixStep, ...]:
    return guider.model_patcher.attachments[_KEY].runs[-1][1]


def weights_of(guider: Any) -> Tensor:
    return torch.stack([step.weights[0] for step in steps_of(guider)])


def spied(model: Any, see: Callable[[dict[str, Any]], None]) -> Any:
    """A clone that shows `see` what the model is called with."""
    model = model.clone()

    def look(executor: Any, x: Any, t: Any, *args: Any, **more: Any) -> Any:
        context = args[1] if len(args) > 1 else more.get("c_crossattn")
        see({**more, "tokens": context, "t": float(t[0])})
        return executor(x, t, *args, **more)

    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "test", look)
    return model
