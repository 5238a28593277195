"""The pair model's first weights, from the keyframe model's: both have the same widths, heads and patches.

Flux's double-stream blocks are Qwen-Image's under other names. A single-stream block runs attention and MLP side by
side, on text and image alike; it becomes a block that runs them one after the other, with the same weights in both
streams. What differs a little is learned within a few hundred steps: the MLP sees what attention has added, text
stands behind the image instead of at position 0, and there is no pooled text, whose mean moves into the time's bias.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...models.encoders.text import TextEncoder
from ..world import Story
from .captions import tell_shots

__all__ = ["from_keyframe_model", "mean_power"]

StateDict = dict[str, Tensor]


def from_keyframe_model(flux: Mapping[str, Tensor], pooled: Tensor, power: float) -> StateDict:
    """State dict of QwenImageTransformer2DModel.

    Args:
        flux: FluxTransformer2DModel's.
        pooled: [D] the mean pooled text.
        power: mean square of the text encoder's states: RMSNorm takes it out of them.
    """
    out: StateDict = {}
    for old, new in (
        ("x_embedder", "img_in"),
        ("context_embedder", "txt_in"),
        ("time_text_embed.timestep_embedder.linear_1", "time_text_embed.timestep_embedder.linear_1"),
        ("time_text_embed.timestep_embedder.linear_2", "time_text_embed.timestep_embedder.linear_2"),
        ("norm_out.linear", "norm_out.linear"),
        ("proj_out", "proj_out"),
    ):
        out |= _linear(flux, old, new)
    out["txt_in.weight"] = out["txt_in.weight"] * power**0.5
    out["txt_norm.weight"] = torch.ones(out["txt_in.weight"].shape[1])
    text = "time_text_embed.text_embedder."
    hidden = torch.nn.functional.silu(
        flux[text + "linear_1.weight"].float() @ pooled.float() + flux[text + "linear_1.bias"].float()
    )
    bias = flux[text + "linear_2.weight"].float() @ hidden + flux[text + "linear_2.bias"].float()
    out["time_text_embed.timestep_embedder.linear_2.bias"] += bias
    doubles = _count(flux, "transformer_blocks.")
    for n in range(doubles):
        out |= _double(flux, f"transformer_blocks.{n}.", f"transformer_blocks.{n}.")
    for n in range(_count(flux, "single_transformer_blocks.")):
        out |= _single(flux, f"single_transformer_blocks.{n}.", f"transformer_blocks.{doubles + n}.")
    return out


@torch.no_grad()
def mean_power(encoder: TextEncoder, stories: Sequence[Story]) -> float:
    """Mean square of a text encoder's states of the captions of `stories`."""
    told = [shot for story in stories for shot in tell_shots(story, random.Random(story.seed))]
    cond = encoder.encode([shot.caption({a.name for a in shot.truth.actors}) for shot in told])
    return float(cond.tokens[cond.mask.bool()].square().mean())


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(int(k.removeprefix(prefix).split(".")[0]) for k in state if k.startswith(prefix))


def _linear(state: Mapping[str, Tensor], old: str, new: str) -> StateDict:
    return {f"{new}.{part}": state[f"{old}.{part}"].float().clone() for part in ("weight", "bias")}


def _double(flux: Mapping[str, Tensor], old: str, new: str) -> StateDict:
    out: StateDict = {}
    for key, value in flux.items():
        if not key.startswith(old):
            continue
        name = key.removeprefix(old)
        for theirs, ours in (
            ("norm1.linear", "img_mod.1"),
            ("norm1_context.linear", "txt_mod.1"),
            ("ff_context.", "txt_mlp."),
            ("ff.", "img_mlp."),
        ):
            if name.startswith(theirs):
                name = ours + name.removeprefix(theirs)
                break
        out[new + name] = value.float().clone()
    return out


def _single(flux: Mapping[str, Tensor], old: str, new: str) -> StateDict:
    out: StateDict = {}
    weight, bias = flux[old + "proj_out.weight"].float(), flux[old + "proj_out.bias"].float()
    dim = weight.shape[0]
    modulation = _linear(flux, old + "norm.linear", "m")
    for stream, names in (
        ("img", ("to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k")),
        ("txt", ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "norm_added_q", "norm_added_k")),
    ):
        for part in ("weight", "bias"):
            twice = torch.cat([modulation[f"m.{part}"]] * 2)
            out[f"{new}{stream}_mod.1.{part}"] = twice
        for source, name in zip(("to_q", "to_k", "to_v"), names, strict=False):
            out |= _linear(flux, f"{old}attn.{source}", f"{new}attn.{name}")
        out[f"{new}attn.{names[3]}.weight"] = weight[:, :dim].clone()
        out[f"{new}attn.{names[3]}.bias"] = bias / 2
        for source, name in (("norm_q", names[4]), ("norm_k", names[5])):
            out[f"{new}attn.{name}.weight"] = flux[f"{old}attn.{source}.weight"].float().clone()
        out |= _linear(flux, old + "proj_mlp", f"{new}{stream}_mlp.net.0.proj")
        out[f"{new}{stream}_mlp.net.2.weight"] = weight[:, dim:].clone()
        out[f"{new}{stream}_mlp.net.2.bias"] = bias / 2
    return out
