"""Mochi 1 (AsymmDiT): genmo's names (also ComfyUI's) ↔ diffusers' MochiTransformer3DModel, at any width and depth.

diffusers' own converter is fixed to 48 blocks. Public files fuse q, k, v, order the halves of a gated MLP's input
(gate, value) where diffusers has (value, gate), and the last modulation (shift, scale) where diffusers has
(scale, shift). In the last block the text is read but not carried on: its modulation is a scale alone, which diffusers
gives another name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ...io.key_table import CONTEXT, OWN, StateDict, Table
from ...io.shapes import count_blocks, need

_WHOLE = {
    "pos_frequencies": "pos_frequencies",
    "x_embedder.proj": "patch_embed.proj",
    "t_embedder.mlp.0": "time_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_embed.timestep_embedder.linear_2",
    "t5_y_embedder.to_q": "time_embed.pooler.to_q",
    "t5_y_embedder.to_kv": "time_embed.pooler.to_kv",
    "t5_y_embedder.to_out": "time_embed.pooler.to_out",
    "t5_yproj": "time_embed.caption_proj",
    "final_layer.mod": "norm_out.linear",
    "final_layer.linear": "proj_out",
}
_BLOCK = {
    "mod_{s}": ("norm1{c}.linear",),
    "attn.qkv_{s}": ("attn1.{q}", "attn1.{k}", "attn1.{v}"),
    "attn.q_norm_{s}": ("attn1.norm_{a}q",),
    "attn.k_norm_{s}": ("attn1.norm_{a}k",),
    "attn.proj_{s}": ("attn1.{o}",),
    "mlp_{s}.w1": ("ff{c}.net.0.proj",),
    "mlp_{s}.w2": ("ff{c}.net.2",),
}
_STREAMS = ({"s": "x", **OWN}, {"s": "y", **CONTEXT})
_SWAPPED = frozenset({"final_layer.mod", "blocks.{i}.mlp_x.w1", "blocks.{i}.mlp_y.w1"})


def table(layers: int) -> Table:
    """The module table of a model of so many blocks."""
    modules: dict[str, tuple[str, ...]] = {public: (ours,) for public, ours in _WHOLE.items()}
    for names in _STREAMS:
        for public, parts in _BLOCK.items():
            modules[f"blocks.{{i}}.{public.format(**names)}"] = tuple(
                f"transformer_blocks.{{i}}.{p.format(**names)}" for p in parts
            )
    last = layers - 1
    modules[f"blocks.{last}.mod_y"] = (f"transformer_blocks.{last}.norm1_context.linear_1",)
    return Table(modules, swapped=_SWAPPED)


def table_of(names: Iterable[str]) -> Table:
    """The module table of the model that these diffusers names belong to."""
    return table(count_blocks(names, "transformer_blocks."))


def to_public(state: Mapping[str, torch.Tensor]) -> StateDict:
    """MochiTransformer3DModel state dict → public names."""
    return table_of(state).to_public(state)


def from_public(state: Mapping[str, torch.Tensor]) -> StateDict:
    """Public names → MochiTransformer3DModel state dict."""
    return table(count_blocks(state, "blocks.")).from_public(state)


def infer_config(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """MochiTransformer3DModel arguments from public names and shapes; the learned rotary frequencies tell the heads."""
    width, channels, patch, _ = need(state, "x_embedder.proj.weight").shape
    _, heads, half = need(state, "pos_frequencies").shape
    text, text_input = need(state, "t5_yproj.weight").shape
    out_channels = need(state, "final_layer.linear.weight").shape[0] // patch**2
    if heads * half * 2 != width:
        raise ValueError(f"{heads} heads of {half * 2} in a width of {width}")
    return {
        "patch_size": patch,
        "num_attention_heads": heads,
        "attention_head_dim": half * 2,
        "num_layers": count_blocks(state, "blocks."),
        "pooled_projection_dim": text,
        "in_channels": channels,
        "out_channels": None if out_channels == channels else out_channels,
        "text_embed_dim": text_input,
        "time_embed_dim": need(state, "t_embedder.mlp.0.weight").shape[1],
    }
