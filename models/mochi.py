"""Mochi 1 (AsymmDiT, text to video) with diffusers' classes: the model Text2Story was published on (§4.1)."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLMochi
from einops import rearrange
from torch import Tensor

from ..story.errors import InputError
from .vae import ImageCodec

__all__ = ["MOCHI_GRID", "MochiVAE", "mochi_latents"]

MOCHI_GRID = 6
"""Mochi's VAE makes one latent frame of six: a video has 6n+1 frames."""


class MochiVAE(ImageCodec):
    """Mochi's causal video VAE; also an image VAE of single frames.

    Latents are those that the transformer sees: (mode − latents_mean) · scaling_factor / latents_std of the config.

    Raises:
        InputError: the model does not compress time six times.
    """

    model: AutoencoderKLMochi

    def __init__(self, model: AutoencoderKLMochi, pixels_per_call: int = 1 << 20) -> None:
        super().__init__(model, pixels_per_call)
        config = model.config
        if model.temporal_compression_ratio != MOCHI_GRID:
            fix = "use temporal_expansions that multiply to 6"
            raise InputError("vae", "must compress time 6 times", model.temporal_compression_ratio, fix)
        self.latent_channels = config.latent_channels
        self.image_size_multiple = model.spatial_compression_ratio
        scale = float(config.scaling_factor)
        mean, std = config.latents_mean, config.latents_std
        if mean is None or std is None:
            mean, std = [0.0] * self.latent_channels, [1.0] * self.latent_channels
        self._mean = torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1, 1) / scale

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        return self.encode_video(images[:, None])[:, :, 0]

    @torch.no_grad()
    def decode_image(self, latents: Tensor) -> Tensor:
        self._check_latents(latents, 4)
        return self.decode_video(latents[:, :, None])[:, 0]

    @torch.no_grad()
    def encode_video(self, video: Tensor) -> Tensor:
        """`[B, 6n+1, 3, H, W]` in 0…1 → `[B, C, n+1, h, w]`."""
        mochi_latents(video.shape[1], "video")
        x = rearrange(self._network_pixels(video, "video", 5), "b t c h w -> b c t h w")

        def run(part: Tensor) -> Tensor:
            return self.model.encode(part).latent_dist.mode().float()

        z = self._by_rows(run, x, x.shape[-1] * x.shape[-2])
        return (z - self._mean.to(z.device)) / self._std.to(z.device)

    @torch.no_grad()
    def decode_video(self, latents: Tensor) -> Tensor:
        """`[B, C, n+1, h, w]` → `[B, 6n+1, 3, H, W]` in 0…1."""
        self._check_latents(latents, 5)
        z = latents.to(self.device, torch.float32)
        z = (z * self._std.to(z.device) + self._mean.to(z.device)).to(self.dtype)

        def run(part: Tensor) -> Tensor:
            return self.model.decode(part).sample.float()

        x = self._by_rows(run, z, z.shape[-1] * z.shape[-2] * self.image_size_multiple**2)
        return rearrange((x / 2 + 0.5).clamp(0, 1), "b c t h w -> b t c h w")


def mochi_latents(frames: int, field: str = "frames") -> int:
    """Latent frames of a video of `frames`.

    Raises:
        InputError: not 6n+1.
    """
    if frames < 1 or (frames - 1) % MOCHI_GRID:
        near = max(1, round((frames - 1) / MOCHI_GRID) * MOCHI_GRID + 1)
        raise InputError(field, "must be 6n+1 frames, as Mochi's VAE needs", frames, f"use {near}")
    return (frames - 1) // MOCHI_GRID + 1
