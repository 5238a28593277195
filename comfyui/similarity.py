"""Text-to-image similarity with ComfyUI's CLIP and CLIP_VISION, for retrieval (Captain Cinema §3.2, Fig. 5).

Trap: what loaders of image models give as pooled text is often not projected into the space that images live in, and
its similarity to an image then means nothing. So the projection is asked for, and checked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.errors import InputError
from ..memory.retrieval import query_parts
from .encode_text import Tokens, real_count, tokenize

__all__ = ["embed_images", "embed_parts", "embed_query"]

_FIX = "connect a CLIP whose file holds text_projection and that belongs to the CLIP_VISION, or rank by recency"
# A text projection of any trained CLIP lies well inside; weights that no file has filled are zero, or far outside.
_LEAST, _MOST = 1e-4, 2.0


@torch.no_grad()
def embed_images(clip_vision: Any, images: Tensor) -> Tensor:
    """CLIP's embeddings `[B, D]` of images `[B, 3, H, W]` in 0…1; the whole frame counts, it is not cropped."""
    output = clip_vision.encode_image(images.movedim(1, -1).cpu(), crop=False)
    return output["image_embeds"].float().cpu()


def embed_query(clip: Any, text: str, dim: int) -> Tensor:
    """CLIP's text embedding `[dim]` in the space of its image embeddings; what is longer than CLIP reads is cut.

    Args:
        clip: CLIP with one or several text models; the first that projects to `dim` is taken.
        text: the query, with looks in the place of names.
        dim: width of the image embeddings.

    Raises:
        InputError: none of its text models projects to that width.
    """
    return _embed(clip, [text], dim)[0]


def embed_parts(clip: Any, text: str, dim: int) -> Tensor:
    """The same of every part `[P, dim]` of a text that is longer than CLIP reads, as headless."""
    tokens = tokenize(clip, text)
    name, _ = _projecting(clip, tokens, dim)

    def length(part: str) -> int:
        return sum(real_count(clip, name, row) - 2 for row in tokenize(clip, part)[name])

    return _embed(clip, query_parts(text, length, len(tokens[name][0]) - 2), dim)


@torch.no_grad()
def _embed(clip: Any, texts: list[str], dim: int) -> Tensor:
    """CLIP's embeddings `[N, dim]` of texts; of a text in several rows the first, as everywhere."""
    tokens = [tokenize(clip, text) for text in texts]
    name, model = _projecting(clip, tokens[0], dim)
    patcher = clip.load_model(tokens[0])
    model.reset_clip_options()
    model.set_clip_options({"projected_pooled": True, "execution_device": patcher.load_device})
    try:
        pooled = [model.encode_token_weights(each[name][:1])[1][0].float().cpu() for each in tokens]
    finally:
        model.reset_clip_options()
    return torch.stack(pooled)


def _projecting(clip: Any, tokens: Tokens, dim: int) -> tuple[str, Any]:
    """Name and text model of the CLIP that projects to `dim`. Raises InputError where none does."""
    found = []
    for name in tokens:
        model = getattr(clip.cond_stage_model, f"clip_{name}", None)
        projection = getattr(getattr(model, "transformer", None), "text_projection", None)
        if model is None or projection is None:
            continue
        weight = projection.weight
        found.append(f"clip_{name}: {weight.shape[0]}")
        if weight.shape[0] == dim and _LEAST < float(weight.float().std()) < _MOST:
            return name, model
    rule = f"must have a text model projected to the {dim} dimensions of the CLIP_VISION"
    raise InputError("retrieval_clip", rule, ", ".join(found) or "no CLIP text model", _FIX)
