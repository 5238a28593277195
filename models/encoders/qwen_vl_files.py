"""A Qwen2.5-VL from the files people have, as transformers' Qwen2_5_VLModel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.hooks import apply_group_offloading, apply_layerwise_casting
from torch import Tensor

from ...core.documents import as_object
from ...core.errors import InputError
from ..io import keymaps
from ..io.arguments import check_arguments, check_types, no_weights
from ..io.checkpoint import (
    FP8,
    PathLike,
    check_values,
    compare,
    dequantise,
    load_weights,
    read_checkpoint,
    read_config,
)
from ..io.loading import Offload, check_kind, own_part
from ..io.lora import LoraSpec, load_lora
from ..io.shapes import count_blocks
from .kinds import find_text
from .qwen_tokenizer import QwenTokenizer, load_qwen_tokenizer
from .tokenizer import listed_names

__all__ = ["VLPlan", "load_vl", "plan_vl", "prove_vl"]

KIND = "qwen_vl"
_KEEP = ("norm", "ln_q", "embed_tokens", "patch_embed", "lora_")
"""What stays in the compute type under fp8; small LoRAs would round to 0."""

_TEXT = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads hidden_act "
    "rms_norm_eps"
).split()
_EYES = (
    "depth hidden_size hidden_act intermediate_size num_heads in_channels patch_size spatial_merge_size "
    "temporal_patch_size window_size out_hidden_size fullatt_block_indexes"
).split()
_NO_IDS = {"bos_token_id": None, "eos_token_id": None}  # those of the public vocabulary by default; no use here
_FIX = "give the config that belongs to the file"


@dataclass
class VLPlan:
    """A model without weights, the tensors that belong in it, and what else a file says."""

    skeleton: Any
    state: dict[str, Tensor]
    tokenizer: QwenTokenizer
    metadata: dict[str, str]
    names: list[str]
    source: str


def plan_vl(
    path: PathLike,
    tokenizer: PathLike | None,
    config: Mapping[str, Any] | PathLike | None,
    dtype: torch.dtype,
    values: bool = True,
) -> VLPlan:
    """Read a file's header; see `qwen_vl.load_qwen_vl`. Without `values` large files stay unread."""
    path = Path(path)
    whole = path
    if (path / "text_encoder").is_dir() and not (path / "config.json").is_file():
        path = path / "text_encoder"
    checkpoint = own_part(KIND, read_checkpoint(path))
    if tokenizer is None and checkpoint.config is not None:
        tokenizer = whole
    reader = load_qwen_tokenizer(tokenizer, checkpoint.metadata, checkpoint.name)
    check_kind(KIND, checkpoint)
    own = dequantise(checkpoint if values else checkpoint.without_large_values(), dtype)
    if keymaps.find_keys(KIND).is_own(own.keys()):
        own = keymaps.to_public(KIND, own)
    arguments = read_config(config) or checkpoint.config or keymaps.infer_config(KIND, own, checkpoint.metadata)
    state = keymaps.from_public(KIND, own)
    skeleton = _build(arguments, state, reader)
    return VLPlan(skeleton, state, reader, checkpoint.metadata, listed_names(checkpoint.metadata), checkpoint.name)


def prove_vl(plan: VLPlan, dtype: torch.dtype) -> None:
    """Check that a plan's tensors are the model's, and numbers. Raises InputError."""
    compare(plan.skeleton, plan.state, plan.source)
    check_values(plan.state, dtype, plan.source)


def load_vl(
    plan: VLPlan,
    dtype: torch.dtype,
    device: torch.device,
    fp8: bool = False,
    offload: Offload | None = None,
    loras: Sequence[LoraSpec] = (),
) -> Any:
    """The model of a plan with its weights; the plan's tensors are used up.

    Args:
        plan: from `plan_vl`.
        dtype: what the model computes in.
        device: where it computes.
        fp8: keep linear weights in fp8 and cast each layer when it is used.
        offload: move single layers to `device` only while they are used.
        loras: adapters to add, in order; files may hold a transformer's half, too.

    Raises:
        InputError: broken weights, or a LoRA that does not fit.
    """
    kept: set[str] = set()
    if fp8 and any(t.dtype == torch.float8_e4m3fn for t in plan.state.values()):
        kept = {key for key, t in plan.state.items() if t.dtype in FP8 and not any(part in key for part in _KEEP)}
    model = load_weights(
        plan.skeleton,
        plan.state,
        source=plan.source,
        dtype=dtype,
        device=torch.device("cpu") if offload else device,
        keep_fp8=kept,
    )
    for spec in loras:
        load_lora(model, KIND, spec, dtype)
    if fp8:
        apply_layerwise_casting(model, torch.float8_e4m3fn, dtype, skip_modules_pattern=_KEEP)
    if offload:
        apply_group_offloading(model, device, offload_type="leaf_level", use_stream=device.type == "cuda")
    return model


