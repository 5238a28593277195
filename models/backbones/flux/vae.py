"""FLUX.1's image VAE: pixels to latents and back."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from ...encoders.vae import ImageCodec
from ...encoders.vae_tiling import Tiling
from ...io.arguments import check_latents

__all__ = ["ImageVAE"]


class ImageVAE(ImageCodec):
    """FLUX.1's image VAE (diffusers `AutoencoderKL`): latents = (mode − shift_factor) · scaling_factor."""

    model: AutoencoderKL
    largest_frame = 1 << 22  # norms over the whole frame: a tile's colours differ, so only where it must be

    def __init__(
        self,
        model: AutoencoderKL,
        pixels_per_call: int = 1 << 20,
        tiling: Tiling = Tiling(),  # noqa: B008
    ) -> None:
        super().__init__(model, pixels_per_call, tiling)
        self.latent_channels = model.config.latent_channels
        check_latents(model.config, self.latent_channels, "vae")
        self.spatial_compression = 2 ** (len(model.config.block_out_channels) - 1)
        self._scale = float(model.config.scaling_factor or 1.0)
        self._shift = float(model.config.shift_factor or 0.0)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        self._check_pixels(images, "images", 4)

        def run(part: Tensor) -> Tensor:
            return self.model.encode(self._to_network(part)).latent_dist.mode().float()

        return (self._by_tiles(run, images, self.spatial_compression, 1) - self._shift) * self._scale

    @torch.no_grad()
    def decode_image(self, latents: Tensor) -> Tensor:
        self._check_latents(latents, 4)
        z = (latents.to(self.device, torch.float32) / self._scale + self._shift).to(self.dtype)

        def run(part: Tensor) -> Tensor:
            return self.model.decode(part).sample.float()

        return (self._by_tiles(run, z, 1, self.spatial_compression) / 2 + 0.5).clamp(0, 1)

    def _values_per_pixel(self) -> float:
        return 10.0 * self.model.config.block_out_channels[0]
