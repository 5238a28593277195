"""Measures of keyframes and clips against ground truth. Pure functions of tensors; no model, no randomness.

Pictures and clips are float32 in 0…1, `[…, 3, H, W]`. Stories are N lists of P shots.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.pocket.recogniser import IDENTITY, IGNORE, LAYOUT, labels
from ..models.pocket.world import SIDES, ShotSpec

__all__ = [
    "EXACT",
    "PSNR_CAP",
    "StoryTruth",
    "boundary_jump",
    "diversity",
    "frame_change",
    "keyframe_scores",
    "memory_recall",
    "psnr",
    "same_picture",
    "score_by_shot",
    "standard_error",
]

Stories = Sequence[Sequence[ShotSpec]]

PSNR_CAP = 100.0
"""dB at which `psnr` stops: equal pictures have no finite value, and JSON knows no infinity."""

EXACT = 0.5 / 255
"""Largest difference that rounding to 8 bits can hide."""


@dataclass(frozen=True)
class StoryTruth:
    """What stories show, and what of it a frame can only know from memory.

    Attributes:
        labels: per head of the recogniser, `[N, P, 2]` (per side, IGNORE where nobody stands) or `[N, P]`.
        returning: bool `[N, P, 2]`: this side shows a character whose looks this caption does NOT tell.
        revisited: bool `[N, P]`: this place was shown in an earlier shot; no caption ever tells its layout.
    """

    labels: Mapping[str, Tensor]
    returning: Tensor
    revisited: Tensor

    @classmethod
    def of(cls, stories: Stories) -> StoryTruth:
        """Ground truth of N stories of P shots."""
        rows = [[labels(shot) for shot in shots] for shots in stories]
        heads = {head: torch.tensor([[row[head] for row in story] for story in rows]) for head in rows[0][0]}
        returning = torch.zeros(len(rows), len(rows[0]), len(SIDES), dtype=torch.bool)
        revisited = torch.zeros(len(rows), len(rows[0]), dtype=torch.bool)
        for n, shots in enumerate(stories):
            for p, shot in enumerate(shots):
                for actor in shot.actors:
                    returning[n, p, actor.side] = actor.name not in shot.described
                revisited[n, p] = any(earlier.layout == shot.layout for earlier in shots[:p])
        return cls({h: v if v.shape[-1] == len(SIDES) else v[..., 0] for h, v in heads.items()}, returning, revisited)


def keyframe_scores(reading: Mapping[str, Tensor], truth: StoryTruth) -> dict[str, float | None]:
    """Shares of right readings, 0…1; None where there was nothing to read.

    * `identity`: colour, shape and accessory of returning characters, each reading counted. Guessing gives 0.21.
    * `identity_exact`: returning characters with all three right. Guessing gives 0.008.
    * `place`: kind of place, which every caption tells.
    * `layout`: slots of the sky object and of both landmarks in places shown before. Guessing gives 0.31.
    * `alignment`: what the caption tells of every shot: who stands on which side, actions, and scale.

    Args:
        reading: class indices of the recogniser, shaped as `truth.labels`.
        truth: ground truth of the same shots.
    """
    right = {head: reading[head] == truth.labels[head] for head in truth.labels}
    looks = torch.stack([right[head] for head in IDENTITY], -1)[truth.returning]
    layout = torch.stack([right[head] for head in LAYOUT], -1)[truth.revisited]
    acted = right["action"][truth.labels["action"] != IGNORE]
    told = torch.cat([right["present"].flatten(), acted, right["scale"].flatten()])
    return {
        "identity": _share(looks),
        "identity_exact": _share(looks.all(-1)),
        "place": _share(right["place"]),
        "layout": _share(layout),
        "alignment": _share(told),
    }


def score_by_shot(reading: Mapping[str, Tensor], truth: StoryTruth, score: str) -> list[float | None]:
    """One of `keyframe_scores` for each of the P shots of a story, over all stories: shows drift along a roll-out."""
    return [keyframe_scores(*_part(reading, truth, (slice(None), [p])))[score] for p in range(truth.revisited.shape[1])]


def standard_error(reading: Mapping[str, Tensor], truth: StoryTruth, score: str) -> float | None:
    """Standard error of one of `keyframe_scores` over stories; None with fewer than two stories that have one."""
    found = [keyframe_scores(*_part(reading, truth, ([n],)))[score] for n in range(truth.revisited.shape[0])]
    values = torch.tensor([value for value in found if value is not None])
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None


def memory_recall(stories: Stories, remembered: Sequence[Sequence[Sequence[int]]]) -> float | None:
    """Share of what a shot needs that its memory shows: each returning character, and a place shown before.

    How much of the important history a retrieval finds (Captain Cinema Fig. 5), whatever the sampler makes of it.

    Args:
        stories: N stories of P shots.
        remembered: per story and shot, the earlier shots that were in its context.
    """
    found: list[bool] = []
    for shots, memory in zip(stories, remembered, strict=True):
        for p, (shot, kept) in enumerate(zip(shots, memory, strict=True)):
            names = {actor.name for k in kept for actor in shots[k].actors}
            found += [actor.name in names for actor in shot.actors if actor.name not in shot.described]
            if any(earlier.layout == shot.layout for earlier in shots[:p]):
                found.append(any(shots[k].layout == shot.layout for k in kept))
    return sum(found) / len(found) if found else None


def diversity(frames: Tensor) -> float | None:
    """Mean absolute pixel difference of every two frames of a story, 0…1; None with one frame.

    Compare it with that of the true frames: less means that frames repeat each other, more that they are noisy.
    In pixels and not in CLIP features, so that no trained model judges another.

    Args:
        frames: `[N, P, 3, H, W]`.
    """
    if frames.shape[1] < 2:
        return None
    flat = frames.flatten(2).float()
    return float(torch.stack([torch.pdist(story, p=1).mean() for story in flat]).mean() / flat.shape[2])


def psnr(pictures: Tensor, reference: Tensor, dims: int = 3) -> Tensor:
    """Peak signal-to-noise ratio in dB (peak 1), at most `PSNR_CAP`, over the last `dims` dimensions: 3 a picture's."""
    axes = tuple(range(-dims, 0))
    error = (pictures.double() - reference.double()).square().mean(axes)
    return (-10 * error.clamp_min(10 ** (-PSNR_CAP / 10)).log10()).float()


