"""The camera's closed vocabularies, and the words and short forms by which people write their terms."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal, get_args

from ..core.errors import closest

__all__ = [
    "TERMS",
    "VOCABULARIES",
    "Angle",
    "Movement",
    "Scale",
    "camera_like",
    "camera_term",
    "camera_terms",
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
# The same in German, French and Spanish.
_ABROAD = {
    "extreme wide shot": "PG, supertotale, panoramaeinstellung, weite einstellung, plan général, plan de grand "
    "ensemble, gran plano general",
    "wide shot": "PE, totale, plan large, plan d'ensemble, plano general",
    "full shot": "ganzkörper, plan en pied, plan pied, plano entero",
    "medium wide shot": "HT, PA, halbtotale, amerikanisch, amerikanische, amerikanische einstellung, plan américain, "
    "plan demi- ensemble, plano americano",
    "medium shot": "HN, PM, halbnah, halbnahe, halbnaheinstellung, plan moyen, plan taille, plan rapproché "
    "taille, plano medio",
    "medium close-up": "PR, PRP, nah, nahe, nahaufnahme, plan rapproché, plan rapproché poitrine, plan poitrine, "
    "plano medio corto",
    "close-up": "GP, groß, gross, großaufnahme, grossaufnahme, gros plan, primer plano",
    "extreme close-up": "TGP, detail, detailaufnahme, detail shot, insert, insert shot, très gros plan, "
    "primerísimo primer plano",
    "eye level": "augenhöhe, auf augenhöhe, normalsicht, hauteur des yeux, à hauteur des yeux, hauteur "
    "d'homme",
    "high angle": "aufsicht, obersicht, plongée, picado",
    "low angle": "untersicht, contre-plongée, contre plongée, contrapicado",
    "overhead": "zénithal, vue zénithale, top angle, top shot view",
    "bird's-eye view": "vogelperspektive, vue aérienne, drohnenaufnahme, drone, drone view",
    "ground level": "froschperspektive, ras du sol, au ras du sol",
    "over the shoulder": "über die schulter, schulterblick, par-dessus l'épaule, amorce",
    "point of view": "subjektive, subjektive kamera, caméra subjective",
    "static": "statisch, fest, stand, standbild, keine, plan fixe, fixe, statique, aucun, locked "
    "off shot, static camera, tripod, still shot",
    "pan left": "schwenk links, schwenk nach links, linksschwenk, panoramique gauche, panoramique à "
    "gauche, panoramique vers la gauche, pano gauche",
    "pan right": "schwenk rechts, schwenk nach rechts, rechtsschwenk, panoramique droite, panoramique "
    "à droite, panoramique vers la droite, pano droite",
    "tilt up": "schwenk hoch, schwenk nach oben, panoramique haut, panoramique vers le haut",
    "tilt down": "schwenk runter, schwenk nach unten, panoramique bas, panoramique vers le bas",
    "zoom in": "zoom avant, heranzoomen, ranzoomen",
    "zoom out": "zoom arrière, wegzoomen, herauszoomen",
    "dolly in": "kamerafahrt vorwärts, fahrt vorwärts, vorwärtsfahrt, zufahrt, ranfahrt, heranfahrt, "
    "travelling avant, pushing in, push toward, push towards",
    "dolly out": "kamerafahrt rückwärts, fahrt rückwärts, rückwärtsfahrt, rückfahrt, wegfahrt, "
    "travelling arrière, pulling back, pulling out, pullback",
    "truck left": "fahrt links, fahrt nach links, travelling gauche, travelling latéral gauche",
    "truck right": "fahrt rechts, fahrt nach rechts, travelling droite, travelling latéral droite",
    "crane up": "kranfahrt nach oben, kran hoch, craning up, rising crane",
    "crane down": "kranfahrt nach unten, kran runter, craning down",
    "tracking": "mitfahrt, parallelfahrt, begleitfahrt, verfolgungsfahrt, travelling "
    "d'accompagnement, steadicam, gimbal",
    "handheld": "handkamera, caméra épaule, caméra à l'épaule, caméra portée, cámara en mano",
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
_KNOWN: dict[str, str] = {
    _plain(word): term for table in (_ABROAD, _OTHER) for term, words in table.items() for word in words.split(",")
} | {_plain(term): term for term in TERMS}
_LONGEST_TERM = 6  # words
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


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


def camera_terms(words: str, field: str = "") -> list[tuple[str, str]]:
    """The fields and terms that words about the camera hold, such as “Slow push-in on her face, low angle”.

    Args:
        words: a term, or what people write around terms.
        field: what the words are about, if that is known: ``scale``, ``angle`` or ``movement``. Then single words count
            that mean much else elsewhere (wide, low, follow), and only terms of that field unless the words are one of
            another.

    Returns:
        Each field once, the longest terms first in case of doubt; empty if there are none.
    """
    if whole := camera_term(words):
        return [whole]
    tokens = _WORD.findall(words[:200])
    found: dict[str, str] = {}
    position = 0
    while position < len(tokens):
        for count in range(min(_LONGEST_TERM, len(tokens) - position), 0, -1):
            here = " ".join(tokens[position : position + count])
            term = camera_term(here)
            sure = count > 1 or field or (term is not None and (here.isupper() or _plain(here) == _plain(term[1])))
            if term is not None and sure and field in ("", term[0]):
                found.setdefault(*term)
                position += count - 1
                break
        position += 1
    return list(found.items())


def camera_like(words: str) -> bool:
    """Whether `words` speak of camera, time or transitions, so that they can hardly be a place."""
    return _CAMERA_WORD.search(words[:200]) is not None


def near_term(words: str, terms: Iterable[str] = TERMS, cutoff: float = 0.75) -> str | None:
    """The camera term that `words` most likely misspell, or None."""
    return closest(words, terms, cutoff)
