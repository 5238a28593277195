"""Latents as small pictures without a decoder: a linear map of channels to RGB, fitted to any VAE without data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LatentRGB", "calibration_pictures", "fit_latent_rgb", "positions"]

FACTOR_GRID = 1 << 16
"""Fitted factors are multiples of 1 / this."""


@dataclass(frozen=True)
class LatentRGB:
    """A linear map from a latent's channels to RGB in 0…1, as previews use it.

    Attributes:
        factors: [C, 3]. bias: [3].
        frames: how many latent frames to show, evenly spaced; one is the middle one.
    """

    factors: Tensor
    bias: Tensor
    frames: int = 1

    def __call__(self, latents: Tensor) -> Tensor:
        """[B, C, F, h, w] → [B, n, 3, h, w]."""
        z = latents[:, :, positions(latents.shape[2], self.frames)].float()
        rgb = torch.einsum("bcfhw,cd->bfdhw", z, self.factors.to(z)) + self.bias.to(z).view(3, 1, 1)
        return rgb.clamp(0, 1)


def fit_latent_rgb(latents: Tensor, pictures: Tensor) -> LatentRGB:
    """Least squares from latents [N, C, h, w] to the pictures [N, 3, H, W] that they encode, for a VAE without
    published factors.
    """
    small = torch.nn.functional.interpolate(pictures.float(), latents.shape[-2:], mode="area").movedim(1, -1)
    z = latents.cpu().double().movedim(1, -1).flatten(0, -2)  # not every device has float64
    ones = torch.cat([z, z.new_ones(len(z), 1)], 1)
    solution = torch.linalg.lstsq(ones, small.reshape(-1, 3).cpu().double()).solution
    # Solvers differ in the last bits from call to call; a seed must give the same film.
    solution = (solution * FACTOR_GRID).round().float() / FACTOR_GRID
    return LatentRGB(solution[:-1], solution[-1])


def calibration_pictures(height: int, width: int, count: int = 48, seed: int = 0) -> Tensor:
    """Pictures [count, 3, H, W] to fit a VAE's `LatentRGB` on: smooth fields of random colours, coarse to fine.

    They need no data, and hold every colour at every sharpness that survives in a picture of a latent's size.
    """
    g = torch.Generator().manual_seed(seed)
    parts = []
    for n in range(count):
        cells = 2 + n % 7
        field = torch.rand(1, 3, cells, 2 * cells, generator=g)
        mode = "nearest" if n % 2 else "bicubic"
        parts.append(torch.nn.functional.interpolate(field, (height, width), mode=mode))
    return torch.cat(parts).clamp(0, 1)


def positions(count: int, frames: int) -> list[int]:
    """`frames` indices, evenly spaced in 0 … count − 1; one is the middle."""
    return [min(count - 1, int((i + 0.5) * count / frames)) for i in range(frames)]
