"""Held-out stories as the pair model is told them: storyboards in somebody's words, with a length for every shot."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from torch import Tensor

from ....pocket.bank import to_tensor
from ....pocket.plain_looks import without_colour
from ....pocket.render import render
from ....pocket.telling import tell_story
from ....pocket.world import FPS, Story
from ....story.storyboard import Storyboard

__all__ = ["LENGTHS", "Looks", "ToldStory", "shot_lengths", "true_pairs"]

LENGTHS = (9, 13, 17, 21, 25)
"""Frames that a shot may have."""

Looks = Literal["plain", "told"]
"""Captions of characters that come back: without their colour, or with all that there is to tell."""


def shot_lengths(story: Story) -> list[int]:
    """Frames of every shot: drawn from the story's seed and the shot's number."""
    return [random.Random(f"length/{story.seed}/{n}").choice(LENGTHS) for n in range(len(story.shots))]


@dataclass(frozen=True)
class ToldStory:
    """A story and the storyboard that tells it.

    Attributes:
        truth: what its shots show.
    """

    truth: Story

    @cached_property
    def lengths(self) -> list[int]:
        """Frames of every shot."""
        return shot_lengths(self.truth)

    @cached_property
    def board(self) -> Storyboard:
        """The storyboard; its author's habits come from the story's seed."""
        data = tell_story(self.truth, random.Random(f"evaluate/{self.truth.seed}"))
        shots = [{**shot, "seconds": length / FPS} for shot, length in zip(data["shots"], self.lengths, strict=True)]
        return Storyboard.parse({**data, "fps": FPS, "shots": shots})

    def caption(self, shot: int, looks: Looks = "plain") -> str:
        """What a shot is told as: every character with its looks; of those that come back, ``plain`` keeps back the
        colour, which then only memory has.
        """
        seen = {actor.name for earlier in self.truth.shots[:shot] for actor in earlier.actors}
        characters = {
            name: without_colour(look) if name in seen and looks == "plain" else look
            for name, look in self.board.characters.items()
        }
        board = self.board.model_copy(update={"characters": characters})
        return board.caption(board.shots[shot], set()).prompt

    def query(self, shot: int) -> str:
        """A shot for retrieval and for scores: looks in the place of names."""
        return self.board.caption(self.board.shots[shot], set()).query


def true_pairs(stories: Sequence[ToldStory]) -> Tensor:
    """First and last frame of every shot as rendered, `[N, P, 2, 3, H, W]`."""

    def pair(story: ToldStory, n: int) -> np.ndarray:
        shot, length = story.truth.shots[n], story.lengths[n]
        return np.stack([render(shot, t)[0] for t in (0.0, (length - 1) / FPS)])

    drawn = [np.stack([pair(story, n) for n in range(len(story.lengths))]) for story in stories]
    stacked = np.stack(drawn)
    return to_tensor(stacked.reshape(-1, *stacked.shape[3:])).unflatten(0, stacked.shape[:3])
