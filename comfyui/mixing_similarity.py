"""SAR on ComfyUI's text encoders: `sampling.text2story.action_similarity` behind CLIP."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import InputError
from ..models.encoders.prompt_text import from_prompt
from ..sampling.text2story.action_similarity import SAR, Pair, semantic_gamma, similarity
from ..sampling.text2story.segments import PromptPair
from .checks import finite
from .encode_text import embed_text, tokenize
from .host import memory_errors
from .similarity import embed_query

__all__ = ["action_gamma"]


def action_gamma(
    clip: Any,
    previous_action: str,
    action: str,
    gamma: float,
    encoding: str = "tokens",
    pair: str = "actions",
    scene: str = "",
    previous_scene: str = "",
    story: str = "",
    bounded: bool = True,
) -> tuple[float, float]:
    """(γ', S) of a segment; without one of the texts that are compared, γ stays.

    Args:
        clip: the text encoder.
        previous_action, action, previous_scene, scene: prompts of the segment before and of this one.
        gamma: γ.
        encoding: see `_vector`.
        pair, bounded: see `action_similarity.SAR`.
        story: all texts of the story that are compared, one a line; their mean is taken off. Empty takes nothing off.

    Raises:
        InputError: no such pair, an encoder that cannot do what is asked, or a story of fewer than three texts.
    """
    sar = SAR(pair=cast(Pair, pair), centred=bool(story.strip()), bounded=bounded)
    this, before = [
        PromptPair([a.strip()], [b.strip()]) for a, b in ((scene, action), (previous_scene, previous_action))
    ]
    compared = sar.compared(before, this)
    if not all(texts[0] for texts in compared):
        return float(gamma), 0.0
    lines = list(dict.fromkeys(line.strip() for line in story.splitlines() if line.strip()))
    if sar.centred and len(lines) < 3:
        fix = "give all texts of the story, one a line, or leave it empty"
        raise InputError(
            "story", "must have at least three different texts, whose mean means something", len(lines), fix
        )
    texts = [compared[0][0], compared[1][0], *(lines if sar.centred else ())]
    with memory_errors("SAR", f"a text of {max(map(len, texts))} characters", "shorten it"):
        vectors = torch.stack([_vector(clip, text, encoding) for text in texts])
    finite(vectors, "clip", "values in what it makes of a text")
    a, b = vectors[:2]
    centre = vectors[2:].mean(0) if sar.centred else None
    alike = float(similarity(a, b, centre))
    return float(semantic_gamma(gamma, alike, sar.bounded)), alike


@torch.no_grad()
def _vector(clip: Any, text: str, encoding: str) -> Tensor:
    """Unit vector [D] of a text: the mean of its ``tokens``, CLIP's ``pooled`` state, or that ``projected``.

    Raises:
        InputError: the encoder has no pooled state, or no projection.
    """
    text = from_prompt(text)
    if encoding == "tokens":
        return F.normalize(embed_text(clip, text).float(), dim=0)
    if encoding == "projected":
        return F.normalize(embed_query(clip, text, _width(clip)), dim=0)
    pooled = clip.encode_from_tokens(tokenize(clip, text), return_dict=True).get("pooled_output")
    if pooled is None:
        raise InputError("encoding", "pooled needs a CLIP text model", "an encoder without one", "use tokens")
    return F.normalize(pooled[0].float().cpu(), dim=0)


def _width(clip: Any) -> int:
    """Width of the space that the encoder's text projection leads to."""
    for name in tokenize(clip, ""):
        model = getattr(clip.cond_stage_model, f"clip_{name}", None)
        projection = getattr(getattr(model, "transformer", None), "text_projection", None)
        if projection is not None:
            return int(projection.weight.shape[0])
    raise InputError("encoding", "projected needs a CLIP text model", "an encoder without a projection", "use tokens")
