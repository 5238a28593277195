"""From earlier frames to the context of a new one: order, sizes, latents (Captain Cinema §3.2).

The film and the evaluation both go through here, so that what is measured is what films are made with.
"""

from __future__ import annotations

from torch import Tensor

from ..core.errors import InputError
from ..memory.golden_mem import Level, Size, resize_context, resize_context_latent
from ..memory.retrieval import Retrieval, rank_parts, rank_recency, rank_text
from ..models.encoders.vae import ImageCodec

__all__ = ["PATCH", "encode_at", "rank_memory"]

PATCH = 2
"""Latent cells along a side of one Flux token."""


def rank_memory(kind: Retrieval, count: int, query: Tensor | None = None, keys: Tensor | None = None) -> list[int]:
    """Order `count` earlier frames for a new one, best first.

    Args:
        kind: `clip` (query text to pictures), `text` (query text to captions) or `recency`.
        count: earlier frames there are.
        query: `[D]` embedding of the new frame's text, or `[P, D]` of its parts; `recency` needs none.
        keys: `[count, D]` embeddings of the earlier pictures or captions, oldest first.

    Raises:
        InputError: an unknown kind, or embeddings that are missing or do not fit.
    """
    if not count or kind == "recency":
        return rank_recency(count)
    if kind not in ("clip", "text"):
        raise InputError("retrieval", "must be clip, text or recency", kind, "choose one of them")
    if query is None or keys is None or len(keys) != count:
        seen = None if keys is None else list(keys.shape)
        raise InputError("keys", f"must be {count} embeddings, and a query with them", seen, "embed every frame")
    return rank_parts(query.reshape(-1, query.shape[-1]), keys) if kind == "clip" else rank_text(query, keys)


def encode_at(vae: ImageCodec, pictures: Tensor, size: Size, level: Level = "pixel") -> Tensor:
    """Pictures `[B, 3, H, W]` as context latents `[B, C, h, w]` of `size` in tokens.

    Args:
        vae: encodes them.
        pictures: at full size.
        size: (height, width) in tokens, as GoldenMem plans it.
        level: `pixel` shrinks before the VAE encodes (§4.2), `latent` after it: softer, one encoding for all tiers.
    """
    if level == "latent":
        return resize_context_latent(vae.encode_image(pictures), (size[0] * PATCH, size[1] * PATCH))
    side = vae.image_size_multiple * PATCH
    return vae.encode_image(resize_context(pictures, (size[0] * side, size[1] * side)))
