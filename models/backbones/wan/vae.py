"""Wan's causal video VAE as SmartDirector's Multi-Chunk VAE (§3.2): pixels to latents and back, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise

import torch
from diffusers import AutoencoderKLWan
from einops import rearrange
from torch import Tensor

from ....core.errors import InputError
from ....story.timeline import TEMPORAL_STRIDE
from ...encoders.vae import VideoCodec, scaled
from ...encoders.vae_tiling import Tiling, assemble, decode_tiles
from ...io.arguments import check_latents
from ...layouts.chunks import latent_length
from .vae_stream import WanStreamDecoder, WanStreamEncoder

__all__ = ["VideoVAE"]

_TOGETHER = 1 << 25
"""Pixels that decoding keeps of chunks that go through the network together: 0.4 GB."""


class VideoVAE(VideoCodec):
    """Wan's causal video VAE used as SmartDirector's Multi-Chunk VAE (§3.2); also an image VAE of single frames.

    A video is cut into chunks of 4n+1 frames; every chunk is encoded and decoded as if it were alone, so its first
    latent frame depends on its first frame only: a keyframe put there is encoded undisturbed. Takes diffusers'
    `AutoencoderKLWan`, both the Wan 2.1 class and the residual, patchified one of Wan 2.2. Latents are
    (mode − latents_mean) / latents_std of the config.

    Raises:
        InputError: the model does not compress time four times, or its latent statistics are unusable.
    """

    model: AutoencoderKLWan
    temporal_stride = TEMPORAL_STRIDE
    largest_frame = 1 << 20

    def __init__(
        self,
        model: AutoencoderKLWan,
        pixels_per_call: int = 1 << 20,
        tiling: Tiling = Tiling(),  # noqa: B008
    ) -> None:
        super().__init__(model, pixels_per_call, tiling)
        config = model.config
        factor = 2 ** sum(map(bool, config.temperal_downsample))  # diffusers' encoder takes 4 for granted
        if factor != TEMPORAL_STRIDE:
            fix = "use temperal_downsample with exactly two true entries"
            raise InputError("vae.temperal_downsample", "the VAE must compress time 4 times", factor, fix)
        self.latent_channels = config.z_dim
        check_latents(config, self.latent_channels, "vae", required=True)
        # From the layers and not from config.scale_factor_spatial, which small custom configs leave at its default.
        self.spatial_compression = 2 ** (len(config.dim_mult) - 1) * (config.patch_size or 1)
        self._mean = torch.tensor(config.latents_mean, dtype=torch.float32).view(1, -1, 1, 1, 1)
        self._std = torch.tensor(config.latents_std, dtype=torch.float32).view(1, -1, 1, 1, 1)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        self._check_pixels(images, "images", 4)
        return self._encode(list(images[:, None]), (1, *images.shape[-2:]))[:, :, 0]

    @torch.no_grad()
    def decode_image(self, latents: Tensor) -> Tensor:
        self._check_latents(latents, 4)
        return next(self._parts(latents[:, :, None]))[:, 0]

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
        self._check_pixels(video, "video", 5)
        if sum(chunks) != video.shape[1]:
            fix = f"give chunks that add up to the video's {video.shape[1]} frames"
            raise InputError("chunks", "must cover the video exactly", f"{sum(chunks)} frames", fix)
        pieces = video.split(list(chunks), dim=1)
        latents: dict[int, Tensor] = {}
        for n in sorted(set(chunks)):
            same = [i for i, length in enumerate(chunks) if length == n]
            z = self._encode([row for i in same for row in pieces[i]], (n, *video.shape[-2:]))
            latents.update(zip(same, z.split(len(video)), strict=True))
        return torch.cat([latents[i] for i in range(len(chunks))], dim=2)

    @torch.no_grad()
    def decode_chunks(self, latents: Tensor, latent_chunks: Sequence[int]) -> Iterator[Tensor]:
        """Decode every chunk on its own: `[B, C, F, h, w]` → parts `[B, t, 3, H, W]` in 0…1, in order of time.

        Args:
            latents: all chunks one after the other in time.
            latent_chunks: latent frames f of each chunk, together F.

        A chunk of f latents gives 4(f−1)+1 frames. They come as they are ready, so a film can stream to disk. A part
        is of one chunk: all of it, or of large frames as few as `pixels_per_call` allows. Small neighbouring chunks of
        equal length go through the network together.

        Raises:
            InputError: `latent_chunks` do not add up to F (raised by the call, not by the first `next`).
        """
        self._check_latents(latents, 5)
        if min(latent_chunks, default=0) < 1 or sum(latent_chunks) != latents.shape[2]:
            fix = f"give positive counts that add up to {latents.shape[2]}"
            raise InputError("latent_chunks", "must cover the latents exactly", list(latent_chunks), fix)
        return self._stream(latents, list(latent_chunks))

    def encode_video(self, video: Tensor) -> Tensor:
        """Encode a video of one chunk, see `encode_chunks`."""
        return self.encode_chunks(video, [video.shape[1]])

    def decode_stream(self, latents: Tensor) -> Iterator[Tensor]:
        """Decode a video of one chunk, see `decode_chunks`."""
        return self.decode_chunks(latents, [latents.shape[2]])

    @torch.no_grad()
    def _stream(self, latents: Tensor, latent_chunks: list[int]) -> Iterator[Tensor]:
        batch, _, _, h, w = latents.shape
        pixels = batch * h * w * self.spatial_compression**2
        pieces = latents.split(latent_chunks, dim=2)
        for length, run in groupby(pieces, key=lambda piece: piece.shape[2]):
            run_pieces = list(run)
            at_once = max(1, min(self.pixels_per_call // pixels, _TOGETHER // (pixels * TEMPORAL_STRIDE * length)))
            for start in range(0, len(run_pieces), at_once):
                together = run_pieces[start : start + at_once]
                if len(together) == 1:
                    yield from self._parts(together[0])
                else:
                    yield from torch.cat(list(self._parts(torch.cat(together))), 1).split(batch)

    def _encode(self, rows: Sequence[Tensor], size: tuple[int, int, int]) -> Tensor:
        """Rows `[T, 3, H, W]` of the same `size` (T, H, W) → `[B, C, f, h, w]`; little of them is copied at once."""
        frames, height, width = size
        h, w = height // self.spatial_compression, width // self.spatial_compression
        side = self._tile_side(h, w, len(rows))
        at_once = self._rows(h, w, side)

        def run(part: Sequence[Tensor], ys: slice, xs: slice) -> Tensor:
            encoder = WanStreamEncoder(self.model)
            for begin, end in pairwise([0, *range(1, frames + 1, TEMPORAL_STRIDE)]):
                x = torch.stack([row[begin:end, :, ys, xs] for row in part])
                encoder(rearrange(self._to_network(x), "b t c h w -> b c t h w"))
            return encoder.finish()

        def tile(ys: slice, xs: slice) -> Tensor:
            ys, xs = scaled(ys, self.spatial_compression), scaled(xs, self.spatial_compression)
            return torch.cat([run(rows[i : i + at_once], ys, xs) for i in range(0, len(rows), at_once)])

        z = tile(slice(0, h), slice(0, w)) if side is None else assemble(tile, h, w, side)
        return (z - self._mean.to(z.device)) / self._std.to(z.device)

    @torch.no_grad()
    def _parts(self, latents: Tensor) -> Iterator[Tensor]:
        """Decode one chunk of every row."""
        z = latents.to(self.device, torch.float32)
        z = (z * self._std.to(z.device) + self._mean.to(z.device)).to(self.dtype)
        height, width = z.shape[-2:]
        side = self._tile_side(height, width, len(z))
        few = z.split(self._rows(height, width, side))
        # Rows that do not go together go side by side, so that none has to wait as a whole for the others.
        for parts in zip(*(self._pixels(part, side, len(z)) for part in few), strict=True):
            x = torch.cat(parts) if len(parts) > 1 else parts[0]
            yield rearrange((x / 2 + 0.5).clamp(0, 1), "b c t h w -> b t c h w")

    @torch.no_grad()
    def _pixels(self, z: Tensor, side: int | None, batch: int) -> Iterator[Tensor]:
        """Parts `[B, 3, t, H, W]` in −1…1 of some of a batch's rows, at the same times for all of them."""
        h, w = z.shape[-2:]
        at_once = max(1, self.pixels_per_call // (batch * h * w * self.spatial_compression**2 * TEMPORAL_STRIDE))
        z = self.model.post_quant_conv(z)
        if side is None:
            decoder = WanStreamDecoder(self.model)
            for part in z.split(at_once, 2):
                yield decoder(part)
            return
        window = self._window(batch, h, w, TEMPORAL_STRIDE)
        for video in decode_tiles(
            lambda: WanStreamDecoder(self.model), z, side, self.spatial_compression, at_once, window
        ):
            for part in video.split(at_once * TEMPORAL_STRIDE, 2):
                yield part.to(self.device)

    def _values_per_pixel(self) -> float:
        width = self.model.config.decoder_base_dim or self.model.config.base_dim
        return 50.0 * width / (self.model.config.patch_size or 1) ** 2
