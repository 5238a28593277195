"""Mochi 1 (AsymmDiT, text to video) with diffusers' classes: the model Text2Story was published on (§4.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from diffusers import AutoencoderKLMochi
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from ....core.errors import InputError
from ...encoders.vae import VideoCodec
from ...encoders.vae_tiling import Tiling, decode_tiles
from ...io.arguments import check_latents
from ...layouts.chunks import latent_length
from .spec import MOCHI_1

__all__ = ["MochiVAE"]

STRIDE = MOCHI_1.temporal_stride


class MochiVAE(VideoCodec):
    """Mochi's causal video VAE; also an image VAE of single frames.

    Latents are those that the transformer sees: (mode − latents_mean) · scaling_factor / latents_std of the config.
    Decoding follows genmo (and ComfyUI): every stage that multiplies frames drops those it makes before the first one,
    so that nothing later looks at them. diffusers' own `decode` drops them at the end, which changes a video's first
    frames. Decoding goes through time in parts, whose past each layer keeps: memory does not grow with the length.

    Args:
        model: the VAE; without an encoder (genmo publishes the decoder alone, too) it only decodes.
        pixels_per_call, tiling: see `ImageCodec`. Encoding looks at the whole length of a video at once, as the network
            does (attention over time), so its memory grows with it; tiles bound the frame.

    Raises:
        InputError: the model does not compress time six times, or its latent statistics are unusable.
    """

    model: AutoencoderKLMochi
    temporal_stride = STRIDE
    largest_frame = 1 << 20

    def __init__(
        self,
        model: AutoencoderKLMochi,
        pixels_per_call: int = 1 << 20,
        tiling: Tiling = Tiling(),  # noqa: B008
    ) -> None:
        super().__init__(model, pixels_per_call, tiling)
        config = model.config
        if model.temporal_compression_ratio != STRIDE:
            fix = "use temporal_expansions that multiply to 6"
            raise InputError("vae", "must compress time 6 times", model.temporal_compression_ratio, fix)
        self.latent_channels = config.latent_channels
        check_latents(config, self.latent_channels, "vae")
        self.spatial_compression = model.spatial_compression_ratio
        scale = float(config.scaling_factor)
        mean, std = config.latents_mean, config.latents_std
        if mean is None or std is None:
            mean, std = [0.0] * self.latent_channels, [1.0] * self.latent_channels
        self._mean = torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1, 1) / scale

    @property
    def can_encode(self) -> bool:
        """Whether the model has an encoder."""
        return self.model.encoder is not None

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        return self.encode_video(images[:, None])[:, :, 0]

    @torch.no_grad()
    def decode_image(self, latents: Tensor) -> Tensor:
        self._check_latents(latents, 4)
        return self.decode_video(latents[:, :, None])[:, 0]

    @torch.no_grad()
    def encode_video(self, video: Tensor) -> Tensor:
        """`[B, 6n+1, 3, H, W]` in 0…1 → `[B, C, n+1, h, w]`.

        Raises:
            InputError: not 6n+1 frames, what `encode_image` refuses, or a model without an encoder.
        """
        if not self.can_encode:
            fix = "give a file that holds the encoder, too, such as ComfyUI's mochi_vae.safetensors"
            raise InputError("video_vae", "needs an encoder here", "a decoder alone", fix)
        latent_length(video.shape[1], "video", STRIDE)
        self._check_pixels(video, "video", 5)

        def run(part: Tensor) -> Tensor:
            x = rearrange(self._to_network(part), "b t c h w -> b c t h w")
            return self.model.encode(x).latent_dist.mode().float()

        z = self._by_tiles(run, video, self.spatial_compression, 1)
        return (z - self._mean.to(z.device)) / self._std.to(z.device)

    @torch.no_grad()
    def decode_video(self, latents: Tensor) -> Tensor:
        """`[B, C, n+1, h, w]` → `[B, 6n+1, 3, H, W]` in 0…1."""
        return torch.cat(list(self.decode_stream(latents)), 1)

    def decode_stream(self, latents: Tensor) -> Iterator[Tensor]:
        """Decode in order of time: `[B, C, n+1, h, w]` → parts `[B, t, 3, H, W]` in 0…1, together 6n+1 frames."""
        self._check_latents(latents, 5)
        return self._stream(latents)

    @torch.no_grad()
    def _stream(self, latents: Tensor) -> Iterator[Tensor]:
        batch, _, _, h, w = latents.shape
        at_once = max(1, self.pixels_per_call // (batch * h * w * self.spatial_compression**2 * STRIDE))
        z = latents.to(self.device, torch.float32) * self._std.to(self.device) + self._mean.to(self.device)
        for x in self._pixels(z.to(self.dtype), self._tile_side(h, w, batch), at_once):
            yield rearrange((x / 2 + 0.5).clamp(0, 1), "b c t h w -> b t c h w")

    @torch.no_grad()
    def _pixels(self, z: Tensor, side: int | None, at_once: int) -> Iterator[Tensor]:
        if side is None:
            decoder = _Decoder(self.model.decoder)
            for part in z.split(at_once, 2):
                yield decoder(part)
            return
        window = self._window(len(z), z.shape[-2], z.shape[-1], STRIDE)
        for video in decode_tiles(
            lambda: _Decoder(self.model.decoder), z, side, self.spatial_compression, at_once, window
        ):
            for part in video.split(at_once * STRIDE, 2):
                yield part.to(self.device)

    def _values_per_pixel(self) -> float:
        return 50.0 * self.model.config.decoder_block_out_channels[0]


class _Decoder:
    """diffusers' MochiDecoder3D, run on one part of a video after the other as if on all of it at once."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._past: dict[Any, Tensor] = {}
        self._first = True

    def __call__(self, z: Tensor) -> Tensor:
        """The next latent frames `[B, C, f, h, w]` → pixels of −1…1 `[B, 3, t, H, W]`, fp32."""
        net, first = self._decoder, self._first
        self._first = False
        x = self._resnets(net.block_in.resnets, net.conv_in(z))
        for stage in net.up_blocks:
            x = self._resnets(stage.resnets, x).movedim(1, -1)
            frames, side = stage.temporal_expansion, stage.spatial_expansion
            x = rearrange(
                stage.proj(x), "b f h w (c t p q) -> b c (f t) (h p) (w q)", t=frames, p=side, q=side
            ).contiguous()
            x = x[:, :, frames - 1 :] if first else x
        x = net.nonlinearity(self._resnets(net.block_out.resnets, x))
        return net.proj_out(x.movedim(1, -1)).movedim(-1, 1).float()

    def park(self) -> None:
        """Move the past to the host's memory; the layers fetch it from there."""
        self._past = {layer: past.cpu() for layer, past in self._past.items()}

    def _resnets(self, blocks: Iterable[Any], x: Tensor) -> Tensor:
        for block in blocks:
            inner = self._convolve(block.conv1, block.nonlinearity(block.norm1(x)))
            x = x + self._convolve(block.conv2, block.nonlinearity(block.norm2(inner)))
        return x

    def _convolve(self, layer: Any, x: Tensor) -> Tensor:
        """A causal convolution; before the first frame stands that frame again."""
        if layer.time_pad:  # −0 would be no end to slice from: everything, not nothing
            past = self._past.get(layer)
            if past is None:
                past = x[:, :, :1].expand(-1, -1, layer.time_pad, -1, -1)
            x = torch.cat([past.to(x.device), x], 2)
            self._past[layer] = x[:, :, -layer.time_pad :].clone()
        edges = (layer.width_pad, layer.width_pad, layer.height_pad, layer.height_pad, 0, 0)
        return layer.conv(functional.pad(x, edges, mode="replicate"))
