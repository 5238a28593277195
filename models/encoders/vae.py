"""Pixels to latents and back: one image interface over Flux's image VAE and Wan's causal video VAE.

Pixels are fp32 in 0…1, `[…, 3, H, W]`; latents are fp32, normalised to unit scale, so that 1 is the right amount of
noise for every model. Encoding takes the mode of the posterior: the same pixels always give the same latents.

Memory follows one frame, not the video: both ways go through time in parts whose past each layer keeps. Of frames that
are too large (`Tiling`) it follows a tile.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise

import torch
from diffusers import AutoencoderKL, AutoencoderKLWan
from diffusers.utils.torch_utils import get_module_execution_device
from einops import rearrange
from torch import Tensor

from ...core.errors import InputError
from ...story.timeline import GRID
from ..backbones.wan.vae_stream import WanStreamDecoder, WanStreamEncoder
from ..io.arguments import check_latents
from ..layouts.chunks import latent_length
from .vae_tiling import Tiling, assemble, decode_tiles

__all__ = ["ImageCodec", "ImageVAE", "VideoVAE", "latent_length"]

_TOGETHER = 1 << 25
"""Pixels that decoding keeps of chunks that go through the network together: 0.4 GB."""
_WINDOW = 1 << 28
"""Pixels that decoding in tiles puts together in the host's memory: 3.2 GB, at 1920x1088 128 frames."""


