"""Figures of films: Text2Story's metrics (§4.4), by the networks they are named after or what is at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from ....models.encoders.clip import ClipScorer
from ....sampling.text2story.prompt_mixing import MixStep
from ....sampling.text2story.segments import PromptPair
from ...metrics.networks import MetricModels
from ...metrics.pixels import jump

__all__ = ["EVERY", "FilmScores", "StoryMetrics", "film_row", "scene_curve", "scene_weights", "shown_frames"]

EVERY = 4
"""Every so many frames are scored; the first frame of a segment is among them."""

Embed = Callable[[Tensor], Tensor]


def shown_frames(length: int) -> list[int]:
    """Positions of the frames of a segment that are scored."""
    return list(range(0, length, EVERY))


class StoryMetrics:
    """Scores films of known prompts.

    Args:
        pairs: the prompts of all stories, one batch of N for each of M segments; they need queries.
        clip: the studio's CLIP, which scores where no other is given.
        networks: of the metrics, from files.
        features: pictures `[B, 3, H, W]` → features `[B, D]` for consistency where no DINO is given; None takes CLIP's.
        features_name: what they are called in the result.
    """

    def __init__(
        self,
        pairs: Sequence[PromptPair],
        clip: ClipScorer,
        networks: MetricModels | None = None,
        features: Embed | None = None,
        features_name: str = "clip",
    ) -> None:
        networks = MetricModels() if networks is None else networks
        self.clip = clip if networks.clip is None else networks.clip
        self.features = networks.dino if networks.dino is not None else features
        self.jump = jump if networks.lpips is None else networks.lpips
        self.facts = {
            "clip": "studio" if networks.clip is None else "file",
            "features": "dino" if networks.dino is not None else features_name,
            "jump_metric": "ssim" if networks.lpips is None else "lpips",
            "judges": dict(networks.names),
        }
        scenes = [_query(pair.scene_query) for pair in pairs]
        actions = [_query(pair.action_query) for pair in pairs]
        both = [[" ".join(texts) for texts in zip(*rows, strict=True)] for rows in zip(scenes, actions, strict=True)]
        self.texts = {"scene": self._embed(scenes), "action": self._embed(actions), "both": self._embed(both)}

    def film(self) -> FilmScores:
        """Scores to which films are added."""
        return FilmScores(self)

    def _embed(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """[N, M, D] of M lists of N texts."""
        return torch.stack([self.clip.embed_texts(list(row)).cpu() for row in texts], 1)


@dataclass
class FilmScores:
    """Sums up films block by block, so that no film has to be held whole."""

    metrics: StoryMetrics
    _similar: dict[str, list[Tensor]] = field(default_factory=lambda: {"scene": [], "action": [], "both": []})
    _cosines: list[Tensor] = field(default_factory=list)
    _jumps: list[Tensor] = field(default_factory=list)
    _before: tuple[Tensor, Tensor] | None = None
    """Features and picture of the last frame of each story in the block before."""

    def add(self, shown: Tensor, ends: Tensor, story: int = 0, shot: int = 0) -> None:
        """Add m segments of n stories: number `story`, `story` + 1, … and in them `shot`, `shot` + 1, …

        Blocks of a story come in its order, with those of no other between them.

        Args:
            shown: `[n, m, t, 3, H, W]` in 0…1, the frames that are scored.
            ends: `[n, m, 2, 3, H, W]`, every segment's first and last frame.
        """
        metrics, (n, m, t) = self.metrics, shown.shape[:3]
        flat = shown.flatten(0, 2)
        pictures = metrics.clip.embed_images(flat).cpu()
        for kind, text in metrics.texts.items():
            texts = text[story : story + n, shot : shot + m]
            similar = torch.einsum("nmtd,nmd->nmt", pictures.unflatten(0, (n, m, t)), texts)
            self._similar[kind].append(similar.flatten())
        features = (pictures if metrics.features is None else metrics.features(flat)).unflatten(0, (n, m * t))
        before = None
        if shot and self._before is not None:
            features, before = torch.cat([self._before[0], features], 1), self._before[1]
        self._cosines.append(F.cosine_similarity(features[:, 1:], features[:, :-1], dim=-1).flatten())
        for i in range(m):
            if before is not None:
                self._jumps.append(metrics.jump(before, ends[:, i, 0]))
            before = ends[:, i, 1]
        self._before = (features[:, -1:], ends[:, -1, 1])

    def measurements(self) -> dict[str, Tensor]:
        """All that was measured: similarity to `scene`, `action` and `both`; `cosines` and `jumps` of neighbours."""
        found = {**self._similar, "cosines": self._cosines, "jumps": self._jumps}
        return {name: torch.cat([torch.zeros(0), *(value.cpu() for value in values)]) for name, values in found.items()}

    def row(self) -> dict[str, float | None]:
        """CLIP-add, CLIP-combined, consistency and jump of all that was added; None where there is nothing of it."""
        return film_row([self.measurements()])


def film_row(films: Sequence[Mapping[str, Tensor]]) -> dict[str, float | None]:
    """What `FilmScores.row` says of one film, for several: their `FilmScores.measurements` as one."""

    def mean(name: str) -> float | None:
        values = torch.cat([film[name] for film in films])
        return float(values.mean()) if len(values) else None

    scene, action = mean("scene"), mean("action")
    add = None if scene is None or action is None else (scene + action) / 2
    return {"clip_add": add, "clip_combined": mean("both"), "consistency": mean("cosines"), "jump": mean("jumps")}


def _query(texts: Sequence[str] | None) -> Sequence[str]:
    assert texts is not None, "stories have queries"
    return texts


def scene_weights(record: Sequence[MixStep]) -> Tensor:
    """Weight of the scene at each step of a segment of B stories, `[B, T]`; `[0, 0]` without prompt mixing."""
    return torch.stack([step.weights[:, 0] for step in record], 1) if record else torch.zeros(0, 0)


def scene_curve(weights: Sequence[Tensor]) -> list[float]:
    """Mean of several segments' `scene_weights` at each step; empty without prompt mixing."""
    return torch.cat(list(weights)).mean(0).tolist() if weights else []
