"""Exact tokens and FLOPs of one forward pass of the Wan class; see `models.cost`.

Source: SmartDirector §3.2 (one timestep per latent frame); attention within a neighbourhood is ours.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ....core.errors import InputError
from ...cost import Config, Cost, count_flops
from ...layouts.neighbourhood import Neighbourhood
from .headless import DirectorWan

__all__ = ["WAN", "count_wan", "wan_cost"]

_WAN: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "cross_attn_norm": True,
}
WAN: dict[str, dict[str, Any]] = {
    "wan2.1-t2v-1.3b": {**_WAN, "num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "wan2.1-t2v-14b": {**_WAN, "num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
    "wan2.1-i2v-14b": {
        **_WAN,
        **{"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
        **{"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120},
    },
    "wan2.2-ti2v-5b": {
        **_WAN,
        **{"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48},
    },
    "wan2.2-t2v-a14b": {**_WAN, "num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
    "wan2.2-i2v-a14b": {**_WAN, "num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40, "in_channels": 36},
}
"""WanTransformer3DModel configs of the public models; a step of Wan 2.2's A14B runs one of its two experts."""


def wan_cost(
    config: Config,
    latent: tuple[int, int, int],
    *,
    text: int = 512,
    timesteps: int = 1,
    image: int = 0,
    batch: int = 1,
    near: Neighbourhood | None = None,
) -> Cost:
    """Cost of one forward of a Wan-class model.

    Args:
        config: diffusers config of the WanTransformer3DModel.
        latent: (frames, height, width) of the latent, before patches. Multi-chunk latents count all chunks' frames.
        text: text tokens; Wan pads to 512.
        timesteps: distinct timesteps in a row: 1 (stock), the latent frames (SmartDirector §3.2: clean keyframes), or
            the tokens (stock Wan 2.2 5B image-to-video).
        image: CLIP image tokens (257 for Wan 2.1 image-to-video).
        batch: rows of the batch.
        near: which latent frames attend to which; None: all to all.

    Raises:
        InputError: a latent that the patches do not divide, or image tokens the model cannot take.
    """
    pt, ph, pw = config["patch_size"]
    if any(side < 1 or side % patch for side, patch in zip(latent, (pt, ph, pw), strict=True)):
        rule = f"must be multiples of the patches {(pt, ph, pw)}"
        raise InputError("latent", rule, latent, "choose a size the model can cut into patches")
    image_dim, added = config.get("image_dim") or 0, config.get("added_kv_proj_dim") or 0
    if image and not (image_dim and added):
        raise InputError("image", "needs a model with image_dim and added_kv_proj_dim", image, "use 0 for this model")
    d = config["num_attention_heads"] * config["attention_head_dim"]
    layers, patch = config["num_layers"], pt * ph * pw
    out = config.get("out_channels") or config["in_channels"]
    tokens = math.prod(latent) // patch
    frames = latent[0] // pt
    meetings = tokens * tokens if near is None else near.pairs * (tokens // frames) ** 2
    parts = {
        "embedding": tokens * config["in_channels"] * patch * d + text * (config["text_dim"] * d + d * d),
        # Sinusoids → d → d, then six modulation vectors, once for all blocks.
        "conditioning": timesteps * (config["freq_dim"] * d + d * d + 6 * d * d),
        "self linear": layers * tokens * 4 * d * d,
        "self attention": layers * meetings * 2 * d,
        "cross linear": layers * (tokens * 2 * d * d + text * 2 * d * d),
        "cross attention": layers * tokens * text * 2 * d,
        "mlp linear": layers * tokens * 2 * d * config["ffn_dim"],
        "output": tokens * d * out * patch,
    }
    if image:
        parts["embedding"] += image * (image_dim * image_dim + image_dim * d)
        parts["cross linear"] += layers * image * 2 * added * d
        parts["cross attention"] += layers * tokens * image * 2 * d
    return Cost(tokens, 0, {name: 2 * batch * products for name, products in parts.items()})


def count_wan(
    model: DirectorWan, latent: tuple[int, int, int], *, text: int = 512, near: Neighbourhood | None = None
) -> int:
    """Count one `forward_chunks` of a model (best on the meta device): a timestep for each latent frame."""
    frames, height, width = latent
    config, device = model.config, model.device
    latents = torch.zeros(1, config.in_channels, frames, height, width, device=device)
    timestep = torch.zeros(1, frames, device=device)
    tokens = torch.zeros(1, text, config.text_dim, device=device)
    index = torch.arange(frames, dtype=torch.float64)
    return count_flops(lambda: model.forward_chunks(latents, timestep, tokens, index, near))