class ImageCodec(ABC):
    """The interface of both VAEs for single images.

    `pixels_per_call` bounds how many pixels of one frame go through the network at once, over all rows of a batch:
    memory follows it, and small frames are batched while large ones go one by one. `tiling` says when one frame is cut
    into tiles.
    """

    model: AutoencoderKL | AutoencoderKLWan
    latent_channels: int
    image_size_multiple: int
    """Height and width in pixels must divide by this; it is also the spatial factor of the latents."""
    largest_frame: int
    """Pixels of the largest frame that goes through the network as a whole where `tiling` leaves that open."""

    def __init__(
        self,
        model: AutoencoderKL | AutoencoderKLWan,
        pixels_per_call: int = 1 << 20,
        tiling: Tiling = Tiling(),  # noqa: B008
    ) -> None:
        self.model = model.eval()
        self.pixels_per_call = pixels_per_call
        self.tiling = tiling

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

    @abstractmethod
    def _values_per_pixel(self) -> float:
        """How many numbers per pixel of a frame the network holds at its peak, about."""

    def _check_pixels(self, pixels: Tensor, field: str, ndim: int) -> None:
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

    def _to_network(self, pixels: Tensor) -> Tensor:
        """Pixels in the network's range −1…1, device and dtype."""
        return (pixels.to(self.device, torch.float32) * 2 - 1).to(self.dtype)

    def _check_latents(self, latents: Tensor, ndim: int) -> None:
        if latents.ndim != ndim or latents.shape[1] != self.latent_channels:
            layout = f"[B, {self.latent_channels}, {'' if ndim == 4 else 'F, '}h, w]"
            raise InputError("latents", f"must have the shape {layout}", list(latents.shape), "use this VAE's latents")

    def _tile_side(self, height: int, width: int, rows: int = 1) -> int | None:
        """Side, in cells of the latents, of the tiles that frames of so many cells are cut into; None: they are not."""
        cell = self.image_size_multiple
        side = max(4, self.tiling.tile // cell)
        if max(height, width) <= side:
            return None
        pixels = height * width * cell**2
        together = pixels * max(1, min(rows, self.pixels_per_call // pixels))
        need = together * self._values_per_pixel() * self.dtype.itemsize
        return side if self.tiling.wanted(pixels, self.largest_frame, need, self.device) else None

    def _rows(self, height: int, width: int, side: int | None = None) -> int:
        """Rows of a batch of frames of so many cells, cut into tiles of `side` cells, that go together."""
        most = max(height, width) if side is None else side
        return max(1, self.pixels_per_call // (min(height, most) * min(width, most) * self.image_size_multiple**2))

    def _window(self, rows: int, height: int, width: int, grid: int) -> int:
        """Latent frames, of `grid` frames each, that tiles are put together of at once."""
        return max(1, _WINDOW // (rows * height * width * self.image_size_multiple**2 * grid))

    def _by_tiles(self, run: Callable[[Tensor], Tensor], x: Tensor, cell: int, scale: int) -> Tensor:
        """Run a batch of frames in as few calls as `pixels_per_call` and `tiling` allow.

        Args:
            run: the network.
            x: frames or latents; a cell of the latents is `cell` wide in them, and `scale` in what `run` returns.
        """
        height, width = x.shape[-2] // cell, x.shape[-1] // cell
        side = self._tile_side(height, width, len(x))
        at_once = self._rows(height, width, side)

        def by_rows(part: Tensor) -> Tensor:
            return torch.cat([run(few) for few in part.split(at_once)]) if len(part) > at_once else run(part)

        def tile(rows: slice, columns: slice) -> Tensor:
            return by_rows(x[..., _scaled(rows, cell), _scaled(columns, cell)])

        return by_rows(x) if side is None else assemble(tile, height, width, side, scale)


def _scaled(cells: slice, by: int) -> slice:
    return slice(cells.start * by, cells.stop * by)


class ImageVAE(ImageCodec):
    """Flux's image VAE (diffusers `AutoencoderKL`): latents = (mode − shift_factor) · scaling_factor."""

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
        self.image_size_multiple = 2 ** (len(model.config.block_out_channels) - 1)
        self._scale = float(model.config.scaling_factor or 1.0)
        self._shift = float(model.config.shift_factor or 0.0)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        self._check_pixels(images, "images", 4)

        def run(part: Tensor) -> Tensor:
            return self.model.encode(self._to_network(part)).latent_dist.mode().float()

        return (self._by_tiles(run, images, self.image_size_multiple, 1) - self._shift) * self._scale

    @torch.no_grad()
    def decode_image(self, latents: Tensor) -> Tensor:
        self._check_latents(latents, 4)
        z = (latents.to(self.device, torch.float32) / self._scale + self._shift).to(self.dtype)

        def run(part: Tensor) -> Tensor:
            return self.model.decode(part).sample.float()

        return (self._by_tiles(run, z, 1, self.image_size_multiple) / 2 + 0.5).clamp(0, 1)

    def _values_per_pixel(self) -> float:
        return 10.0 * self.model.config.block_out_channels[0]


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

    @torch.no_grad()
    def _stream(self, latents: Tensor, latent_chunks: list[int]) -> Iterator[Tensor]:
        batch, _, _, h, w = latents.shape
        pixels = batch * h * w * self.image_size_multiple**2
        pieces = latents.split(latent_chunks, dim=2)
        for length, run in groupby(pieces, key=lambda piece: piece.shape[2]):
            run_pieces = list(run)
            at_once = max(1, min(self.pixels_per_call // pixels, _TOGETHER // (pixels * GRID * length)))
            for start in range(0, len(run_pieces), at_once):
                together = run_pieces[start : start + at_once]
                if len(together) == 1:
                    yield from self._parts(together[0])
                else:
                    yield from torch.cat(list(self._parts(torch.cat(together))), 1).split(batch)

    def _encode(self, rows: Sequence[Tensor], size: tuple[int, int, int]) -> Tensor:
        """Rows `[T, 3, H, W]` of the same `size` (T, H, W) → `[B, C, f, h, w]`; little of them is copied at once."""
        frames, height, width = size
        h, w = height // self.image_size_multiple, width // self.image_size_multiple
        side = self._tile_side(h, w, len(rows))
        at_once = self._rows(h, w, side)

        def run(part: Sequence[Tensor], ys: slice, xs: slice) -> Tensor:
            encoder = WanStreamEncoder(self.model)
            for begin, end in pairwise([0, *range(1, frames + 1, GRID)]):
                x = torch.stack([row[begin:end, :, ys, xs] for row in part])
                encoder(rearrange(self._to_network(x), "b t c h w -> b c t h w"))
            return encoder.finish()

        def tile(ys: slice, xs: slice) -> Tensor:
            ys, xs = _scaled(ys, self.image_size_multiple), _scaled(xs, self.image_size_multiple)
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
        at_once = max(1, self.pixels_per_call // (batch * h * w * self.image_size_multiple**2 * GRID))
        z = self.model.post_quant_conv(z)
        if side is None:
            decoder = WanStreamDecoder(self.model)
            for part in z.split(at_once, 2):
                yield decoder(part)
            return
        window = self._window(batch, h, w, GRID)
        for video in decode_tiles(
            lambda: WanStreamDecoder(self.model), z, side, self.image_size_multiple, at_once, window
        ):
            for part in video.split(at_once * GRID, 2):
                yield part.to(self.device)

    def _values_per_pixel(self) -> float:
        width = self.model.config.decoder_base_dim or self.model.config.base_dim
        return 50.0 * width / (self.model.config.patch_size or 1) ** 2
