"""Text-to-image similarity with ComfyUI's CLIP and CLIP_VISION, for retrieval (Captain Cinema §3.2, Fig. 5).

Trap: what loaders for Flux and Stable Diffusion give as pooled text is often not projected into the space that pictures
live in, and its similarity to a picture then means nothing. So the projection is asked for, and checked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..story.errors import InputError

__all__ = ["embed_picture", "embed_query", "embed_words"]

_FIX = "connect a CLIP whose file holds text_projection and that belongs to the CLIP_VISION, or rank by recency"
# A text projection of any trained CLIP lies well inside; weights that no file has filled are zero, or far outside.
_LEAST, _MOST = 1e-4, 2.0


@torch.no_grad()
def embed_picture(clip_vision: Any, picture: Tensor) -> Tensor:
    """CLIP's image embedding `[D]` of a picture `[3, H, W]` in 0…1; the whole frame counts, it is not cropped."""
    output = clip_vision.encode_image(picture.movedim(0, -1)[None].cpu(), crop=False)
    return output["image_embeds"][0].float().cpu()


@torch.no_grad()
def embed_query(clip: Any, text: str, dim: int) -> Tensor:
    """CLIP's text embedding `[dim]` in the space of its image embeddings.

    Args:
        clip: CLIP with one or several text models; the first that projects to `dim` is taken.
        text: the query, with looks in the place of names.
        dim: width of the image embeddings.

    Raises:
        InputError: none of its text models projects to that width.
    """
    tokens = clip.tokenize(text)
    found = []
    for name, rows in tokens.items():
        model = getattr(clip.cond_stage_model, f"clip_{name}", None)
        projection = getattr(getattr(model, "transformer", None), "text_projection", None)
        if model is None or projection is None:
            continue
        weight = projection.weight
        found.append(f"clip_{name}: {weight.shape[0]}")
        if weight.shape[0] != dim or not _LEAST < float(weight.float().std()) < _MOST:
            continue
        patcher = clip.load_model(tokens)
        model.reset_clip_options()
        model.set_clip_options({"projected_pooled": True, "execution_device": patcher.load_device})
        try:
            pooled = model.encode_token_weights(rows)[1]
        finally:
            model.reset_clip_options()
        return pooled[0].float().cpu()
    rule = f"must have a text model projected to the {dim} dimensions of the CLIP_VISION"
    raise InputError("retrieval_clip", rule, ", ".join(found) or "no CLIP text model", _FIX)


@torch.no_grad()
def embed_words(clip: Any, text: str) -> Tensor:
    """Mean of a text's token embeddings `[D]`, for text-to-text retrieval (as T5 in Captain Cinema §3.2)."""
    from ..memory.retrieval import mean_pool

    out = clip.encode_from_tokens(clip.tokenize(text), return_dict=True)
    mask = out.get("attention_mask")
    tokens = out["cond"]
    return mean_pool(tokens, None if mask is None else mask[:, : tokens.shape[1]])[0].cpu()
