"""Consistency of features: within a shot as VBench measures it, and across shots (STAGE §5.2: SC, BC, SC-E, BC-E).

Subject consistency takes DINO's features, background consistency CLIP's; which network looks is the caller's business.
STAGE extends VBench's two to several shots and leaves its formula to a supplement that is not published; here a shot is
the mean of its frames' features, and shots follow one another as frames do in VBench. The plain mean over all pairs of
shots is beside it.

Pure functions of features `[…, T, D]`; they need not have unit length.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["consistency", "mean_similarity", "shot_features", "track_consistency"]


def consistency(features: Tensor) -> Tensor:
    """VBench's consistency of a sequence, `[…, T, D]` → `[…]`: mean over t of ½(cos(f_1, f_t) + cos(f_{t−1}, f_t)).

    Negative similarities count as 0, as in VBench. With T = 2 it is the two frames' similarity.

    Raises:
        ValueError: fewer than two frames.
    """
    if features.shape[-2] < 2:
        raise ValueError("consistency needs two frames")
    unit = F.normalize(features.float(), dim=-1)
    later = unit[..., 1:, :]
    first = (unit[..., :1, :] * later).sum(-1).clamp(min=0)
    before = (unit[..., :-1, :] * later).sum(-1).clamp(min=0)
    return ((first + before) / 2).mean(-1)


def shot_features(frames: Tensor) -> Tensor:
    """The mean of a shot's frames, each of unit length: `[…, T, D]` → `[…, D]`."""
    return F.normalize(frames.float(), dim=-1).mean(-2)


def mean_similarity(features: Tensor) -> Tensor:
    """Mean cosine of every two of a sequence, `[…, T, D]` → `[…]`.

    Raises:
        ValueError: fewer than two.
    """
    count = features.shape[-2]
    if count < 2:
        raise ValueError("similarity needs two")
    unit = F.normalize(features.float(), dim=-1)
    rows, columns = torch.triu_indices(count, count, 1)
    return (unit @ unit.mT)[..., rows, columns].mean(-1)


def track_consistency(features: Sequence[Tensor], tracks: Sequence[Hashable]) -> float | None:
    """Consistency of each thing that is shown more than once, weighed by how often it comes back.

    Args:
        features: `[D]` of every appearance, in the order of the story.
        tracks: what appears, such as a character's name.

    Returns:
        Mean over all returns of ½(cos to the first appearance + cos to the one before); None if nothing comes back.
    """
    seen: dict[Hashable, list[Tensor]] = {}
    for feature, track in zip(features, tracks, strict=True):
        seen.setdefault(track, []).append(feature)
    weighed = [(len(found) - 1, consistency(torch.stack(found))) for found in seen.values() if len(found) > 1]
    if not weighed:
        return None
    return float(sum(weight * value for weight, value in weighed) / sum(weight for weight, _ in weighed))
