"""Qwen-Image: public files carry the names of diffusers' QwenImageTransformer2DModel already.

One tensor is ComfyUI's own: an empty one that marks models whose references are at t = 0 (Qwen-Image-Edit-2511), which
diffusers' config calls `zero_cond_t`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ....core.errors import InputError
from ...io.key_table import StateDict, Table
from ...io.shapes import count_blocks, need, need_config

__all__ = ["TABLE", "ZERO_COND_T", "from_public", "infer_config", "marked", "to_public"]

ZERO_COND_T = "__index_timestep_zero__"
"""Name of ComfyUI's mark."""

_PATCH = 2
_TOP = (
    "img_in", "txt_in", "txt_norm", "time_text_embed.timestep_embedder.linear_1",
    "time_text_embed.timestep_embedder.linear_2", "time_text_embed.addition_t_embedding", "norm_out.linear", "proj_out",
)  # fmt: skip
_BLOCK = (
    "img_mod.1", "txt_mod.1", "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj",
    "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out", "attn.norm_q", "attn.norm_k", "attn.norm_added_q",
    "attn.norm_added_k", "img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2",
)  # fmt: skip

TABLE = Table({name: (name,) for name in (*_TOP, *(f"transformer_blocks.{{i}}.{module}" for module in _BLOCK))})


def to_public(state: Mapping[str, torch.Tensor]) -> StateDict:
    """QwenImageTransformer2DModel state dict → public names; `marked` adds ComfyUI's mark where it belongs."""
    return TABLE.to_public(_unmarked(state))


def from_public(state: Mapping[str, torch.Tensor]) -> StateDict:
    """Public names → QwenImageTransformer2DModel state dict, without ComfyUI's mark."""
    return TABLE.from_public(_unmarked(state))


def marked(state: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> StateDict:
    """A public state dict with ComfyUI's mark if the model's references are at t = 0."""
    mark = {ZERO_COND_T: torch.zeros(0)} if config.get("zero_cond_t") else {}
    return {**_unmarked(state), **mark}


def infer_config(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """QwenImageTransformer2DModel arguments from public names and shapes.

    Only the rotary split of a head is not in the shapes: (16, 56, 56) for the published head size of 128; another head
    size needs an explicit config (InputError).
    """
    width, channels = need(state, "img_in.weight").shape
    head = need(state, "transformer_blocks.0.attn.norm_q.weight").shape[0]
    if head != 128:
        raise need_config("axes_dims_rope", f"attention_head_dim {head}")
    out = need(state, "proj_out.weight").shape[0]
    if width % head or out % _PATCH**2:
        rule, fix = (
            "Qwen-Image has whole heads and patches of 2×2",
            "check that the file holds a Qwen-Image transformer",
        )
        raise InputError("state_dict", rule, f"width {width}, output {out}", fix)
    return {
        "patch_size": _PATCH,
        "in_channels": channels,
        "out_channels": out // _PATCH**2,
        "num_layers": count_blocks(state, "transformer_blocks."),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": need(state, "txt_norm.weight").shape[0],
        "guidance_embeds": False,
        "axes_dims_rope": [16, 56, 56],
        "zero_cond_t": ZERO_COND_T in state,
        "use_additional_t_cond": "time_text_embed.addition_t_embedding.weight" in state,
    }


def _unmarked(state: Mapping[str, torch.Tensor]) -> StateDict:
    return {key: tensor for key, tensor in state.items() if key != ZERO_COND_T}
