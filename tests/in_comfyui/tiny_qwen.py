"""A tiny Qwen-Image with the same strong random weights in ComfyUI and in diffusers."""

from __future__ import annotations

from typing import Any

import comfy.supported_models
import torch
from diffusers import QwenImageTransformer2DModel
from in_comfyui.tiny import patcher
from torch import Tensor

from anchorshot.models.backbones.qwen_image.headless import PairQwen

WIDTH = 24
"""Of the prompt tokens."""
CONFIG: dict[str, Any] = {
    "in_channels": 64,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 3,
    "joint_attention_dim": WIDTH,
    "axes_dims_rope": (4, 6, 6),
}


def native(zero: bool = True) -> Any:
    """MODEL; `zero`: its references are at t = 0, as Qwen-Image-Edit-2511's."""
    method = {"default_ref_method": "index_timestep_zero"} if zero else {}
    return patcher(comfy.supported_models.QwenImage, {"image_model": "qwen_image", **CONFIG, **method})


def headless(model: Any, zero: bool = True) -> PairQwen:
    """The command line's network with the MODEL's weights."""
    made = QwenImageTransformer2DModel(**CONFIG, out_channels=16, zero_cond_t=zero).eval()
    state = model.model.diffusion_model.state_dict()
    made.load_state_dict({key: value for key, value in state.items() if not key.startswith("__")})
    return PairQwen.adopt(made)


def prompt(seed: int, length: int = 6, **entry: Any) -> list[Any]:
    """A random CONDITIONING of one prompt."""
    tokens = torch.randn(1, length, WIDTH, generator=torch.Generator().manual_seed(seed))
    return [[tokens, {"pooled_output": None, **entry}]]


def frame(seed: int, height: int = 8, width: int = 12) -> Tensor:
    """A random latent [1, 16, height, width]."""
    return torch.randn(1, 16, height, width, generator=torch.Generator().manual_seed(seed))
