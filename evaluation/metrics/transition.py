"""Transition Vector Similarity: does a cut lead where it should (STAGE §5.2, TVS)?

The paper names the metric and defines it in a supplement that is not published. Two readings, both with CLIP's image
features φ and the vector of a cut d_i = φ(F^S_{i+1}) − φ(F^E_i), from a shot's end frame to the next shot's start
frame: `tvs_gt` compares it with the true film's own, `tvs_text` with what changes in the texts, ψ(D_{i+1}) − ψ(D_i).
Pure functions of features.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

__all__ = ["transitions", "tvs_gt", "tvs_text"]


def transitions(starts: Tensor, ends: Tensor) -> Tensor:
    """Vectors of the cuts `[…, P − 1, D]` between P shots: start of the next less end of this, `[…, P, D]` each."""
    return starts[..., 1:, :].float() - ends[..., :-1, :].float()


def tvs_gt(made: Tensor, true: Tensor) -> Tensor:
    """Mean cosine `[…]` of the cuts' vectors with those of the true film, `[…, P − 1, D]` each."""
    return F.cosine_similarity(made, true, dim=-1).mean(-1)


def tvs_text(made: Tensor, texts: Tensor) -> Tensor:
    """Mean cosine `[…]` of the cuts' vectors `[…, P − 1, D]` with the change of the shots' texts `[…, P, D]`."""
    return F.cosine_similarity(made, texts[..., 1:, :].float() - texts[..., :-1, :].float(), dim=-1).mean(-1)
