"""What the reader of a storyboard left out or decided, for the user to see before anything is rendered."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from ..core.errors import InputError
from ..story.storyboard import Storyboard
from ..story.vocabulary import made_for_note, words_note
from .console import console

if TYPE_CHECKING:
    from ..models.studio import Studio

__all__ = ["show_mode_notes", "show_notes", "show_studio_notes"]


def show_notes(story: Storyboard, path: Path) -> None:
    """Print the storyboard's notes, one line each; on stdout, because stderr is for the one line of an error."""
    for note in story.notes:
        console.print(Text(f"{path.name}: {note}"), soft_wrap=True)


def show_mode_notes(story: Storyboard, path: Path, pairs: bool) -> None:
    """Print what a storyboard says that has no meaning for films of keyframes, or of start and end frames."""
    notes = []
    matches = [shot.id for shot in story.shots if shot.transition == "match"]
    if matches and not pairs:
        notes.append(f"a match is a cut without --pairs: {', '.join(matches[:8])}")
    told = [shot.id for shot in story.shots if any(key.text and key.image is None for key in shot.keyframes)]
    if told and pairs:
        notes.append(f"keyframes with a text of their own are left out with --pairs: {', '.join(told[:8])}")
    for note in notes:
        console.print(Text(f"{path.name}: {note}"), soft_wrap=True)


def show_studio_notes(story: Storyboard, path: Path, studio: Studio, text: str = "keyframe_text") -> None:
    """Print what a studio was not taught or made for, a line each: words, size and rate.

    Args:
        story: the film.
        path: its file.
        studio: the models.
        text: which of the studio's text encoders reads the film.
    """
    made, who = studio.config.made_for, f"the studio “{studio.name}”"
    notes = [made_for_note(story, made.size, made.fps, who)]
    with contextlib.suppress(InputError):  # a missing file is named by the work that needs it
        notes.insert(0, words_note(story, studio.words(text), who))
    for note in filter(None, notes):
        console.print(Text(f"{path.name}: {note}"), soft_wrap=True)
