"""Pixels to latents and back: one image interface over Flux's image VAE and Wan's causal video VAE.

Pixels are fp32 in 0…1, `[…, 3, H, W]`; latents are fp32, normalised to unit scale, so that 1 is the right amount of
noise for every model. Encoding takes the mode of the posterior: the same pixels always give the same latents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import torch
from diffusers import AutoencoderKL, AutoencoderKLWan
from diffusers.utils.torch_utils import get_module_execution_device
from einops import rearrange
from torch import Tensor

from ..story.errors import InputError
from ..story.timeline import GRID
from .arguments import check_latents
from .wan.layout import latent_length

__all__ = ["ImageCodec", "ImageVAE", "VideoVAE", "latent_length"]


class ImageCodec(ABC):
    """The interface of both VAEs for single images.

    `pixels_per_call` bounds how many pixels of one frame go through the network at once, over all rows of a batch:
    memory follows it, and small frames are batched while large ones go one by one.
    """

    model: AutoencoderKL | AutoencoderKLWan
    latent_channels: int
    image_size_multiple: int
    """Height and width in pixels must divide by this; it is also the spatial factor of the latents."""

    def __init__(self, model: AutoencoderKL | AutoencoderKLWan, pixels_per_call: int = 1 << 20) -> None:
        self.model = model.eval()
        self.pixels_per_call = pixels_per_call

    @property
    def device(self) -> torch.device:
        """Where results lie: the device that the model computes on, also when its weights are offloaded."""
        return get_module_execution_device(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """Precision the model computes in; pixels and latents outside are always fp32."""
        return self.model.dtype

    @abstractmethod
    def encode_image(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` in 0…1 → `[B, C, h, w]`.

        Raises:
            InputError: wrong shape, a size that does not divide by `image_size_multiple`, or values that are not
                finite numbers in 0…1.
        """

    @abstractmethod
    def decode_image(self, latents: Tensor) -> Tensor:
        """`[B, C, h, w]` → `[B, 3, H, W]` in 0…1."""

    def _network_pixels(self, pixels: Tensor, field: str, ndim: int) -> Tensor:
        """Check pixels and bring them to the network's range −1…1, device and dtype."""
        if pixels.ndim != ndim or pixels.shape[-3] != 3:
            layout = "[B, 3, H, W]" if ndim == 4 else "[B, T, 3, H, W]"
            raise InputError(field, f"must have the shape {layout}", list(pixels.shape), "give RGB pixels")
        height, width = pixels.shape[-2:]
        m = self.image_size_multiple
        if height % m or width % m or not height or not width:
            fix = f"resize to {max(m, round(width / m) * m)}x{max(m, round(height / m) * m)}"
            raise InputError(field, f"width and height must divide by {m}", f"{width}x{height}", fix)
        if pixels.numel():
            low, high = (v.item() for v in pixels.aminmax())
            if not (low >= -1e-4 and high <= 1 + 1e-4):  # NaN fails both comparisons
                raise InputError(field, "values must be numbers in 0…1", f"{low}…{high}", "scale or clamp the pixels")
        return (pixels.to(self.device, torch.float32) * 2 - 1).to(self.dtype)

    def _check_latents(self, latents: Tensor, ndim: int) -> None:
        if latents.ndim != ndim or latents.shape[1] != self.latent_channels:
            layout = f"[B, {self.latent_channels}, {'' if ndim == 4 else 'F, '}h, w]"
            raise InputError("latents", f"must have the shape {layout}", list(latents.shape), "use this VAE's latents")

    def _by_rows(self, run: Callable[[Tensor], Tensor], x: Tensor, frame_pixels: int) -> Tensor:
        """Run a batch in as few calls as `pixels_per_call` allows."""
        rows = max(1, self.pixels_per_call // frame_pixels)
        return torch.cat([run(part) for part in x.split(rows)]) if len(x) > rows else run(x)


class ImageVAE(ImageCodec):
    """Flux's image VAE (diffusers `AutoencoderKL`): latents = (mode − shift_factor) · scaling_factor."""

    model: AutoencoderKL

    def __init__(self, model: AutoencoderKL, pixels_per_call: int = 1 << 20) -> None:
        super().__init__(model, pixels_per_call)
        self.latent_channels = model.config.latent_channels
        check_latents(model.config, self.latent_channels, "vae")
        self.image_size_multiple = 2 ** (len(model.config.block_out_channels) - 1)
        self._scale = float(model.config.scaling_factor or 1.0)
        self._shift = float(model.config.shift_factor or 0.0)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        x = self._network_pixels(images, "images", 4)

        def run(part: Tensor) -> Tensor:
            return self.model.encode(part).latent_dist.mode().float()

        return (self._by_rows(run, x, x.shape[-1] * x.shape[-2]) - self._shift) * self._scale

    @torch.no_grad()
    def decode_image(self, latents: Tensor) -> Tensor:
        self._check_latents(latents, 4)
        z = (latents.to(self.device, torch.float32) / self._scale + self._shift).to(self.dtype)

        def run(part: Tensor) -> Tensor:
            return self.model.decode(part).sample.float()

        x = self._by_rows(run, z, z.shape[-1] * z.shape[-2] * self.image_size_multiple**2)
        return (x / 2 + 0.5).clamp(0, 1)


class VideoVAE(ImageCodec):
    """Wan's causal video VAE used as SmartDirector's Multi-Chunk VAE (§3.2); also an image VAE of single frames.

    A video is cut into chunks of 4n+1 frames; every chunk is encoded and decoded as if it were alone, so its first
    latent frame depends on its first frame only: a keyframe put there is encoded undisturbed. Takes diffusers'
    `AutoencoderKLWan`, both the Wan 2.1 class and the residual, patchified one of Wan 2.2. Latents are
    (mode − latents_mean) / latents_std of the config.

    Raises:
        InputError: the model does not compress time four times, or its latent statistics are unusable.
    """

    model: AutoencoderKLWan

    def __init__(self, model: AutoencoderKLWan, pixels_per_call: int = 1 << 20) -> None:
        super().__init__(model, pixels_per_call)
        config = model.config
        factor = 2 ** sum(map(bool, config.temperal_downsample))  # diffusers' encoder takes 4 for granted
        if factor != GRID:
            fix = "use temperal_downsample with exactly two true entries"
            raise InputError("vae.temperal_downsample", "the VAE must compress time 4 times", factor, fix)
        self.latent_channels = config.z_dim
        check_latents(config, self.latent_channels, "vae", required=True)
        # From the layers and not from config.scale_factor_spatial, which small custom configs leave at its default.
        self.image_size_multiple = 2 ** (len(config.dim_mult) - 1) * (config.patch_size or 1)
        self._mean = torch.tensor(config.latents_mean, dtype=torch.float32).view(1, -1, 1, 1, 1)
        self._std = torch.tensor(config.latents_std, dtype=torch.float32).view(1, -1, 1, 1, 1)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        return self._encode(self._network_pixels(images, "images", 4)[:, None])[:, :, 0]

    @torch.no_grad()
    def decode_image(self, latents: Tensor) -> Tensor:
        self._check_latents(latents, 4)
        return self._decode(latents[:, :, None])[:, 0]

    @torch.no_grad()
    def encode_chunks(self, video: Tensor, chunks: Sequence[int]) -> Tensor:
        """Encode every chunk on its own: `[B, T, 3, H, W]` in 0…1 → `[B, C, F, h, w]`.

        Args:
            video: all chunks one after the other.
            chunks: frames of each chunk, each 4n+1, together T. F is the sum of their n+1.

        Chunks of equal length go through the network as one batch.

        Raises:
            InputError: a count that is not 4n+1 or does not add up, or what `encode_image` refuses.
        """
        for i, n in enumerate(chunks):
            latent_length(n, f"chunks[{i}]")
        x = self._network_pixels(video, "video", 5)
        if sum(chunks) != x.shape[1]:
            fix = f"give chunks that add up to the video's {x.shape[1]} frames"
            raise InputError("chunks", "must cover the video exactly", f"{sum(chunks)} frames", fix)
        pieces = x.split(list(chunks), dim=1)
        latents: dict[int, Tensor] = {}
        for n in sorted(set(chunks)):
            same = [i for i, length in enumerate(chunks) if length == n]
            z = self._encode(torch.cat([pieces[i] for i in same]))
            latents.update(zip(same, z.split(x.shape[0]), strict=True))
        return torch.cat([latents[i] for i in range(len(chunks))], dim=2)

    @torch.no_grad()
    def decode_chunks(self, latents: Tensor, latent_chunks: Sequence[int]) -> Iterator[Tensor]:
        """Decode every chunk on its own, in order: `[B, C, F, h, w]` → `[B, 4(f−1)+1, 3, H, W]` in 0…1 per chunk.

        Args:
            latents: all chunks one after the other in time.
            latent_chunks: latent frames f of each chunk, together F.

        Frames come as they are ready, so a film can stream to disk. Neighbouring chunks of equal length go through
        the network together as far as `pixels_per_call` allows.

        Raises:
            InputError: `latent_chunks` do not add up to F (raised by the call, not by the first `next`).
        """
        self._check_latents(latents, 5)
        if min(latent_chunks, default=0) < 1 or sum(latent_chunks) != latents.shape[2]:
            fix = f"give positive counts that add up to {latents.shape[2]}"
            raise InputError("latent_chunks", "must cover the latents exactly", list(latent_chunks), fix)
        return self._stream(latents, list(latent_chunks))

    @torch.no_grad()
    def _stream(self, latents: Tensor, latent_chunks: list[int]) -> Iterator[Tensor]:
        batch, _, _, h, w = latents.shape
        at_once = max(1, self.pixels_per_call // (batch * h * w * self.image_size_multiple**2))
        pieces = latents.split(latent_chunks, dim=2)
        for _, run in groupby(pieces, key=lambda piece: piece.shape[2]):
            run_pieces = list(run)
            for start in range(0, len(run_pieces), at_once):
                together = run_pieces[start : start + at_once]
                yield from self._decode(torch.cat(together)).split(batch)

    def _encode(self, x: Tensor) -> Tensor:
        def run(part: Tensor) -> Tensor:
            return self.model.encode(part).latent_dist.mode().float()

        z = self._by_rows(run, rearrange(x, "b t c h w -> b c t h w"), x.shape[-1] * x.shape[-2])
        return (z - self._mean.to(z.device)) / self._std.to(z.device)

    def _decode(self, latents: Tensor) -> Tensor:
        z = latents.to(self.device, torch.float32)
        z = (z * self._std.to(z.device) + self._mean.to(z.device)).to(self.dtype)

        def run(part: Tensor) -> Tensor:
            return self.model.decode(part).sample.float()

        x = self._by_rows(run, z, z.shape[-1] * z.shape[-2] * self.image_size_multiple**2)
        return rearrange((x / 2 + 0.5).clamp(0, 1), "b c t h w -> b t c h w")
