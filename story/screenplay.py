"""From the elements of a screenplay to shots: headings are places, paragraphs of action shots.

What is spoken is no picture: dialogue, names of speakers, parentheticals and lyrics are left out and counted in a note.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..core.limits import MAX_SHOTS
from .brackets import transition_of
from .builder import Builder, Story
from .headings import heading_place
from .lengths import looks_like_number

__all__ = ["Element", "Kind", "screenplay_story"]

Kind = Literal["heading", "action", "speech", "transition", "shot", "centred"]


@dataclass(frozen=True)
class Element:
    """One paragraph of a screenplay.

    Attributes:
        kind: what it is; ``shot`` is Final Draft's line such as CLOSE ON THE LAMP.
        text: its words, on one line.
        line: where it starts, from 1.
    """

    kind: Kind
    text: str
    line: int


def screenplay_story(elements: list[Element], build: Builder) -> Story:
    """The storyboard of a screenplay.

    Raises:
        InputError: no action at all, or too many shots, places or characters.
    """
    place: str | None = None
    transition: str | None = None
    lead: Element | None = None
    headings = speeches = centred = 0
    silent = 0  # scenes without action
    fresh = False
    for element in elements:
        if element.kind == "heading":
            silent += fresh
            fresh, headings = True, headings + 1
            words = heading_place(element.text)
            place = build.place(words, element.line) if words and not looks_like_number(words) else None
        elif element.kind == "transition":
            transition = transition_of(element.text) or transition
        elif element.kind == "speech":
            speeches += 1
        elif element.kind == "centred":
            centred += 1
        elif element.kind == "shot":
            lead = element
        else:
            _add(element, lead, place, transition, build)
            fresh, transition, lead = False, None, None
    if lead is not None:
        _add(lead, None, place, transition, build)
        fresh = False
    silent += fresh
    silence = "a film without sound shows action only"
    for count, one, many in (
        (speeches, f"speech was left out: {silence}", f"speeches were left out: {silence}"),
        (centred, "centred line was left out", "centred lines were left out"),
        (silent, "scene has no action and was left out", "scenes have no action and were left out"),
    ):  # fmt: skip
        if count:
            build.notes.append(f"{count} {one if count == 1 else many}")
    return build.done(f"write paragraphs of action under the scene headings, at most {MAX_SHOTS}")


def _add(element: Element, lead: Element | None, place: str | None, transition: str | None, build: Builder) -> None:
    text = f"{lead.text.rstrip('.:')}. {element.text}" if lead is not None else element.text
    build.refuse_number(text, "scene", element.line)
    shot = {"scene": build.prose(text, "scene", element.line)}
    if place is not None:
        shot["place"] = place
    if transition is not None and build.data["shots"]:
        shot["transition"] = transition
    build.add(shot, element.line)
