"""The Director Agent (STAGE §4.3, Eq. 7): a theme in, a storyboard out, S = {D_i, C_i}."""

from __future__ import annotations

from ..core.errors import InputError, shorten
from ..story.shot import clean_text
from ..story.storyboard import Storyboard
from ..story.terms import VOCABULARIES
from .answers import MAX_DIRECTED, director_schema
from .client import Client
from .prompts import messages_for

__all__ = ["MAX_THEME", "direct"]

MAX_THEME = 4000
"""Longest theme, in characters."""


def direct(
    client: Client,
    theme: str,
    shots: int | None = None,
    *,
    fps: float = 8,
    size: tuple[int, int] = (160, 80),
) -> Storyboard:
    """Turn a theme into a storyboard.

    The model is asked to think first, in a part of its answer that is thrown away (chain of thought), and to answer by
    a schema: cast, places, and shots with a description (D_i: scene and action) and cinematic attributes (C_i: scale,
    angle, movement and length).

    Args:
        client: who answers.
        theme: what the film is about, T_desc.
        shots: how many shots; None leaves it to the model.
        fps: frames per second of the film.
        size: (width, height) of the film in pixels.

    Returns:
        A checked storyboard; its `notes` tell what was mended.

    Raises:
        InputError: a theme, number, rate or size that cannot be used, or no usable answer within the client's time.
    """
    theme = check_theme(theme)
    if shots is not None and not 1 <= shots <= MAX_DIRECTED:
        fix = "direct a longer film in parts"
        raise InputError("shots", f"must be from 1 to {MAX_DIRECTED}", shots, fix)
    _check_film(fps, size)
    asked = f"exactly {shots}" if shots else "as many as the story needs, 4 to 12"
    vocabularies = {f"{field}s": ", ".join(terms) for field, terms in VOCABULARIES.items()}
    messages = messages_for("director", {"theme": theme, "shots": shots}, theme=theme, shots=asked, **vocabularies)
    return client.ask(messages, director_schema(shots, title=shorten(theme, 80), fps=fps, size=size))


def _check_film(fps: float, size: tuple[int, int]) -> None:
    """Refuse, before anybody is asked, what no answer could make good."""
    try:
        Storyboard.parse({"fps": fps, "size": list(size), "shots": [{"scene": "x"}]})
    except InputError as error:
        field = {"size[0]": "width", "size[1]": "height"}.get(error.field, error.field)
        raise InputError(field, error.rule, error.value, error.fix) from None


def check_theme(theme: str) -> str:
    """The theme as one line. Raises InputError where it is empty, too long or no text."""
    if len(theme) > MAX_THEME:
        raise InputError("theme", f"must have at most {MAX_THEME} characters", f"{len(theme)}", "shorten it")
    try:
        theme = clean_text(theme)
    except InputError as error:
        raise InputError("theme", error.rule, error.value, error.fix) from None
    if not theme:
        raise InputError(
            "theme", "must say what the film is about", None, "write e.g. “Two friends meet in the desert”"
        )
    return theme
