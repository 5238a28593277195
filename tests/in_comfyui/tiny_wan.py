"""Tiny Wan models and VAEs with the same random weights on both sides: ComfyUI's classes and the headless ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import save_file
from tiny_weights import seeded
from torch import Tensor

from anchorshot.models.backbones.wan.headless import DirectorWan
from anchorshot.models.io.keymaps import to_public
from anchorshot.pocket.native_files import wan_unet

CPU = torch.device("cpu")
TEXT = 24

WAN: dict[str, Any] = {
    "patch_size": [1, 2, 2],
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": TEXT,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 2,
    "rope_max_seq_len": 64,
}

VAE: dict[str, Any] = {
    "base_dim": 4,
    "decoder_base_dim": 8,
    "z_dim": 16,
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "attn_scales": [],
    "temperal_downsample": [True, True],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 8,
    "latents_mean": torch.linspace(-0.5, 0.5, 16).tolist(),
    "latents_std": torch.linspace(0.4, 1.5, 16).tolist(),
}
"""Wan 2.2's class, 8 px cells."""

PLAIN_VAE: dict[str, Any] = VAE | {
    "decoder_base_dim": None,
    "dim_mult": [1, 2, 2, 2],
    "temperal_downsample": [False, True, True],
    "is_residual": False,
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": None,
}
"""Wan 2.1's class, 8 px cells."""


def headless(seed: int = 0, **config: Any) -> DirectorWan:
    """The diffusers class."""
    return DirectorWan.adopt(seeded(WanTransformer3DModel(**{**WAN, **config}), seed))


def native(model: WanTransformer3DModel, kind: Any = comfy.supported_models.WAN21_T2V) -> ModelPatcher:
    """ComfyUI's MODEL with the weights of `model`, with the published latent statistics of its class."""
    config = kind(wan_unet(dict(model.config)))
    config.set_inference_dtype(torch.float32, None)
    made = config.get_model({}, "")
    made.diffusion_model.load_state_dict(to_public("wan", model.state_dict()))
    return ModelPatcher(made, load_device=CPU, offload_device=CPU)


def write(path: Path, kind: str, model: Any, config: dict[str, Any]) -> Path:
    """A file as the training writes them: public names, the configuration in the metadata."""
    state = {key: value.contiguous() for key, value in to_public(kind, model.state_dict()).items()}
    save_file(state, path, metadata={"config": json.dumps(config)})
    return path


def vae_file(folder: Path, config: dict[str, Any] = VAE) -> Path:
    """A tiny VAE's file."""
    return write(folder / "vae.safetensors", "wan_vae", seeded(AutoencoderKLWan(**config)), config)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pixels(count: int, height: int = 16, width: int = 32, seed: int = 0) -> Tensor:
    """IMAGE `[count, height, width, 3]`."""
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


def relative(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖."""
    return ((found - expected).norm() / expected.norm()).item()
