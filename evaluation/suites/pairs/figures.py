"""Figures of generated pairs, story by story: consistency, transitions, identity, and what the texts ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ....pocket.recogniser import IDENTITY, LAYOUT, Recogniser
from ...metrics.classifier import Scores, StoryTruth
from ...metrics.consistency import consistency, mean_similarity, shot_features, track_consistency
from ...metrics.transition import transitions, tvs_gt, tvs_text
from .shot_reading import read_shots
from .stories import ToldStory

if TYPE_CHECKING:
    from .judges import Judges

__all__ = ["FIGURES", "READ", "PairFigures"]

Values = list[float | None]
"""One for each story."""

CONSISTENCY = ("SC", "BC", "SC_E", "BC_E", "SC_E_mean", "BC_E_mean", "SC_E_tracked", "BC_E_tracked")
TRANSITIONS = ("TVS_gt", "TVS_text")
READ = (
    "identity",
    "identity_exact",
    "colour",
    "introduced",
    "layout",
    "place",
    "kept_within",
    "side",
    "action",
    "scale",
    "movement",
    "length",
)
FIGURES = (*CONSISTENCY, *TRANSITIONS, *READ)
"""Figures of a story, in the order of the report."""

_BOTH = ("identity", "identity_exact", "introduced", "layout", "place", "side", "action")
_COLOUR, _SCALE = "colour", "scale"


class PairFigures:
    """Scores pairs of known stories.

    Args:
        stories: all with the same number of shots.
        true: their rendered pairs `[N, P, 2, 3, H, W]`.
        judges: make features of frames.
        recogniser: reads who and what a frame shows.
    """

    def __init__(self, stories: Sequence[ToldStory], true: Tensor, judges: Judges, recogniser: Recogniser) -> None:
        self.stories, self.judges, self._recogniser = list(stories), judges, recogniser
        self.truth = StoryTruth.of([story.truth.shots for story in stories])
        queries = [story.query(n) for story in stories for n in range(len(story.lengths))]
        self._texts = judges.clip.embed_texts(queries).cpu().unflatten(0, true.shape[:2])
        self._true_cuts = self._cuts(self._embed(judges.clip.embed_images, true))
        self._sides = self.truth.labels["present"] == 1

    def __call__(self, frames: Tensor) -> dict[str, Values]:
        """`FIGURES` of pairs `[N, P, 2, 3, H, W]`: for each a value for every story, None where it
        has nothing of it."""
        subject = self._embed(self.judges.subject, frames)
        background = self._embed(self.judges.clip.embed_images, frames)
        found: dict[str, Values] = {}
        for name, features in (("SC", subject), ("BC", background)):
            found |= self.consistency(name, features)
        found["SC_E_tracked"] = self._tracked_characters(self._embed(self.judges.sides, frames))
        found["BC_E_tracked"] = self._tracked_places(shot_features(background))
        found |= self._transitions(background)
        found |= self._read(frames)
        return {name: found[name] for name in FIGURES}

    def identity_by_shot(self, frames: Tensor) -> list[float | None]:
        """Identity at every shot of the story, over both frames."""
        both = [Scores(read, self.truth).by_shot("identity") for read in self._readings(frames)]
        return [_mean([one for one in shot if one is not None]) for shot in zip(*both, strict=True)]

    def consistency(self, name: str, features: Tensor) -> dict[str, Values]:
        """`name` within shots, and `_E` and `_E_mean` across them, of features `[N, P, T, D]`."""
        shots = shot_features(features)
        many = shots.shape[1] > 1
        return {
            name: consistency(features).mean(1).tolist(),
            f"{name}_E": consistency(shots).tolist() if many else [None] * len(shots),
            f"{name}_E_mean": mean_similarity(shots).tolist() if many else [None] * len(shots),
        }

    def _tracked_characters(self, sides: Tensor) -> Values:
        """Consistency of every character, by its side of the frame: `[N, P, 2, 2, D]` over frames and sides."""
        shots = shot_features(sides.transpose(2, 3))  # [N, P, sides, D]
        tracks: Values = []
        for n, story in enumerate(self.stories):
            at = [(p, actor) for p, shot in enumerate(story.truth.shots) for actor in shot.actors]
            features = [shots[n, p, actor.side] for p, actor in at]
            tracks.append(track_consistency(features, [actor.name for _, actor in at]))
        return tracks

    def _tracked_places(self, shots: Tensor) -> Values:
        """Consistency of every place, of features `[N, P, D]`."""
        return [
            track_consistency(list(features), [shot.layout for shot in story.truth.shots])
            for features, story in zip(shots, self.stories, strict=True)
        ]

    def _transitions(self, features: Tensor) -> dict[str, Values]:
        if features.shape[1] < 2:
            return {name: [None] * len(features) for name in TRANSITIONS}
        cuts = self._cuts(features)
        return {"TVS_gt": tvs_gt(cuts, self._true_cuts).tolist(), "TVS_text": tvs_text(cuts, self._texts).tolist()}

    def _read(self, frames: Tensor) -> dict[str, Values]:
        """What the recogniser and the renderer read."""
        start, end = self._readings(frames)
        scores = [Scores(read, self.truth) for read in (start, end)]
        found = {name: self._stories(lambda n, name=name: [s(name, n) for s in scores]) for name in _BOTH}  # type: ignore[misc]
        labels = self.truth.labels
        right = torch.stack([read[_COLOUR] == labels[_COLOUR] for read in (start, end)], -1)
        found[_COLOUR] = self._stories(lambda n: right[n][self.truth.returning[n]].flatten().tolist())
        # A movement may change what the end frame's scale looks like.
        found[_SCALE] = self._stories(lambda n: (start[_SCALE][n] == labels[_SCALE][n]).tolist())
        looks = torch.stack([start[head] == end[head] for head in IDENTITY], -1)
        slots = torch.stack([start[head] == end[head] for head in LAYOUT], -1)
        found["kept_within"] = self._stories(
            lambda n: [*looks[n][self._sides[n]].flatten().tolist(), *slots[n].flatten().tolist()]
        )
        shots = read_shots(self.stories, frames[:, :, 1], start)
        found["movement"] = self._stories(lambda n: [shot.movement for shot in shots[n]])
        found["length"] = self._stories(lambda n: [shot.length for shot in shots[n]])
        return found

    def _readings(self, frames: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The recogniser's classes of the start and of the end frames."""
        from ..keyframes.run import classify_frames

        return classify_frames(self._recogniser, frames[:, :, 0]), classify_frames(self._recogniser, frames[:, :, 1])

    def _stories(self, values: Callable[[int], Sequence[Any]]) -> Values:
        """Mean of each story's values; None where it has none."""
        rows = ([value for value in values(n) if value is not None] for n in range(len(self.stories)))
        return [_mean(row) for row in rows]

    def _cuts(self, features: Tensor) -> Tensor:
        return transitions(features[:, :, 0], features[:, :, 1])

    def _embed(self, embed: Callable[[Tensor], Tensor], frames: Tensor, batch: int = 64) -> Tensor:
        """Features of frames `[N, P, T, 3, H, W]`, on the CPU: `[N, P, T, …]`."""
        made = torch.cat([embed(part).float().cpu() for part in frames.flatten(0, 2).split(batch)])
        return made.unflatten(0, frames.shape[:3])


def _mean(values: Sequence[Any]) -> float | None:
    return sum(float(value) for value in values) / len(values) if values else None
