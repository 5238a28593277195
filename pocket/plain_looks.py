"""Looks without their colour: what a caption says of a character whose colour has to come from memory."""

from __future__ import annotations

import re

from .lexicon import LEXICON

__all__ = ["without_colour"]

_COLOURS = "|".join(sorted({word for words in LEXICON["colour"].values() for word in words}, key=len, reverse=True))
_COLOUR = re.compile(rf",?\s*\b(?:{_COLOURS})\b(,(?=\s))?", re.IGNORECASE)


def without_colour(look: str) -> str:
    """A look that does not tell its colour: ``a yellow square with a crown`` → ``a square with a crown``."""
    plain = _COLOUR.sub("", look, count=1).strip(" ,")
    return re.sub(r"^an(?= [^aeiou])", "a", plain)
