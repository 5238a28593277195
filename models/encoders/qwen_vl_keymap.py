"""Qwen2.5-VL: the names of its files ↔ those of transformers' Qwen2_5_VLModel, and its arguments from shapes.

Published folders and ComfyUI's single files say `model.…` for the language model and `visual.…` for the eyes. In memory
transformers has `language_model.…` and `visual.…`, and files written by its newest versions put `model.` before both.
The head that makes words of states (`lm_head`) is left out: what is wanted here are the states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..io.key_table import StateDict, Table
from ..io.shapes import count_blocks, need, need_config

__all__ = ["TABLE", "from_public", "infer_config", "lora_aliases", "to_public"]

_UNUSED = ("lm_head.", "logit_scale")
_TEXT_LAYER = (
    "input_layernorm", "post_attention_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
    "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
_EYES = ("patch_embed.proj", "merger.ln_q", "merger.mlp.0", "merger.mlp.2")
_EYES_LAYER = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def _modules() -> dict[str, tuple[str, ...]]:
    language = ["embed_tokens", "norm", *(f"layers.{{i}}.{name}" for name in _TEXT_LAYER)]
    eyes = [*_EYES, *(f"blocks.{{i}}.{name}" for name in _EYES_LAYER)]
    out: dict[str, tuple[str, ...]] = {f"model.{name}": (f"language_model.{name}",) for name in language}
    return out | {f"visual.{name}": (f"visual.{name}",) for name in eyes}


TABLE = Table(_modules())


def to_public(state: Mapping[str, torch.Tensor]) -> StateDict:
    """Qwen2_5_VLModel state dict → public names."""
    return TABLE.to_public(state)


def from_public(state: Mapping[str, torch.Tensor]) -> StateDict:
    """Public names (of either version) → Qwen2_5_VLModel state dict."""
    return TABLE.from_public(_public(state))


def lora_aliases(module: str) -> tuple[str, ...]:
    """Other names of a module of Qwen2_5_VLModel: inside the generating class, and of the language model alone."""
    return f"model.{module}", module.removeprefix("language_model.")


def infer_config(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Qwen2_5_VLConfig arguments, `text_config` and `vision_config`, from public names and shapes.

    The sizes of heads are not in the shapes: those of the published models are known (128, and 80 for the eyes); any
    other model needs an explicit config (InputError).
    """
    state = _public(state)
    vocabulary, width = need(state, "model.embed_tokens.weight").shape
    queries = need(state, "model.layers.0.self_attn.q_proj.weight").shape[0]
    keys = need(state, "model.layers.0.self_attn.k_proj.weight").shape[0]
    eyes, channels, frames, patch, _ = need(state, "visual.patch_embed.proj.weight").shape
    if eyes != 1280 or queries != width or width % 128 or keys % 128:
        seen = f"widths {width} and {eyes}"
        raise need_config("num_attention_heads, num_key_value_heads, mrope_section and num_heads", seen)
    merged = need(state, "visual.merger.mlp.0.weight").shape[1]
    return {
        "text_config": {
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": need(state, "model.layers.0.mlp.gate_proj.weight").shape[0],
            "num_hidden_layers": count_blocks(state, "model.layers."),
            "num_attention_heads": width // 128,
            "num_key_value_heads": keys // 128,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "mrope_section": [16, 24, 24],
        },
        "vision_config": {
            "depth": count_blocks(state, "visual.blocks."),
            "hidden_size": eyes,
            "intermediate_size": need(state, "visual.blocks.0.mlp.gate_proj.weight").shape[0],
            "num_heads": 16,
            "in_channels": channels,
            "patch_size": patch,
            "temporal_patch_size": frames,
            "spatial_merge_size": round((merged / eyes) ** 0.5),
            "out_hidden_size": need(state, "visual.merger.mlp.2.weight").shape[0],
            "window_size": 8 * patch,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
    }


def _public(state: Mapping[str, torch.Tensor]) -> StateDict:
    """The names of the published folders, whichever version wrote the file; what is not used is dropped."""
    out = {}
    for key, tensor in state.items():
        if key.startswith(_UNUSED):
            continue
        for newer, older in (("model.language_model.", "model."), ("model.visual.", "visual.")):
            if key.startswith(newer):
                key = older + key.removeprefix(newer)
                break
        out[key] = tensor
    return out
