"""Cheap pictures of what the model foresees, and CLIP's verdict on them: the scorers of `prompt_mixing`.

From cheap to dear: a linear map of latents to RGB, one latent frame decoded as a picture, the whole video decoded (what
Text2Story pays for at every step).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .prompt_mixing import Scorer

__all__ = [
    "LatentRGB",
    "Pictures",
    "calibration_pictures",
    "decoded_frames",
    "decoded_video",
    "fit_latent_rgb",
    "picture_scorer",
    "positions",
]

FACTOR_GRID = 1 << 16
"""Fitted factors are multiples of 1 / this."""

Pictures = Callable[[Tensor], Tensor]
"""Latents [B, C, F, h, w] → pictures [B, n, 3, H, W] in 0…1."""


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
    z = latents.double().movedim(1, -1).flatten(0, -2)
    ones = torch.cat([z, z.new_ones(len(z), 1)], 1)
    solution = torch.linalg.lstsq(ones.cpu(), small.reshape(-1, 3).double().cpu()).solution
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


def decoded_frames(decode_image: Callable[[Tensor], Tensor], frames: int = 1) -> Pictures:
    """Single latent frames decoded as pictures; `decode_image` takes [B, C, h, w] to [B, 3, H, W].

    A causal video VAE meets a later latent frame without its past here: softer than the video, but at a small part of
    its price.
    """

    def pictures(latents: Tensor) -> Tensor:
        chosen = positions(latents.shape[2], frames)
        return torch.stack([decode_image(latents[:, :, i]) for i in chosen], 1)

    return pictures


def decoded_video(decode: Callable[[Tensor], Iterator[Tensor]], frames: int = 1) -> Pictures:
    """The whole video decoded (the paper's way); `decode` yields parts [B, t, 3, H, W]."""

    def pictures(latents: Tensor) -> Tensor:
        video = torch.cat(list(decode(latents)), 1)
        return video[:, positions(video.shape[1], frames)]

    return pictures


def picture_scorer(pictures: Pictures, embed_images: Callable[[Tensor], Tensor], prompts: Tensor) -> Scorer:
    """CLIP similarity of what is foreseen to the prompts.

    Args:
        pictures: how latents become pictures.
        embed_images: [N, 3, H, W] → unit vectors [N, D].
        prompts: unit vectors of scene and action, [B, 2, D].

    Returns:
        A scorer: the mean cosine over the pictures, [B, 2].
    """

    def score(latents: Tensor) -> Tensor:
        shown = pictures(latents)
        seen = embed_images(shown.flatten(0, 1)).unflatten(0, shown.shape[:2])
        return torch.einsum("bnd,bkd->bk", seen, prompts.to(seen)) / shown.shape[1]

    return score


def positions(count: int, frames: int) -> list[int]:
    """`frames` indices, evenly spaced in 0 … count − 1; one is the middle."""
    return [min(count - 1, int((i + 0.5) * count / frames)) for i in range(frames)]
