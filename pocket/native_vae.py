"""A pocket VAE as ComfyUI's VAE object; its LATENTs are normalised by the statistics in its configuration."""

from __future__ import annotations

import copy
import logging
from typing import Any

import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import comfy.model_management
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..core.errors import InputError
from ..story.timeline import TEMPORAL_STRIDE
from .native_files import DTYPE, Config, File, fill, open_model, wan_vae_arguments

__all__ = ["PocketVAE", "load_video_vae"]


def _fits(values: Tensor, channels: int, field: str, what: str, fix: str) -> None:
    """Core's VAE nodes look at nothing, and torch would name no input."""
    if values.ndim not in (4, 5) or values.shape[1] != channels:
        rule = f"must be {what} [B, {channels}, H, W] or [B, {channels}, F, H, W], which the pocket studio's VAE reads"
        raise InputError(field, rule, tuple(values.shape), fix)


def _filled(values: Any, field: str) -> None:
    if not isinstance(values, Tensor) or not values.numel():
        seen = tuple(values.shape) if isinstance(values, Tensor) else f"a value of type {type(values).__name__}"
        raise InputError(field, "must not be empty", seen, "look at the node before")


class _Normalised(nn.Module):
    """In front of a Wan VAE class: latents in unit scale, and pictures `[B, 3, H, W]` besides clips."""

    latents_mean: Tensor
    latents_std: Tensor

    def set_statistics(self, config: Config) -> None:
        """Take mean and standard deviation per channel; they stay out of the state dict, whose names are public."""
        for name in ("latents_mean", "latents_std"):
            value = torch.tensor(config[name], dtype=DTYPE).view(1, -1, 1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def encode(self, x: Tensor) -> Tensor:
        """`[B, 3, T, H, W]` or `[B, 3, H, W]` in −1…1 → normalised latents with as many dimensions."""
        _fits(x, 3, "pixels", "pictures", "connect pictures with three channels")
        z = super().encode(x if x.ndim == 5 else x[:, :, None])  # type: ignore[misc]
        z = (z - self.latents_mean.to(z)) / self.latents_std.to(z)
        return z if x.ndim == 5 else z[:, :, 0]

    def decode(self, z: Tensor) -> Tensor:
        """The inverse: normalised latents → −1…1."""
        _fits(z, self.latents_mean.shape[1], "samples", "latents", "connect a latent that the same studio made")
        video = z if z.ndim == 5 else z[:, :, None]
        x = super().decode(video * self.latents_std.to(z) + self.latents_mean.to(z))  # type: ignore[misc]
        return x if z.ndim == 5 else x[:, :, 0]


class _ResidualVAE(_Normalised, comfy.ldm.wan.vae2_2.WanVAE):
    """The class of Wan 2.2."""


class _PlainVAE(_Normalised, comfy.ldm.wan.vae.WanVAE):
    """The class of Wan 2.1."""


class PocketVAE(comfy.sd.VAE):
    """ComfyUI's VAE object around a Wan VAE of any width, for VAE Encode, VAE Decode and all that take a VAE.

    Args:
        network: the VAE's module, `[B, 3, T, H, W]` in −1…1 to normalised latents and back.
        channels: of a latent.
        cell: pixels per latent cell and side.
        width: channels of the widest full-size layer, for the memory estimate.
    """

    def __init__(self, network: nn.Module, channels: int, cell: int, width: int) -> None:
        root = logging.getLogger()
        root.addFilter(_quiet)
        try:
            super().__init__(sd={})  # sets all that core reads to its default, and finds no weights
        finally:
            root.removeFilter(_quiet)
        self.first_stage_model = network
        self.device, waiting = comfy.model_management.vae_device(), comfy.model_management.vae_offload_device()
        self.output_device = comfy.model_management.intermediate_device()
        self.vae_dtype, self.working_dtypes = DTYPE, [DTYPE]
        self.patcher = ModelPatcher(network, load_device=self.device, offload_device=waiting)
        self.latent_channels, self.latent_dim, self._cell = channels, 3, cell
        self.upscale_ratio = (lambda latents: max(0, latents * TEMPORAL_STRIDE - TEMPORAL_STRIDE + 1), cell, cell)
        self.downscale_ratio = (lambda frames: max(0, (frames + TEMPORAL_STRIDE - 1) // TEMPORAL_STRIDE), cell, cell)
        self.upscale_index_formula = self.downscale_index_formula = (TEMPORAL_STRIDE, cell, cell)
        per_pixel = 32 * width  # as core's estimates for the published Wan VAEs, which are this many times as wide
        self.memory_used_encode = lambda shape, dtype: per_pixel * shape[-1] * shape[-2] * DTYPE.itemsize
        self.memory_used_decode = lambda shape, dtype: per_pixel * shape[-1] * shape[-2] * cell**2 * DTYPE.itemsize
        self.model_size()

    def encode(self, pixel_samples: Any, *args: Any, **kwargs: Any) -> Any:
        """As core's, which says nothing of an empty batch or of pictures smaller than a latent cell."""
        _filled(pixel_samples, "pixels")
        if pixel_samples.ndim > 2 and min(pixel_samples.shape[-3:-1]) < self._cell:
            seen = "{1}x{0}".format(*pixel_samples.shape[-3:-1])
            raise InputError("pixels", f"must be at least {self._cell} pixels a side", seen, "connect a larger picture")
        return super().encode(pixel_samples, *args, **kwargs)

    def decode(self, samples_in: Any, *args: Any, **kwargs: Any) -> Any:
        """As core's, which says nothing of an empty batch."""
        _filled(samples_in, "samples")
        return super().decode(samples_in, *args, **kwargs)

    def for_images(self) -> PocketVAE:
        """The same VAE (and the same weights) for pictures: batches are pictures, LATENTs `[B, C, h, w]`."""
        other: Any = copy.copy(self)
        cell = self.spacial_compression_encode()
        other.latent_dim, other.upscale_ratio, other.downscale_ratio = 2, cell, cell
        other.upscale_index_formula = other.downscale_index_formula = None
        return other


def _quiet(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("WARNING: No VAE weights")


def load_video_vae(path: File) -> PocketVAE:
    """A Wan VAE in the original names as VAE for video; its latent statistics come from its configuration.

    Raises:
        InputError: another kind of file, broken weights, or a VAE that ComfyUI's classes cannot build.
    """
    checkpoint, state, config = open_model("wan_vae", path)
    residual, arguments = wan_vae_arguments(config, checkpoint.name)
    network = (_ResidualVAE if residual else _PlainVAE)(**arguments)
    network.set_statistics(config)
    fill(network, state, checkpoint)
    widest = max(arguments["dim"], arguments.get("dec_dim", 0)) * max(arguments["dim_mult"])
    cell = 2 ** (len(arguments["dim_mult"]) - 1) * (2 if residual else 1)
    return PocketVAE(network, arguments["z_dim"], cell, widest)
