"""Pixels to latents and back: the interfaces of the backbones' VAEs, for images and for video.

Pixels are fp32 in 0…1, `[…, 3, H, W]`; latents are fp32, normalised to unit scale, so that 1 is the right amount of
noise for every model. Encoding takes the mode of the posterior: the same pixels always give the same latents.

Memory follows one frame, not the video: both ways go through time in parts whose past each layer keeps. Of frames that
are too large (`Tiling`) it follows a tile.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor

from ...core.errors import InputError
from ..layouts.pairs import PATCH
from .vae_tiling import Tiling, assemble

__all__ = ["ImageCodec", "VideoCodec"]

_WINDOW = 1 << 28
"""Pixels that decoding in tiles puts together in the host's memory: 3.2 GB, at 1920x1088 128 frames."""


class ImageCodec(ABC):
    """The interface of every VAE for single images.

    `pixels_per_call` bounds how many pixels of one frame go through the network at once, over all rows of a batch:
    memory follows it, and small frames are batched while large ones go one by one. `tiling` says when one frame is cut
    into tiles.
    """

    model: Any
    latent_channels: int
    spatial_compression: int
    """Height and width in pixels must divide by this; it is also the spatial factor of the latents."""
    largest_frame: int
    """Pixels of the largest frame that goes through the network as a whole where `tiling` leaves that open."""

    def __init__(
        self,
        model: Any,
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
    def pixels_per_token(self) -> int:
        """Pixels along a side of one token of a transformer on these latents."""
        return self.spatial_compression * PATCH

    @property
    def can_encode(self) -> bool:
        """Whether the model has an encoder."""
        return True

    @property
    def dtype(self) -> torch.dtype:
        """Precision the model computes in; pixels and latents outside are always fp32."""
        return self.model.dtype

    @abstractmethod
    def encode_image(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` in 0…1 → `[B, C, h, w]`.

        Raises:
            InputError: wrong shape, a size that does not divide by `spatial_compression`, or values that are not
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
        m = self.spatial_compression
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

    def _tile_side(self, height: int, width: int, batch: int = 1) -> int | None:
        """Side, in latent pixels, of the tiles that frames of this size are cut into; None: they are not."""
        compression = self.spatial_compression
        side = max(4, self.tiling.tile // compression)
        if max(height, width) <= side:
            return None
        pixels = height * width * compression**2
        together = pixels * max(1, min(batch, self.pixels_per_call // pixels))
        need = together * self._values_per_pixel() * self.dtype.itemsize
        return side if self.tiling.wanted(pixels, self.largest_frame, need, self.device) else None

    def _rows(self, height: int, width: int, side: int | None = None) -> int:
        """Rows of a batch of frames of so many latent pixels, cut into tiles of `side` of them, that go together."""
        most = max(height, width) if side is None else side
        return max(1, self.pixels_per_call // (min(height, most) * min(width, most) * self.spatial_compression**2))

    def _window(self, batch: int, height: int, width: int, grid: int) -> int:
        """Latent frames, of `grid` frames each, that tiles are put together of at once."""
        return max(1, _WINDOW // (batch * height * width * self.spatial_compression**2 * grid))

    def _by_tiles(self, run: Callable[[Tensor], Tensor], x: Tensor, per_pixel: int, scale: int) -> Tensor:
        """Run a batch of frames in as few calls as `pixels_per_call` and `tiling` allow.

        Args:
            run: the network.
            x: frames or latents; a latent pixel is `per_pixel` wide in them, and `scale` in what `run` returns.
        """
        height, width = x.shape[-2] // per_pixel, x.shape[-1] // per_pixel
        side = self._tile_side(height, width, len(x))
        at_once = self._rows(height, width, side)

        def by_rows(part: Tensor) -> Tensor:
            return torch.cat([run(few) for few in part.split(at_once)]) if len(part) > at_once else run(part)

        def tile(rows: slice, columns: slice) -> Tensor:
            return by_rows(x[..., scaled(rows, per_pixel), scaled(columns, per_pixel)])

        return by_rows(x) if side is None else assemble(tile, height, width, side, scale)


def scaled(pixels: slice, by: int) -> slice:
    """A slice of latent pixels as a slice of what has `by` values for each."""
    return slice(pixels.start * by, pixels.stop * by)


class VideoCodec(ImageCodec):
    """The interface of every causal video VAE; also an image VAE of single frames."""

    temporal_stride: int
    """Frames of one latent frame; the first stands for one frame alone, so a video has temporal_stride · n + 1."""

    @abstractmethod
    def encode_video(self, video: Tensor) -> Tensor:
        """Encode one video of every row: `[B, T, 3, H, W]` in 0…1 → `[B, C, n+1, h, w]`, T = temporal_stride·n + 1."""

    @abstractmethod
    def decode_stream(self, latents: Tensor) -> Iterator[Tensor]:
        """Decode one video of every row in order of time: `[B, C, n+1, h, w]` → parts `[B, t, 3, H, W]` in 0…1."""

    def encode_chunks(self, video: Tensor, chunks: Sequence[int]) -> Tensor:
        """Encode every chunk of a video on its own: `[B, T, 3, H, W]` → `[B, C, F, h, w]`; `chunks` are in frames."""
        return torch.cat([self.encode_video(piece) for piece in video.split(list(chunks), dim=1)], dim=2)

    def decode_chunks(self, latents: Tensor, latent_chunks: Sequence[int]) -> Iterator[Tensor]:
        """Decode every chunk on its own: `[B, C, F, h, w]` → parts `[B, t, 3, H, W]`; chunks in latent frames."""
        for piece in latents.split(list(latent_chunks), dim=2):
            yield from self.decode_stream(piece)