def _build(arguments: Mapping[str, Any], state: Mapping[str, Tensor], tokenizer: QwenTokenizer) -> Any:
    """A Qwen2_5_VLModel without weights."""
    config_class, model_class = find_text(KIND).classes()
    # Older configs have the language model's arguments beside the eyes' part, newer ones in a part of their own.
    text = as_object(arguments.get("text_config") or dict(arguments), "config.text_config")
    eyes = as_object(arguments.get("vision_config") or {}, "config.vision_config")
    rope = _rope(text)
    parts = {}
    for name, part, known in (("text_config", text, _TEXT), ("vision_config", eyes, _EYES)):
        given = {key: part[key] for key in known if part.get(key) is not None}
        parts[name] = check_arguments(given, state, f"config.{name}")
        check_types(parts[name], config_class.sub_configs_defaults[name].config_class)
    for name, prefix, argument in (
        ("text_config", "language_model.layers.", "num_hidden_layers"),
        ("vision_config", "visual.blocks.", "depth"),
    ):
        depth = count_blocks(state, prefix)
        if parts[name].setdefault(argument, depth) != depth:
            rule = "the config must describe the file's own depth"
            raise InputError(f"config.{name}.{argument}", rule, parts[name][argument], f"{_FIX}: it has {depth}")
    head = parts["text_config"].get("hidden_size", 0) // max(parts["text_config"].get("num_attention_heads", 1), 1)
    if 2 * sum(rope["mrope_section"]) != head:
        rule = f"must add up to half a head ({head // 2})"
        raise InputError("config.mrope_section", rule, rope["mrope_section"], _FIX)
    _check_sizes(**parts)
    if tokenizer.largest_id >= parts["text_config"].get("vocab_size", 0):
        rule = f"must have ids below the model's vocabulary ({parts['text_config'].get('vocab_size')})"
        raise InputError("tokenizer", rule, tokenizer.largest_id, "give the tokenizer that belongs to the file")
    try:
        with no_weights():
            return model_class(
                config_class(
                    text_config={**parts["text_config"], "rope_parameters": rope, **_NO_IDS},
                    vision_config=parts["vision_config"],
                    image_token_id=tokenizer.id_of("<|image_pad|>"),
                    vision_start_token_id=tokenizer.id_of("<|vision_start|>"),
                    vision_end_token_id=tokenizer.id_of("<|vision_end|>"),
                )
            )
    except Exception as error:  # transformers checks configs with errors of many classes
        raise InputError("config", f"must describe a {model_class.__name__}", str(error), _FIX) from error


def _check_sizes(text_config: Mapping[str, Any], vision_config: Mapping[str, Any]) -> None:
    """Refuse sizes that no tensor's shape contradicts and that would stop the first call."""
    heads, shared = text_config.get("num_attention_heads", 1), text_config.get("num_key_value_heads", 1)
    if not shared or heads % shared:
        rule = f"must divide num_attention_heads ({heads})"
        raise InputError("config.text_config.num_key_value_heads", rule, shared, _FIX)
    width = text_config.get("hidden_size")
    if vision_config.get("out_hidden_size") != width:
        rule, seen = f"must be the language model's width ({width})", vision_config.get("out_hidden_size")
        raise InputError("config.vision_config.out_hidden_size", rule, seen, _FIX)
    token = vision_config.get("patch_size", 14) * vision_config.get("spatial_merge_size", 2)
    if token < 1 or vision_config.get("window_size", 112) < token:
        rule, seen = f"must be at least patch_size × spatial_merge_size ({token})", vision_config.get("window_size")
        raise InputError("config.vision_config.window_size", rule, seen, _FIX)


def _rope(text: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary base and how a head is split between time, rows and columns; configs have three ways to say it."""
    inner = as_object(text.get("rope_parameters") or text.get("rope_scaling") or {}, "config.rope_parameters")
    plain = {
        "rope_theta": float(text.get("rope_theta") or inner.get("rope_theta") or 1e6),
        "mrope_section": text.get("mrope_section") or inner.get("mrope_section") or [16, 24, 24],
    }
    checked = check_arguments(plain, {}, "config")
    sections = checked["mrope_section"]
    if not isinstance(sections, list | tuple) or len(sections) != 3 or not all(isinstance(n, int) for n in sections):
        raise InputError("config.mrope_section", "must be three whole numbers", sections, _FIX)
    return {"rope_type": "default", "rope_theta": checked["rope_theta"], "mrope_section": list(sections)}
