"""Texts as people paste them, read or refused; shared by the tests of the reader."""

from __future__ import annotations

import pytest

from anchorshot.core.errors import InputError
from anchorshot.story.storyboard import Storyboard, parse_storyboard

__all__ = ["read", "refused", "told"]


def read(text: str) -> Storyboard:
    return parse_storyboard(text, "auto")


def refused(text: str) -> str:
    """The one line that a text is refused with."""
    with pytest.raises(InputError) as caught:
        parse_storyboard(text, "auto")
    message = str(caught.value)
    assert message.isprintable() and len(message) < 600
    return message


def told(text: str) -> list[str]:
    return [shot.scene for shot in read(text).shots]
