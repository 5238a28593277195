"""The words that the pocket studio reads, and what each of them means.

One meaning has several words, as people write: ``hops`` is ``jumps`` is ``is jumping``. Everything else that knows the
studio's language (tokenizer, training captions, the reader of texts, warnings about unknown words) takes it from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

from .world import ACCESSORIES, ACTIONS, COLOURS, MOVEMENTS, PLACES, SCALES, SHAPES, SIDES

__all__ = ["LEXICON", "PLAIN", "VERBS", "meanings", "words_of"]

VERBS: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "stands": (
        ("stands", "stand", "standing"),
        ("waits", "wait", "waiting"),
        ("stands still", "stand still", "standing still"),
    ),
    "waves": (
        ("waves", "wave", "waving"),
        ("waves hello", "wave hello", "waving hello"),
        ("greets", "greet", "greeting"),
    ),
    "jumps": (
        ("jumps", "jump", "jumping"),
        ("jumps up and down", "jump up and down", "jumping up and down"),
        ("hops", "hop", "hopping"),
        ("leaps", "leap", "leaping"),
    ),
    "walks": (
        ("walks", "walk", "walking"),
        ("strolls", "stroll", "strolling"),
        ("wanders", "wander", "wandering"),
    ),
    "dances": (
        ("dances", "dance", "dancing"),
        ("twirls", "twirl", "twirling"),
        ("sways", "sway", "swaying"),
    ),
}
"""Per action its verbs, the plainest first, each as (she …, they …, -ing form)."""

LEXICON: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "colour": {
        "red": ("red", "scarlet", "crimson"),
        "orange": ("orange", "tangerine"),
        "yellow": ("yellow", "lemon"),
        "green": ("green", "emerald"),
        "cyan": ("cyan", "turquoise", "teal"),
        "blue": ("blue", "navy"),
        "purple": ("purple", "violet"),
        "pink": ("pink", "rose", "magenta"),
    },
    "shape": {
        "square": ("square", "box", "block", "cube"),
        "circle": ("circle", "ball", "disc", "disk"),
        "triangle": ("triangle", "pyramid"),
        "star": ("star",),
    },
    "accessory": {
        "crown": ("crown", "tiara"),
        "hat": ("hat", "top hat", "cap"),
        "scarf": ("scarf", "shawl"),
        "bow": ("bow", "ribbon"),
    },
    "place": {
        "desert": ("desert", "dunes", "sand dunes"),
        "town": ("town", "city", "village"),
        "forest": ("forest", "woods", "wood", "woodland"),
        "beach": ("beach", "seaside", "seashore", "shore"),
        "snow": ("snow", "snowfield", "snowy field"),
        "moon": ("moon", "lunar surface"),
    },
    "action": {action: tuple(form for verb in verbs for form in verb) for action, verbs in VERBS.items()},
    "scale": {
        "wide shot": ("wide shot", "full shot", "extreme wide shot", "medium wide shot"),
        "medium shot": ("medium shot", "medium close-up"),
        "close-up": ("close-up", "extreme close-up"),
    },
    "movement": {
        "static": ("static",),
        "pan left": ("pan left", "truck left"),
        "pan right": ("pan right", "truck right"),
        "zoom in": ("zoom in", "dolly in"),
    },
    "side": {"left": ("left",), "right": ("right",)},
}
"""Per fact, each class (in the world's words and order) and the phrases that mean it, the plainest first."""

PLAIN = frozenset(
    """
    a about again alone also an and are around as at back be behind beside both but by camera do does doing down
    dressed each everyone eye for frame from front goodbye half hand has have having he hello her here him his image in
    into is it its just level meanwhile moves near next not nothing now of on one or other over picture same
    scene screen see she shot shows side sides so stay stays still that the their them then there they this to
    together too towards under up we wear wearing wears which while who whom with
    """.split()
)
"""Words that carry no class but belong to plain sentences; the studio reads past them."""

_CLASSES = {
    "colour": COLOURS,
    "shape": SHAPES,
    "accessory": ACCESSORIES,
    "place": PLACES,
    "action": ACTIONS,
    "scale": SCALES,
    "movement": MOVEMENTS,
    "side": SIDES,
}
assert all(tuple(LEXICON[fact]) == classes for fact, classes in _CLASSES.items())


@cache
def meanings() -> dict[str, tuple[str, int]]:
    """Phrase in lower case → (fact, class index), longer phrases first."""
    found = {
        phrase: (fact, index)
        for fact, classes in LEXICON.items()
        for index, phrases in enumerate(classes.values())
        for phrase in phrases
    }
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


@cache
def words_of(facts: Iterable[str] | None = None) -> tuple[str, ...]:
    """Single words of the phrases of some facts (None: all of them), sorted."""
    chosen = LEXICON if facts is None else {fact: LEXICON[fact] for fact in facts}
    phrases = (phrase for classes in chosen.values() for phrases in classes.values() for phrase in phrases)
    return tuple(sorted({word for phrase in phrases for word in re.split(r"\s+", phrase)}))
