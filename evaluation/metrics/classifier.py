"""Accuracy of what a classifier reads in generated frames, against the stories' ground truth, and retrieval recall.

Pure functions of the classifier's class indices; no model, no randomness. Stories are N lists of P shots.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...memory.golden_mem import Place
from ...pocket.recogniser import IDENTITY, IGNORE, LAYOUT, labels
from ...pocket.world import SIDES, Layout, ShotSpec

__all__ = [
    "FORGOTTEN",
    "Scores",
    "Sharpest",
    "StoryTruth",
    "retrieval_recall",
]

Stories = Sequence[Sequence[ShotSpec]]
Part = Any
"""An index into `[N, P]`."""

FORGOTTEN = -1
"""In the place of a tier: no remembered frame shows it."""


@dataclass(frozen=True)
class StoryTruth:
    """What stories show, and what of it a frame can only know from memory.

    Attributes:
        labels: per head of the recogniser, `[N, P, 2]` (per side, IGNORE where nobody stands) or `[N, P]`.
        introduced: bool `[N, P, 2]`: this side shows a character whose looks this caption tells.
        returning: bool `[N, P, 2]`: this side shows a character whose looks this caption does NOT tell.
        revisited: bool `[N, P]`: this place was shown in an earlier shot; no caption ever tells its layout.
        first_side: `[N, P, 2]`: where this side's character stood first, as 2 · shot + side.
        first_shot: `[N, P]`: the first shot in this place.
        counted: bool `[N, P]`: a shot of the story, and no repetition that only fills up its row.
    """

    labels: Mapping[str, Tensor]
    introduced: Tensor
    returning: Tensor
    revisited: Tensor
    first_side: Tensor
    first_shot: Tensor
    counted: Tensor

    @classmethod
    def of(cls, stories: Stories, lengths: Sequence[int] | None = None) -> StoryTruth:
        """Ground truth of N stories of P shots, of which the first `lengths` count (None: all)."""
        rows = [[labels(shot) for shot in shots] for shots in stories]
        heads = {head: torch.tensor([[row[head] for row in story] for story in rows]) for head in rows[0][0]}
        n_stories, n_shots = len(rows), len(rows[0])
        introduced = torch.zeros(n_stories, n_shots, len(SIDES), dtype=torch.bool)
        returning = torch.zeros_like(introduced)
        first_side = torch.zeros(introduced.shape, dtype=torch.long)
        first_shot = torch.zeros(n_stories, n_shots, dtype=torch.long)
        for n, shots in enumerate(stories):
            met: dict[str, int] = {}
            been: dict[Layout, int] = {}
            for p, shot in enumerate(shots):
                first_shot[n, p] = been.setdefault(shot.layout, p)
                for actor in shot.actors:
                    at = (n, p, actor.side)
                    introduced[at] = actor.name in shot.described
                    returning[at] = not introduced[at]
                    first_side[at] = met.setdefault(actor.name, len(SIDES) * p + actor.side)
        ends = torch.tensor([n_shots] * n_stories if lengths is None else list(lengths))
        counted = torch.arange(n_shots) < ends[:, None]
        introduced, returning = introduced & counted[..., None], returning & counted[..., None]
        revisited = (first_shot < torch.arange(n_shots)) & counted
        shaped = {head: v if v.shape[-1] == len(SIDES) else v[..., 0] for head, v in heads.items()}
        return cls(shaped, introduced, returning, revisited, first_side, first_shot, counted)


class Scores:
    """Classifier accuracy on generated stories: shares of right predictions, 0…1, by name.

    * `identity`: colour, shape and accessory of returning characters, each counted, against the looks that the
      story gave them. Guessing gives 0.21.
    * `identity_exact`: returning characters with all three right. Guessing gives 0.008.
    * `introduced`: the same of characters whose looks the caption tells. What is drawn wrong here stays wrong
      however well it is remembered.
    * `consistency`: colour, shape and accessory of returning characters that are read as at their first appearance,
      right or wrong.
    * `place`: kind of place, which every caption tells.
    * `layout`: slots of the sky object and of both landmarks, in places shown before, that are read as in the place's
      first shot of this very roll-out: no caption tells a layout, so the first shot sets it. Independent guesses agree
      in 0.31.
    * `side`: whether somebody stands on each side of the frame, as the caption tells.
    * `action`: what the characters do.
    * `alignment`: what the caption tells of every shot: who stands on which side, actions, and scale.

    Args:
        predicted: class indices of the recogniser, shaped as `truth.labels`.
        truth: ground truth of the same shots.
    """

    NAMES = (
        "identity",
        "identity_exact",
        "introduced",
        "consistency",
        "place",
        "layout",
        "side",
        "action",
        "alignment",
    )

    def __init__(self, predicted: Mapping[str, Tensor], truth: StoryTruth) -> None:
        self._truth = truth
        self._right = {head: predicted[head] == truth.labels[head] for head in truth.labels}
        self._looks = torch.stack([self._right[head] for head in IDENTITY], -1)
        seen = torch.stack([predicted[head] for head in IDENTITY], -1)
        first = truth.first_side.flatten(1)[..., None].expand(-1, -1, len(IDENTITY))
        self._kept = (seen.flatten(1, 2) == seen.flatten(1, 2).gather(1, first)).view_as(seen)
        slots = torch.stack([predicted[head] for head in LAYOUT], -1)
        self._layout = slots == slots.gather(1, truth.first_shot[..., None].expand_as(slots))

    def __call__(self, name: str, part: Part = ...) -> float | None:
        """One share, over all stories and shots or a part of `[N, P]`; None where there was nothing to read."""
        truth = self._truth
        looks, returning = self._looks[part], truth.returning[part]
        if name == "identity":
            return _share(looks[returning])
        if name == "identity_exact":
            return _share(looks[returning].all(-1))
        if name == "introduced":
            return _share(looks[truth.introduced[part]])
        if name == "consistency":
            return _share(self._kept[part][returning])
        counted = truth.counted[part]
        if name == "place":
            return _share(self._right["place"][part][counted])
        if name == "layout":
            return _share(self._layout[part][truth.revisited[part]])
        acted = (truth.labels["action"][part] != IGNORE) & counted[..., None]
        shares = {
            "side": self._right["present"][part][counted],
            "action": self._right["action"][part][acted],
            "scale": self._right["scale"][part][counted],
        }
        if name in ("side", "action"):
            return _share(shares[name])
        if name == "alignment":
            return _share(torch.cat([right.flatten() for right in shares.values()]))
        raise KeyError(name)

    def all(self) -> dict[str, float | None]:
        """Every share by name."""
        return {name: self(name) for name in self.NAMES}

    def by_shot(self, name: str) -> list[float | None]:
        """A share at each of the P shots of a story: shows drift along a roll-out."""
        return [self(name, (slice(None), p)) for p in range(self._truth.revisited.shape[1])]

    def identity_of(self, sides: Tensor) -> dict[str, float | int | None]:
        """Identity of the returning characters that `sides`, bool `[N, P, 2]`, picks, and how many they are."""
        chosen = self._looks[self._truth.returning & sides]
        return {"share": _share(chosen), "count": len(chosen)}

    def layout_of(self, shots: Tensor) -> dict[str, float | int | None]:
        """Layout in the places shown before that `shots`, bool `[N, P]`, picks, and how many they are."""
        chosen = self._layout[self._truth.revisited & shots]
        return {"share": _share(chosen), "count": len(chosen)}

    def standard_error(self, name: str) -> float | None:
        """Standard error of a share over stories; None with fewer than two stories that have one."""
        found = [self(name, n) for n in range(self._truth.revisited.shape[0])]
        values = torch.tensor([value for value in found if value is not None])
        return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else None


def retrieval_recall(stories: Stories, remembered: Sequence[Sequence[Sequence[int]]]) -> float | None:
    """Share of what a shot needs that its memory shows: each returning character, and a place shown before.

    How much of the important history a retrieval finds (Captain Cinema Fig. 5), whatever the sampler makes of it.

    Args:
        stories: N stories of P shots.
        remembered: per story and shot, the earlier shots that were in its context.
    """
    found: list[bool] = []
    for shots, memory in zip(stories, remembered, strict=True):
        for p, (shot, kept) in enumerate(zip(shots, memory[: len(shots)], strict=True)):
            names = {actor.name for k in kept for actor in shots[k].actors}
            found += [actor.name in names for actor in shot.actors if actor.name not in shot.described]
            if any(earlier.layout == shot.layout for earlier in shots[:p]):
                found.append(any(shots[k].layout == shot.layout for k in kept))
    return sum(found) / len(found) if found else None


@dataclass(frozen=True)
class Sharpest:
    """Where in a memory of tiers a shot finds what it shows: the sharpest remembered frame that has it.

    Attributes:
        characters: `[N, P, 2]`: tier of the sharpest remembered frame that shows this side's character, or `FORGOTTEN`.
        places: `[N, P]`: the same of the frames that show this place.
        captioned: bool `[N, P, 2]`: the caption of a remembered frame says in words what this character looks like. No
            caption says a place's layout.
    """

    characters: Tensor
    places: Tensor
    captioned: Tensor

    @classmethod
    def of(
        cls, stories: Stories, remembered: Sequence[Sequence[Sequence[int]]], slots: Sequence[Sequence[Place]]
    ) -> Sharpest:
        """Of N stories of P shots.

        Args:
            stories: what the shots show.
            remembered: per story and shot, the earlier shots in its context, best first.
            slots: per shot, the sizes of its context frames, in the same order (the same in every story).
        """
        shape = len(stories), len(stories[0]), len(SIDES)
        characters, captioned = torch.full(shape, FORGOTTEN), torch.zeros(shape, dtype=torch.bool)
        places = torch.full(shape[:2], FORGOTTEN)
        for n, (shots, memory) in enumerate(zip(stories, remembered, strict=True)):
            for p, (shot, kept) in enumerate(zip(shots, memory, strict=True)):
                frames = [(slot.tier, shots[k]) for k, slot in zip(kept, slots[p][: len(kept)], strict=True)]
                for actor in shot.actors:
                    seen = [tier for tier, frame in frames if actor.name in {other.name for other in frame.actors}]
                    characters[n, p, actor.side] = min(seen, default=FORGOTTEN)
                    captioned[n, p, actor.side] = any(actor.name in frame.described for _, frame in frames)
                places[n, p] = min((tier for tier, frame in frames if frame.layout == shot.layout), default=FORGOTTEN)
        return cls(characters, places, captioned)


def _share(right: Tensor) -> float | None:
    return float(right.float().mean()) if right.numel() else None
