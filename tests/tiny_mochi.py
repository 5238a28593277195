"""A tiny Mochi with strong random weights, for the tests that read it from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLMochi, MochiTransformer3DModel
from safetensors.torch import save_file

from anchorshot.models.io.keymaps import to_public

MOCHI: dict[str, Any] = {
    "num_attention_heads": 4,
    "attention_head_dim": 8,
    "num_layers": 2,
    "pooled_projection_dim": 16,
    "in_channels": 12,
    "text_embed_dim": 24,
    "time_embed_dim": 16,
}
MOCHI_VAE: dict[str, Any] = {
    "encoder_block_out_channels": (32, 32, 32, 64),
    "decoder_block_out_channels": (32, 32, 32, 64),
    "layers_per_block": (1, 1, 1, 1, 1),
}


def strong(model: torch.nn.Module, seed: int = 0) -> Any:
    """Random weights whose every part shows in the output: zero-mean of unit gain, norm gains near 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        value = torch.randn(p.shape, generator=generator)
        gain = p.ndim == 1 and "norm" in name and name.endswith("weight")
        small = p.ndim == 1 or name == "pos_frequencies"
        p.data = 1 + 0.2 * value if gain else value * (0.2 if small else max(p[0].numel(), 1) ** -0.5)
    return model.eval().requires_grad_(False)


def transformer(seed: int = 0, **changes: Any) -> MochiTransformer3DModel:
    return strong(MochiTransformer3DModel(**MOCHI | changes), seed)


def vae(seed: int = 1) -> AutoencoderKLMochi:
    return strong(AutoencoderKLMochi(**MOCHI_VAE), seed)


def write(
    path: Path, kind: str, model: torch.nn.Module, prefix: str = "", convert: Callable = lambda t: t, only: str = ""
) -> Path:
    """A file in public names without any config; `only` keeps one side of a VAE, under genmo's names."""
    state = to_public(kind, model.state_dict())
    state = {k.removeprefix(only): v for k, v in state.items() if k.startswith(only)}
    save_file({prefix + k: convert(v).contiguous() for k, v in state.items()}, path)
    return path


def call(model: MochiTransformer3DModel, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """One stock forward on fixed inputs; two of seven tokens are padding."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(1, 12, 2, 4, 6, generator=generator).to(dtype)
    text = torch.randn(1, 7, MOCHI["text_embed_dim"], generator=generator).to(dtype)
    mask = torch.arange(7)[None] < 5
    with torch.no_grad():
        return model(latents, text, torch.tensor([500.0]), mask, return_dict=False)[0].float()
