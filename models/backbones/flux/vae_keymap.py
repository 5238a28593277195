"""FLUX.1's VAE: the published names (also ComfyUI's) → diffusers' AutoencoderKL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...io.key_table import StateDict
from ...io.shapes import count_blocks

__all__ = ["FLUX_VAE_CONFIG", "from_public", "infer_config"]

FLUX_VAE_CONFIG: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "act_fn": "silu",
    "latent_channels": 16,
    "norm_num_groups": 32,
    "sample_size": 1024,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "force_upcast": True,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "mid_block_add_attention": True,
}
"""The published VAE; its scaling and shift are not in the file."""


def from_public(state: Mapping[str, torch.Tensor]) -> StateDict:
    """Public names → AutoencoderKL state dict, by diffusers' own converter."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    counts = {f"{way}_block_types": count_blocks(state, f"{side}.{way}.") for side, way in _SIDES}
    blocks = {name: [""] * count for name, count in counts.items()}  # all that the converter reads of a config
    return convert_ldm_vae_checkpoint(dict(state), blocks)


_SIDES = (("encoder", "down"), ("decoder", "up"))


def infer_config(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """AutoencoderKL arguments: without a config every file is taken for FLUX.1's."""
    return dict(FLUX_VAE_CONFIG)
