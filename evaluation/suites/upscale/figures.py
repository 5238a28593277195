"""Figures of one upscaled clip against the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ....media.frames import psnr, psnr_of_error
from ....pocket.recogniser import IDENTITY, Recogniser, labels
from ....pocket.world import HEIGHT, WIDTH
from ...metrics.flicker import still_flicker, temporal_error
from ...metrics.networks import MetricModels
from ...metrics.pixels import boundary_jump, colour_error, frame_change, structural_similarity
from .identity import LargeFrames
from .sources import SourceClip

__all__ = ["FIGURES", "ClipFigures", "Figures", "by_distance", "numbers", "pooled"]

Figures = dict[str, Tensor]
"""Of one clip: a number each, but for `psnr_frames`, `changes` and `true_changes`; not there: nothing to measure."""

FIGURES = (
    "psnr",
    "ssim",
    "lpips",
    "psnr_characters",
    "identity",
    "identity_loss",
    "identity_large",
    "likeness",
    "psnr_keyframes",
    "psnr_all",
    "temporal_error",
    "still_flicker",
    "colour_error",
)
"""Figures that are means over clips, in the order of the report."""


class ClipFigures:
    """Scores upscaled clips.

    What a variant is given at full size would flatter it: of the pictures, only frames that no variant is given count
    (`SourceClip.measured`), the same for all. `psnr_all` and `psnr_keyframes` are of all frames and of the others.

    Args:
        recogniser: reads who a frame shows; frames are reduced to its size by area, but for `LargeFrames`. None: it is
            not asked, and there is nothing of characters.
        networks: LPIPS, where there is one.
    """

    def __init__(self, recogniser: Recogniser | None, networks: MetricModels | None = None) -> None:
        self._recogniser = recogniser
        self._large = None if recogniser is None else LargeFrames(recogniser)
        self._lpips = None if networks is None else networks.lpips

    @torch.no_grad()
    def __call__(self, clip: SourceClip, video: Tensor) -> Figures:
        """`FIGURES` of what was made of a clip, `[T, 3, H, W]` in 0…1, on the CPU; and `psnr_frames`, `changes`,
        `true_changes`."""
        at, keys = clip.measured, clip.keyframes
        made, true = video[at], clip.truth[at]
        frames = psnr(video, clip.truth)
        share, loss = self.identity(clip, made)
        likeness, large = (None, None) if self._large is None else self._large(clip, made)
        found: dict[str, Tensor | float | None] = {
            "psnr": frames[at].mean(),
            "ssim": structural_similarity(made, true).mean(),
            "lpips": None if self._lpips is None else self._lpips(made, true).float().mean(),
            "psnr_characters": None if clip.characters is None else self._within(clip.characters[at], made, true),
            "identity": share,
            "identity_loss": loss,
            "identity_large": large,
            "likeness": likeness,
            "psnr_keyframes": frames[keys].mean(),
            "psnr_all": frames.mean(),
            "temporal_error": temporal_error(video, clip.truth),
            "still_flicker": still_flicker(video, clip.truth),
            "colour_error": colour_error(video, clip.truth).mean(),
            "psnr_frames": frames,
            "changes": frame_change(video),
            "true_changes": frame_change(clip.truth),
        }
        return {name: torch.as_tensor(value).double() for name, value in found.items() if value is not None}

    def _within(self, mask: Tensor, made: Tensor, true: Tensor) -> Tensor | None:
        """PSNR of what the characters cover."""
        if not mask.any():
            return None
        squares = (made - true).double().square().mean(1)
        return psnr_of_error(squares[mask].mean())

    @torch.no_grad()
    def identity(self, clip: SourceClip, made: Tensor) -> tuple[float | None, float | None]:
        """Share of colour, shape and accessory that are read right, and the mean cross-entropy of the right class."""
        if self._recogniser is None or clip.shot is None:
            return None, None
        logits = self._recogniser(F.interpolate(made, (HEIGHT, WIDTH), mode="area"))
        truth = labels(clip.shot)
        rows = [
            (logits[head][:, actor.side], truth[head][actor.side]) for actor in clip.shot.actors for head in IDENTITY
        ]
        if not rows or not len(made):
            return None, None
        right = [(row.argmax(-1) == value).double().mean() for row, value in rows]
        losses = [F.cross_entropy(row, torch.full((len(row),), value)) for row, value in rows]
        return float(torch.stack(right).mean()), float(torch.stack(losses).mean())


def pooled(figures: Sequence[Figures], starts: Sequence[Sequence[int]]) -> dict[str, float | None]:
    """Figures of several clips together, so that clips in which little moves weigh little: a mean over a mean.

    * `flicker`: mean change from frame to frame over the true clips' (see `metrics.flicker`).
    * `jump`: the change into keyframes over the usual change (see `boundary_jump`), and `jump_truth`, the true clips'.

    Args:
        figures: of each clip.
        starts: frames of each clip's keyframes.
    """

    def changes(name: str) -> list[Tensor]:
        return [own[name] for own in figures]

    made, true = (float(torch.stack([c.mean() for c in changes(name)]).mean()) for name in ("changes", "true_changes"))
    return {
        "flicker": made / true if true > 0 else None,
        "jump": boundary_jump(changes("changes"), starts),
        "jump_truth": boundary_jump(changes("true_changes"), starts),
    }


def by_distance(figures: Sequence[Figures], keyframes: Sequence[Sequence[int]]) -> list[float | None]:
    """Mean PSNR of the frames 0, 1, 2 … away from the nearest keyframe: how far its detail reaches."""
    found: dict[int, list[float]] = {}
    for own, keys in zip(figures, keyframes, strict=True):
        for t, value in enumerate(own["psnr_frames"].tolist()):
            found.setdefault(min(abs(t - key) for key in keys), []).append(value)
    return [_mean(found.get(d)) for d in range(max(found) + 1)]


def _mean(values: Sequence[float] | None) -> float | None:
    return sum(values) / len(values) if values else None


def numbers(figures: Mapping[str, Tensor]) -> dict[str, float | None]:
    """`FIGURES` as plain numbers."""
    return {name: float(figures[name]) if name in figures else None for name in FIGURES}
