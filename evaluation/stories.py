"""Which stories the suites use: the pocket world's test split, which no recipe trains on."""

from __future__ import annotations

from ..models.pocket.world import Story, make_story
from ..story.errors import InputError

__all__ = ["MAX_STORIES", "check_counts", "held_out_stories"]

MAX_STORIES = 10_000
"""Stories of one seed; the next seed's begin after them."""

MAX_SHOTS = 256


def held_out_stories(seed: int, stories: int, shots: int) -> list[Story]:
    """Stories number 0, 1, … of a seed, each of `shots` shots.

    Two seeds share no story. A story's first shots do not depend on how many follow.

    Raises:
        InputError: a number is out of range.
    """
    check_counts(seed, stories, shots)
    return [make_story(seed * MAX_STORIES + n, shots, "test") for n in range(stories)]


def check_counts(seed: int, stories: int, shots: int) -> None:
    """Refuse numbers out of range with an `InputError` that names them."""
    for name, value, low, high in (
        ("seed", seed, 0, 2**31 - 1),
        ("stories", stories, 1, MAX_STORIES),
        ("shots", shots, 1, MAX_SHOTS),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InputError(name, f"must be a whole number from {low} to {high}", value, "choose one in that range")
