"""T5 and UMT5 encoders: public files already carry the transformers names; only the tied embedding differs.

A file holds the token table once, as `shared.weight` or as `encoder.embed_tokens.weight`; the model's state dict names
it twice. Files may also carry what an encoder does not use (a decoder, ComfyUI's embedded `spiece_model`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..io.key_table import StateDict, unknown_key
from ..io.shapes import count_blocks, need

_TABLES = ("shared.weight", "encoder.embed_tokens.weight")
_UNUSED = ("decoder.", "lm_head.", "spiece_model", "logit_scale")


def to_public(state: Mapping[str, torch.Tensor]) -> StateDict:
    """T5EncoderModel / UMT5EncoderModel state dict → public names, the token table once."""
    out = {k: v for k, v in state.items() if k not in _TABLES}
    out[_TABLES[0]] = need(state, *_TABLES)
    for key in out:
        if not key.startswith(("encoder.", *_TABLES)):
            raise unknown_key(key, "a T5 encoder")
    return out


def from_public(state: Mapping[str, torch.Tensor]) -> StateDict:
    """Public names → T5EncoderModel / UMT5EncoderModel state dict, the token table under both of its names."""
    out = to_public({k: v for k, v in state.items() if not k.startswith(_UNUSED)})
    out[_TABLES[1]] = out[_TABLES[0]]
    return out


def infer_config(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """T5Config / UMT5Config arguments from names and shapes (`model_type` tells which of the two).

    UMT5 has a relative position table in every block, T5 in the first only.
    """
    layer = "encoder.block.0.layer."
    vocabulary, d_model = need(state, *_TABLES).shape
    buckets, heads = need(state, layer + "0.SelfAttention.relative_attention_bias.weight").shape
    gated = layer + "1.DenseReluDense.wi_0.weight" in state
    per_block = "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight" in state
    return {
        "model_type": "umt5" if per_block else "t5",
        "vocab_size": vocabulary,
        "d_model": d_model,
        "d_kv": need(state, layer + "0.SelfAttention.q.weight").shape[0] // heads,
        "d_ff": need(state, layer + "1.DenseReluDense.wo.weight").shape[1],
        "num_layers": count_blocks(state, "encoder.block."),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "feed_forward_proj": "gated-gelu" if gated else "relu",
    }
