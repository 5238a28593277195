"""Cheap pictures of the predicted x0, and their CLIP score: the scorers of `prompt_mixing`.

From cheap to dear: a linear map of latents to RGB (`models.encoders.latent_rgb`), one latent frame decoded as a
picture, the whole video decoded (what Text2Story pays for at every step).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...models.encoders.latent_rgb import positions
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


def decoded_video(decode: Callable[[Tensor], Iterator[Tensor]], frames: int = 1, grid: int | None = None) -> Pictures:
    """The whole video decoded (the paper's way), of which no more is kept than is shown.

    Args:
        decode: yields a video's parts [B, t, 3, H, W] in order of time.
        frames: how many frames to show, evenly spaced; one is the middle one.
        grid: F latent frames decode to grid · (F − 1) + 1 frames; decoding then stops at the last one shown. Without
            it the length is known only when all parts are there.
    """

    def pictures(latents: Tensor) -> Tensor:
        if grid is not None:
            count, parts = grid * (latents.shape[2] - 1) + 1, decode(latents)
        else:
            whole = list(decode(latents))
            count, parts = sum(part.shape[1] for part in whole), iter(whole)
        wanted, start = positions(count, frames), 0
        shown: list[Tensor] = []
        for part in parts:
            end = start + part.shape[1]
            # An index list copies, so that the part itself can go.
            shown.append(part[:, [i - start for i in wanted if start <= i < end]])
            if end > wanted[-1]:
                break
            start = end
        return torch.cat(shown, 1)

    return pictures


def picture_scorer(pictures: Pictures, embed_images: Callable[[Tensor], Tensor], prompts: Tensor) -> Scorer:
    """CLIP similarity of the predicted x0 to the prompts.

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
