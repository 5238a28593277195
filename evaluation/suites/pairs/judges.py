"""Who looks at the frames: networks from files, or what the pocket studio has at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....models.encoders.clip import ClipScorer
from ....pocket.recogniser import Recogniser
from ....pocket.world import SIDES
from ...metrics.networks import MetricModels

__all__ = ["Judges"]

Embed = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Judges:
    """Features of pictures `[B, 3, H, W]` in 0…1.

    Attributes:
        subject: `[B, D]`, of whole frames: DINO's class token, as VBench takes it for subject consistency; else the
            features of the recogniser.
        sides: `[B, 2, D]`, of what stands on each side of a frame: DINO's of the half; else what the recogniser's
            reading of that side is made from.
        clip: for background consistency, as in VBench, and for transition vectors.
        facts: their names for the report.
    """

    subject: Embed
    sides: Embed
    clip: ClipScorer
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, recogniser: Recogniser, clip: ClipScorer, networks: MetricModels | None = None) -> Judges:
        """Judges from files where they are given, else the recogniser and the studio's CLIP."""
        networks = MetricModels() if networks is None else networks
        reader, dino = _Reader(recogniser), networks.dino
        subject, sides = (reader.frame, reader.sides) if dino is None else (dino, _halves(dino))
        facts = {
            "clip": "studio" if networks.clip is None else "file",
            "features": "recogniser" if networks.dino is None else "dino",
            "judges": dict(networks.names),
        }
        return cls(subject, sides, networks.clip or clip, facts)


class _Reader:
    """The recogniser's features, before it decides."""

    def __init__(self, recogniser: Recogniser) -> None:
        self._net = recogniser

    @torch.no_grad()
    def frame(self, pictures: Tensor) -> Tensor:
        """`[B, D]`: all of the last feature map."""
        return self._features(pictures).flatten(1).cpu()

    @torch.no_grad()
    def sides(self, pictures: Tensor) -> Tensor:
        """`[B, 2, D]`: the hidden layer of the reading of each side."""
        x = self._features(pictures)
        halves = torch.stack(x.chunk(len(SIDES), -1), 1).flatten(2)
        return self._net.side[:2](halves).cpu()

    def _features(self, pictures: Tensor) -> Tensor:
        return self._net.features(pictures * 2 - 1)


def _halves(embed: Embed) -> Embed:
    def sides(pictures: Tensor) -> Tensor:
        return torch.stack([embed(half) for half in pictures.chunk(len(SIDES), -1)], 1)

    return sides
