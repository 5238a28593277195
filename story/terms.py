"""The camera's closed vocabularies, and the words and short forms by which people write their terms."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal, get_args

from .errors import closest

__all__ = [
    "TERMS",
    "VOCABULARIES",
    "Angle",
    "Movement",
    "Scale",
    "camera_like",
    "camera_term",
    "fold_term",
    "near_term",
]

Scale = Literal[
    "extreme wide shot", "wide shot", "full shot", "medium wide shot", "medium shot", "medium close-up", "close-up",
    "extreme close-up",
]  # fmt: skip
Angle = Literal[
    "eye level", "high angle", "low angle", "overhead", "bird's-eye view", "ground level", "dutch angle",
    "over the shoulder", "point of view",
]  # fmt: skip
Movement = Literal[
    "static", "pan left", "pan right", "tilt up", "tilt down", "zoom in", "zoom out", "dolly in", "dolly out",
    "truck left", "truck right", "pedestal up", "pedestal down", "crane up", "crane down", "orbit left", "orbit right",
    "tracking", "handheld",
]  # fmt: skip

VOCABULARIES: dict[str, tuple[str, ...]] = {
    "scale": get_args(Scale), "angle": get_args(Angle), "movement": get_args(Movement),
}  # fmt: skip
"""Field of `Camera`: its terms."""
TERMS: tuple[str, ...] = tuple(term for terms in VOCABULARIES.values() for term in terms)
"""Every camera term."""

# As shot lists, screenplays and the forms of StudioBinder, Kitsu and the like write them.
_OTHER = {
    "extreme wide shot": "EWS, ELS, XWS, XLS, VWS, VLS, extreme wide, extreme long shot, very wide shot, "
    "very long shot, "
    "establishing, establishing shot",
    "wide shot": "WS, LS, wide, long shot, wide angle shot",
    "full shot": "FS, full, full body, full body shot",
    "medium wide shot": "MWS, MLS, medium wide, medium long shot, american shot, cowboy, cowboy shot",
    "medium shot": "MS, medium, mid shot, mid, waist shot",
    "medium close-up": "MCU, medium close up shot, medium close",
    "close-up": "CU, close up shot, close shot, close",
    "extreme close-up": "ECU, XCU, BCU, extreme close up shot, big close up, extreme close",
    "eye level": "EL, eye level shot, eye line, eye level angle, straight on",
    "high angle": "HA, high, high angle shot",
    "low angle": "LA, low, low angle shot",
    "overhead": "top shot, top down, top view, overhead shot, overhead view",
    "bird's-eye view": "birds eye, birds eye shot, aerial, aerial shot, aerial view, drone shot",
    "ground level": "ground level shot, worms eye, worms eye view, floor level",
    "dutch angle": "dutch, dutch tilt, dutch angle shot, canted, canted angle",
    "over the shoulder": "OTS, over shoulder, over the shoulder shot",
    "point of view": "POV, POV shot, point of view shot",
    "static": "static shot, still, fixed, locked, locked off, lock off, locked down, none, no movement, stationary",
    "pan left": "pan L, pan to the left, pan to left, panning left",
    "pan right": "pan R, pan to the right, pan to right, panning right",
    "tilt up": "tilting up", "tilt down": "tilting down",
    "zoom in": "zooming in", "zoom out": "zooming out",
    "dolly in": "push in, push, dolly forward, move in, track in, truck in",
    "dolly out": "pull out, pull back, pull, dolly back, dolly backward, move out, track out, truck out",
    "truck left": "truck L, track left, dolly left, move left, slide left",
    "truck right": "truck R, track right, dolly right, move right, slide right",
    "pedestal up": "ped up, boom up", "pedestal down": "ped down, boom down",
    "crane up": "jib up", "crane down": "jib down",
    "orbit left": "arc left", "orbit right": "arc right",
    "tracking": "tracking shot, track, follow, following, follow shot",
    "handheld": "hand held shot, handheld shot, hand held camera, handheld camera",
}  # fmt: skip
_CAMERA_WORD = re.compile(
    r"(?<!\w)(shots?|close[ -]?ups?|closeups?|angles?|zoom\w*|pan|pans|panning|tilt\w*|doll(?:y|ies)|camera|cam|lens|"
    r"lenses|mm|fps|tracking|handheld|steadicam|gimbal|pedestal|orbit|pov|ots|scale|movement|wide|medium|extreme|cut|cuts|"
    r"dissolve\w*|fade\w*|wipe|blend|transition|seconds?|secs?|frames?|duration|length|shoulder)(?!\w)",
    re.IGNORECASE,
)


def _plain(term: str) -> str:
    return re.sub(r"[\s_\-'’.]+", "", term.lower())


_FIELD = {term: field for field, terms in VOCABULARIES.items() for term in terms}
_KNOWN: dict[str, str] = {_plain(term): term for term in TERMS} | {
    _plain(word): term for term, words in _OTHER.items() for word in words.split(",")
}


def fold_term(value: Any) -> Any:
    """``Close_Up``, ``close up`` and ``CU`` mean ``close-up``: the vocabularies do not turn on case, hyphens or length.

    Other values pass unchanged.
    """
    if not isinstance(value, str) or len(value) > 60:
        return value
    return _KNOWN.get(_plain(value), value)


def camera_term(words: str) -> tuple[str, str] | None:
    """The field of `Camera` and the term that `words` mean, e.g. ``("scale", "close-up")`` for ``CU``; else None."""
    term = fold_term(words)
    return (_FIELD[term], term) if term in _FIELD else None


def camera_like(words: str) -> bool:
    """Whether `words` speak of camera, time or transitions, so that they can hardly be a place."""
    return _CAMERA_WORD.search(words[:200]) is not None


def near_term(words: str, terms: Iterable[str] = TERMS, cutoff: float = 0.75) -> str | None:
    """The camera term that `words` most likely misspell, or None."""
    return closest(words, terms, cutoff)
