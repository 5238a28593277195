"""Stories told in prompt pairs in the pocket world: the shape of Text2Story's benchmark (§4.2), with known truth.

A story keeps its cast; its scenes move on through places and actions as the paper's plots do, so that two neighbouring
scenes usually share their place. The scene prompt says where and who, the action prompt only who does what.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....pocket.world import (
    ACTIONS,
    MOVEMENTS,
    PLACES,
    SCALES,
    Actor,
    Layout,
    ShotSpec,
    generator,
    make_story,
    random_layout,
)
from ....sampling.text2story.segments import PromptPair
from ...stories import MAX_STORIES, check_counts

__all__ = ["PromptStory", "prompt_pair", "prompt_stories"]

STAY = 0.7
"""Chance that a scene plays where the one before it did."""

_STREAM = 50_000_000
"""Stories from here on: no other suite draws them."""


@dataclass(frozen=True)
class PromptStory:
    """One story: the truth of every scene, which its prompts tell in full."""

    shots: tuple[ShotSpec, ...]

    def scene(self, index: int, query: bool = False) -> str:
        """Where and who; `query` says the looks in the place of names, as CLIP needs it."""
        shot = self.shots[index]
        names = [actor.name for actor in shot.actors]
        return " ".join(shot.clauses(() if query else names, tag=not query, acting=False))

    def action(self, index: int, query: bool = False) -> str:
        """Who does what; looks are told here, too, because each prompt is read alone."""
        shot = self.shots[index]
        names = [actor.name for actor in shot.actors]
        return " ".join(shot.clauses(() if query else names, tag=not query)[1:])

    def whole(self, index: int, query: bool = False) -> str:
        """Both in one caption, as the pocket models read captions."""
        shot = self.shots[index]
        names = [actor.name for actor in shot.actors]
        return " ".join(shot.clauses(() if query else names, tag=not query))


def prompt_stories(seed: int, stories: int, scenes: int) -> list[PromptStory]:
    """Held-out stories of `scenes` scenes; the same seed gives the same stories, and a longer one begins alike."""
    check_counts(seed, stories, scenes)
    return [_prompt_story(_STREAM + seed * MAX_STORIES + n, scenes) for n in range(stories)]


def prompt_pair(stories: list[PromptStory], index: int) -> PromptPair:
    """Scene `index` of all stories, as one batch of prompt pairs."""
    return PromptPair(
        scene=[story.scene(index) for story in stories],
        action=[story.action(index) for story in stories],
        scene_query=[story.scene(index, query=True) for story in stories],
        action_query=[story.action(index, query=True) for story in stories],
        whole=[story.whole(index) for story in stories],
        whole_query=[story.whole(index, query=True) for story in stories],
    )


def _prompt_story(seed: int, scenes: int) -> PromptStory:
    cast = make_story(seed, 1, "test", max_cast=2).cast
    rng = generator("test", seed + _STREAM)
    sides = rng.permutation(2)
    layout: Layout | None = None
    shots = []
    for _ in range(scenes):
        if layout is None or rng.random() > STAY:
            layout = random_layout(rng, int(rng.integers(len(PLACES))))
        actors = [
            Actor(name, look, int(side), int(rng.integers(1, len(ACTIONS))))
            for (name, look), side in zip(cast.items(), sides, strict=True)
        ]
        actors.sort(key=lambda actor: actor.side)
        shots.append(
            ShotSpec(layout, tuple(actors), scale=SCALES.index("wide shot"), movement=MOVEMENTS.index("static"))
        )
    return PromptStory(tuple(shots))
