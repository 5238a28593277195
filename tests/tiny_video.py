"""A tiny Wan network and video VAE with random weights that keep a signal, and inputs for them."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from tiny_weights import seeded

from anchorshot.models.backbones.wan.vae import VideoVAE
from anchorshot.story.timeline import Timeline

HEIGHT, WIDTH, CHANNELS, FPS = 16, 32, 6, 8


def transformer(seed: int = 0) -> WanTransformer3DModel:
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "text_dim": 16,
        "freq_dim": 32,
        "ffn_dim": 64,
        "num_layers": 2,
        "rope_max_seq_len": 64,
    }
    return seeded(WanTransformer3DModel(**config), seed)


def video_vae() -> VideoVAE:
    net = AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        in_channels=12,
        out_channels=12,
        patch_size=2,
        is_residual=True,
        latents_mean=torch.linspace(-0.5, 0.5, CHANNELS).tolist(),
        latents_std=torch.linspace(0.4, 1.5, CHANNELS).tolist(),
    )
    return VideoVAE(seeded(net))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pixels(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


def seed(value: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(value)


TEXT = noise(1, 7, 16, seed=5)
EMPTY = noise(1, 7, 16, seed=6)


def plan(times: list[float], seconds: float = 2.125) -> Timeline:
    return Timeline.plan(FPS, seconds, times)
