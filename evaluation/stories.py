"""Which stories the suites use: the pocket world's test split, which no recipe trains on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import InputError
from ..pocket.world import Story, make_story
from .suites.keyframes.suite import HELD_OUT
from .written_stories import MAX_SHOTS, WRITTEN, load_stories

if TYPE_CHECKING:
    from ..pocket.recogniser import Recogniser

__all__ = ["MAX_STORIES", "check_counts", "held_out_stories", "shipped_recogniser", "stories_of"]

MAX_STORIES = 10_000
"""Stories of one seed; the next seed's begin after them."""


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


def stories_of(name: str, stories: int | None) -> list[Story] | None:
    """The stories of a set: `written`, or a folder's; None for the held-out ones, which are drawn.

    Raises:
        InputError: no such folder, or no stories in it.
    """
    if name == HELD_OUT:
        return None
    if stories is not None:
        check_counts(0, stories, 1)
    if not name:
        raise InputError("set", "must be named", name, "use held_out, written, or a folder of storyboards")
    return load_stories(WRITTEN if name == "written" else Path(name), stories)


def shipped_recogniser() -> Recogniser:
    """The pocket studio's classifier of frames.

    Raises:
        InputError: its file is missing.
    """
    from ..pocket.recogniser import load_recogniser

    path = Path(__file__).resolve().parent.parent / "pocket" / "weights" / "recogniser.safetensors"
    if not path.is_file():
        fix = "train it with `anchorshot train recogniser`, or pass one"
        raise InputError("recogniser", "file must exist", path.name, fix)
    return load_recogniser(path)
