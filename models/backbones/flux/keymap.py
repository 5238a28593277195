"""Flux: Black Forest Labs' names (also ComfyUI's) ↔ diffusers' FluxTransformer2DModel, at any width and depth.

diffusers' own converter is fixed to width 3072. Public files fuse q, k, v (and in single blocks the MLP's input) in one
matrix, and order the last modulation (shift, scale) where diffusers has (scale, shift).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...io.key_table import CONTEXT, OWN, StateDict, Table
from ...io.shapes import count_blocks, need, need_config

_DOUBLE = {
    "{s}_mod.lin": ("norm1{c}.linear",),
    "{s}_attn.qkv": ("attn.{q}", "attn.{k}", "attn.{v}"),
    "{s}_attn.norm.query_norm": ("attn.norm_{a}q",),
    "{s}_attn.norm.key_norm": ("attn.norm_{a}k",),
    "{s}_attn.proj": ("attn.{o}",),
    "{s}_mlp.0": ("ff{c}.net.0.proj",),
    "{s}_mlp.2": ("ff{c}.net.2",),
}
_STREAMS = ({"s": "img", **OWN}, {"s": "txt", **CONTEXT})
_SINGLE = {
    "modulation.lin": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
}


def _modules() -> dict[str, tuple[str, ...]]:
    out: dict[str, tuple[str, ...]] = {"img_in": ("x_embedder",), "txt_in": ("context_embedder",)}
    embedders = {"time_in": "timestep_embedder", "guidance_in": "guidance_embedder", "vector_in": "text_embedder"}
    for public, embedder in embedders.items():
        for n, layer in ((1, "in_layer"), (2, "out_layer")):
            out[f"{public}.{layer}"] = (f"time_text_embed.{embedder}.linear_{n}",)
    for names in _STREAMS:
        for public, parts in _DOUBLE.items():
            out[f"double_blocks.{{i}}.{public.format(**names)}"] = tuple(
                f"transformer_blocks.{{i}}.{p.format(**names)}" for p in parts
            )
    for public, parts in _SINGLE.items():
        out[f"single_blocks.{{i}}.{public}"] = tuple(f"single_transformer_blocks.{{i}}.{p}" for p in parts)
    out["final_layer.linear"] = ("proj_out",)
    out["final_layer.adaLN_modulation.1"] = ("norm_out.linear",)
    return out


TABLE = Table(
    _modules(),
    swapped=frozenset({"final_layer.adaLN_modulation.1"}),
    weight_names={"query_norm": "scale", "key_norm": "scale"},
)


def to_public(state: Mapping[str, torch.Tensor]) -> StateDict:
    """FluxTransformer2DModel state dict → public names."""
    return TABLE.to_public(state)


def from_public(state: Mapping[str, torch.Tensor]) -> StateDict:
    """Public names → FluxTransformer2DModel state dict; the width is read from the tensors."""
    rows = state["img_in.weight"].shape[0] if "img_in.weight" in state else None
    return TABLE.from_public(state, width=rows)


def infer_config(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """FluxTransformer2DModel arguments from public names and shapes.

    Only the rotary split of a head is not in the shapes: (16, 56, 56) for the published head size of 128; another head
    size needs an explicit config (InputError).
    """
    width, channels = need(state, "img_in.weight").shape
    head = need(
        state,
        "single_blocks.0.norm.query_norm.scale",
        "single_blocks.0.norm.query_norm.weight",
        "double_blocks.0.img_attn.norm.query_norm.scale",
    ).shape[0]
    if head != 128:
        raise need_config("axes_dims_rope", f"attention_head_dim {head}")
    out_channels = need(state, "final_layer.linear.weight").shape[0]
    return {
        "patch_size": 1,
        "in_channels": channels,
        "out_channels": None if out_channels == channels else out_channels,
        "num_layers": count_blocks(state, "double_blocks."),
        "num_single_layers": count_blocks(state, "single_blocks."),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": need(state, "txt_in.weight").shape[1],
        "pooled_projection_dim": need(state, "vector_in.in_layer.weight").shape[1],
        "guidance_embeds": "guidance_in.in_layer.weight" in state,
        "axes_dims_rope": [16, 56, 56],
    }
