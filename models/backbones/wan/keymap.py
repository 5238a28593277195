"""Wan transformers: the original names (also ComfyUI's) ↔ diffusers' WanTransformer3DModel, at any width and depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...io.key_table import StateDict, Table
from ...io.shapes import count_blocks, need, need_config

_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
_IMAGE_ATTENTION = {"k_img": "add_k_proj", "v_img": "add_v_proj", "norm_k_img": "norm_added_k"}


def _modules() -> dict[str, tuple[str, ...]]:
    out: dict[str, tuple[str, ...]] = {
        "patch_embedding": ("patch_embedding",),
        "time_embedding.0": ("condition_embedder.time_embedder.linear_1",),
        "time_embedding.2": ("condition_embedder.time_embedder.linear_2",),
        "text_embedding.0": ("condition_embedder.text_embedder.linear_1",),
        "text_embedding.2": ("condition_embedder.text_embedder.linear_2",),
        "time_projection.1": ("condition_embedder.time_proj",),
        "img_emb.proj.0": ("condition_embedder.image_embedder.norm1",),
        "img_emb.proj.1": ("condition_embedder.image_embedder.ff.net.0.proj",),
        "img_emb.proj.3": ("condition_embedder.image_embedder.ff.net.2",),
        "img_emb.proj.4": ("condition_embedder.image_embedder.norm2",),
        "img_emb.emb_pos": ("condition_embedder.image_embedder.pos_embed",),
        "head.head": ("proj_out",),
        "head.modulation": ("scale_shift_table",),
        "blocks.{i}.modulation": ("blocks.{i}.scale_shift_table",),
        "blocks.{i}.norm3": ("blocks.{i}.norm2",),  # the original numbers its norms in another order
        "blocks.{i}.ffn.0": ("blocks.{i}.ffn.net.0.proj",),
        "blocks.{i}.ffn.2": ("blocks.{i}.ffn.net.2",),
    }
    for public, ours in _ATTENTION.items():
        out[f"blocks.{{i}}.self_attn.{public}"] = (f"blocks.{{i}}.attn1.{ours}",)
    for public, ours in {**_ATTENTION, **_IMAGE_ATTENTION}.items():
        out[f"blocks.{{i}}.cross_attn.{public}"] = (f"blocks.{{i}}.attn2.{ours}",)
    return out


TABLE = Table(_modules())


def to_public(state: Mapping[str, torch.Tensor]) -> StateDict:
    """WanTransformer3DModel state dict → public names."""
    return TABLE.to_public(state)


def from_public(state: Mapping[str, torch.Tensor]) -> StateDict:
    """Public names → WanTransformer3DModel state dict."""
    return TABLE.from_public(state)


def infer_config(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """WanTransformer3DModel arguments from public names and shapes.

    Only the head count is not in the shapes: every published Wan has heads of 128; a width that is no multiple of 128
    needs an explicit config (InputError).
    """
    patch = need(state, "patch_embedding.weight")
    width, channels, *patch_size = patch.shape
    if width % 128:
        raise need_config("num_attention_heads", f"width {width}")
    image = "blocks.0.cross_attn.k_img.weight" in state
    position = state.get("img_emb.emb_pos")
    pixels = patch_size[0] * patch_size[1] * patch_size[2]
    return {
        "patch_size": list(patch_size),
        "num_attention_heads": width // 128,
        "attention_head_dim": 128,
        "in_channels": channels,
        "out_channels": need(state, "head.head.weight").shape[0] // pixels,
        "text_dim": need(state, "text_embedding.0.weight").shape[1],
        "freq_dim": need(state, "time_embedding.0.weight").shape[1],
        "ffn_dim": need(state, "blocks.0.ffn.0.weight").shape[0],
        "num_layers": count_blocks(state, "blocks."),
        "cross_attn_norm": "blocks.0.norm3.weight" in state,
        "qk_norm": "rms_norm_across_heads" if "blocks.0.self_attn.norm_q.weight" in state else None,
        "image_dim": need(state, "img_emb.proj.0.weight").shape[0] if image else None,
        "added_kv_proj_dim": width if image else None,
        "pos_embed_seq_len": None if position is None else position.shape[1],
    }
