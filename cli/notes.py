"""What the reader of a storyboard left out or decided, for the user to see before anything is rendered."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from ..story.storyboard import Storyboard
from .console import console

__all__ = ["show_notes"]


def show_notes(story: Storyboard, path: Path) -> None:
    """Print the storyboard's notes, one line each; on stdout, because stderr is for the one line of an error."""
    for note in story.notes:
        console.print(Text(f"{path.name}: {note}"), soft_wrap=True)
