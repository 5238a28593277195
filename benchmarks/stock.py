"""The stock diffusers pipelines, around the same weights as our samplers: shared, not copied."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import nn

from ..models.backbones.flux.headless import CaptainFlux
from ..models.backbones.wan.headless import DirectorWan

__all__ = ["flux_pipeline", "wan_pipeline"]


def flux_pipeline(model: CaptainFlux, shift: float = 1.0) -> FluxPipeline:
    """Return `FluxPipeline` for given prompt embeddings and latents as output."""
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=None,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=_share(model, FluxTransformer2DModel),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def wan_pipeline(model: DirectorWan, shift: float) -> WanPipeline:
    """Return `WanPipeline` for given prompt embeddings and latents as output."""
    transformer = _share(model, WanTransformer3DModel)
    if transformer is not model:
        config = model.config  # the rotary tables are no part of the state
        rope = WanRotaryPosEmbed(config.attention_head_dim, config.patch_size, config.rope_max_seq_len)
        transformer.rope = rope.to(model.device)
    pipeline = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _share(model: Any, stock: Any) -> Any:
    """Return the stock class on the model's own tensors.

    A model that offloading, fp8 storage or compiling took hold of is returned itself: a copy without its hooks would
    not be compared fairly, and it runs the inherited stock code when called the stock way.
    """
    if _is_hooked(model):
        return model
    with torch.device("meta"):
        transformer = stock.from_config(model.config)
    transformer.load_state_dict(model.state_dict(), assign=True)
    return transformer.eval()


def _is_hooked(model: nn.Module) -> bool:
    """Whether any part has a replaced or compiled forward, adapters, or weights of several precisions."""
    parts = list(model.modules())
    replaced = any("forward" in vars(part) or getattr(part, "_compiled_call_impl", None) is not None for part in parts)
    precisions = {parameter.dtype for parameter in model.parameters()}
    return replaced or bool(getattr(model, "peft_config", None)) or len(precisions) > 1
