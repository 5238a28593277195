"""Cheap pictures of what the model foresees, and CLIP's verdict on them: the scorers of `prompt_mixing`.

From cheap to dear: a linear map of latents to RGB (`models.latent_rgb`), one latent frame decoded as a picture, the
whole video decoded (what Text2Story pays for at every step).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..models.latent_rgb import positions
from .prompt_mixing import Scorer

__all__ = ["Pictures", "decoded_frames", "decoded_video", "picture_scorer"]

Pictures = Callable[[Tensor], Tensor]
"""Latents [B, C, F, h, w] → pictures [B, n, 3, H, W] in 0…1."""


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
