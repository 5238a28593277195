"""A tiny Qwen3-VL as ComfyUI's CLIP: real classes, the real tokenizer, random weights."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import comfy.sd
import comfy.text_encoders.qwen3vl as qwen3vl
import torch
from comfy.supported_models_base import ClipTarget
from in_comfyui.tiny import strong_

KIND = "qwen3vl_4b"
_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1}  # fmt: skip
_VISION = {"hidden_size": 32, "intermediate_size": 32, "depth": 1, "deepstack_visual_indexes": [0]}


def qwen3vl_clip() -> Any:
    """CLIP that generates, in doubt about every token."""
    with (
        patch.dict(qwen3vl.QWEN3VL_VISION, {KIND: _VISION}),
        patch.dict(qwen3vl.QWEN3VL_VISION_COMMON, {"num_heads": 2}),
    ):
        target = ClipTarget(qwen3vl.tokenizer(KIND), qwen3vl.te(torch.float32, model_type=KIND))
        clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float32, f"{KIND}_model_config": _TEXT})
    strong_(clip.cond_stage_model)
    with torch.no_grad():
        clip.cond_stage_model.qwen3vl_4b.transformer.model.norm.weight.mul_(0.1)
    return clip
