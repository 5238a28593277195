"""Text2Story's Semantic Action Representation (SAR, §3.3): how alike two prompts are, and the γ' that follows from it.

    S = cos(a, b)        γ' = γ·(1 − S)

The paper can be read in several ways, and `SAR` names them. Its encoder is "such as CLIP". Eq. 6 compares P_{2N−1}
with P_{2N}, scene and action of one segment, while the text speaks of consecutive prompts. Text encoders have a
direction that all texts share, so that the cosine of any two is high; without the mean of the story's texts it is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import InputError

if TYPE_CHECKING:
    from .segments import PromptPair

__all__ = ["SAR", "Encoder", "Pair", "semantic_gamma", "similarity"]

Encoder = Literal["text", "clip"]
Pair = Literal["actions", "within", "adjacent"]

MOST = 0.5
"""The largest γ' for which 1 − 2γ' is a weight."""
_SAME = 1e-6


@dataclass(frozen=True)
class SAR:
    """Which reading of SAR is taken.

    Attributes:
        encoder: ``text``, the mean state of the video model's own text encoder, or ``clip``, CLIP's text embedding.
        pair: what is compared: ``actions`` of this segment and of the one before; ``within``, scene and action of this
            segment (Eq. 6 to the letter); ``adjacent``, all that both segments tell.
        centred: take the mean of the story's texts off first. In a story of two segments S is then −1 for any two.
        bounded: hold S in 0…1, so that γ' is never above γ.

    Raises:
        InputError: no such encoder or pair.
    """

    encoder: Encoder = "text"
    pair: Pair = "actions"
    centred: bool = False
    bounded: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("encoder", Encoder), ("pair", Pair)):
            if getattr(self, name) not in get_args(kind):
                rule = f"must be one of {', '.join(get_args(kind))}"
                raise InputError(f"sar_{name}", rule, getattr(self, name), f"{get_args(kind)[0]} is the usual one")

    def texts(self, pair: PromptPair) -> list[list[str]]:
        """What is compared of a segment."""
        if self.pair == "within":
            return [pair.query("scene"), pair.query("action")]
        return [pair.query("action" if self.pair == "actions" else "whole")]

    def compared(self, before: PromptPair, pair: PromptPair) -> list[list[str]]:
        """The two lists of B texts whose similarity S is."""
        return self.texts(pair) if self.pair == "within" else self.texts(before) + self.texts(pair)


def similarity(a: Tensor, b: Tensor, centre: Tensor | None = None) -> Tensor:
    """S: cosine of embeddings [..., D], [...]; `centre` [..., D] is taken off both first. Equal texts are 1."""
    a, b = a.float(), b.float()
    if centre is None:
        return F.cosine_similarity(a, b, dim=-1)
    same = (a - b).norm(dim=-1) <= _SAME * a.norm(dim=-1)  # at the centre itself there is no direction left
    return torch.where(same, 1.0, F.cosine_similarity(a - centre, b - centre, dim=-1))


def semantic_gamma(gamma: float | Tensor, similarity: float | Tensor, bounded: bool = False) -> float | Tensor:
    """γ' = γ·(1 − S) (Eq. 7).

    A negative S makes γ' larger than γ, up to 2γ; it is held at 0.5, so that 1 − 2γ' stays a weight.

    Args:
        gamma: γ in 0…0.5.
        similarity: S, −1…1.
        bounded: hold S in 0…1 first, so that γ' is never above γ.
    """
    if isinstance(similarity, Tensor) or isinstance(gamma, Tensor):
        s = torch.as_tensor(similarity)
        return (gamma * (1 - (s.clamp(0, 1) if bounded else s))).clamp(0, MOST)
    s_held = min(1.0, max(0.0, similarity)) if bounded else similarity
    return min(MOST, max(0.0, gamma * (1 - s_held)))