def same_picture(pictures: Tensor, reference: Tensor) -> Tensor:
    """Bool `[…]`: pictures `[…, 3, H, W]` that no 8-bit file could tell from `reference`."""
    return (pictures - reference).abs().amax((-3, -2, -1)) <= EXACT


def frame_change(clip: Tensor) -> Tensor:
    """Mean absolute difference of consecutive frames: `[…, T, 3, H, W]` → `[…, T − 1]`, entry t from frame t to t+1."""
    return (clip[..., 1:, :, :, :] - clip[..., :-1, :, :, :]).abs().mean((-3, -2, -1))


def boundary_jump(changes: Sequence[Tensor], starts: Sequence[Sequence[int]]) -> float | None:
    """Change at chunk joints over the usual change inside (SmartDirector §4.4); 1 is a joint that nobody sees.

    The mean change at a clip's joints and the median of its other changes are each averaged over the clips before
    they are divided: a clip in which almost nothing moves then weighs almost nothing, instead of deciding the figure.

    Args:
        changes: `frame_change` of every clip, `[T − 1]`.
        starts: first frames of every clip's chunks. The change INTO such a frame (but 0) is a joint, for all methods
            alike, also for those that have no chunks.

    Returns:
        The ratio; None without a joint, without a frame off the joints, or when nothing moves at all.
    """
    joint, inside = [], []
    for change, first in zip(changes, starts, strict=True):
        at = torch.zeros(len(change), dtype=torch.bool)
        at[[start - 1 for start in first if start > 0]] = True
        if at.any() and not at.all():
            joint.append(change[at].mean())
            inside.append(change[~at].quantile(0.5))
    usual = float(torch.stack(inside).mean()) if inside else 0.0
    return float(torch.stack(joint).mean()) / usual if usual > 0 else None


def _share(right: Tensor) -> float | None:
    return float(right.float().mean()) if right.numel() else None


def _part(reading: Mapping[str, Tensor], truth: StoryTruth, index: tuple) -> tuple[dict[str, Tensor], StoryTruth]:
    """Readings and truth of some stories or shots."""
    kept = StoryTruth({h: v[index] for h, v in truth.labels.items()}, truth.returning[index], truth.revisited[index])
    return {head: values[index] for head, values in reading.items()}, kept
