"""The pocket world: a seeded cartoon universe whose every frame has known ground truth.

Characters are 8 colours × 4 body shapes × 4 accessories; places are 6 kinds whose landmarks are laid out from a seed
that no caption tells. A caption describes a character's looks once, at its first appearance in the story; later only
the ``<Name>`` tag stands for it (the tagging of Captain Cinema, Appendix B). So identity and layout can come only from
memory.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

DATA_VERSION = 1
HEIGHT, WIDTH, FPS = 80, 160, 8

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SHAPES = ("square", "circle", "triangle", "star")
ACCESSORIES = ("crown", "hat", "scarf", "bow")
PLACES = ("desert", "town", "forest", "beach", "snow", "moon")
ACTIONS = ("stands", "waves", "jumps", "walks", "dances")
SCALES = ("wide shot", "medium shot", "close-up")
MOVEMENTS = ("static", "pan left", "pan right", "zoom in")
SIDES = ("left", "right")
SKY_SLOTS, LAND_SLOTS = 4, 3

NAMES = (
    "Mira Pip Juno Otto Lina Bo Tess Hugo Nia Rex Ada Finn Zoe Max Ivy Leo Uma Gus Eva Tom Kira Ned Lou "
    "Sam Ana Ben Cleo Dax Elle Fay Gil Hana Ike Jade Kai Lars Mona Nico Opal Pim Quin Rosa Sven Tara Ugo "
    "Vera Wim Xena Yuri Zara Abel Bea Carl Dora Emil Flo Greta Hal Ines Jo Kurt Lila Milo Nora Olaf Pia "
    "Ravi Suki Theo Ula Vik Wanda Yoko Zeb Alma Bram Cora Dirk Edda Fritz"
).split()

#: the names stories use; few, so that a tiny model learns to match names instead of learning names
CAST = NAMES[:16]


@dataclass(frozen=True)
class Look:
    """A character's appearance, as indices into COLOURS, SHAPES and ACCESSORIES."""

    colour: int
    shape: int
    accessory: int

    def describe(self) -> str:
        """The words a caption uses at first appearance: ``a yellow square with a crown``."""
        article = "an" if COLOURS[self.colour][0] in "aeiou" else "a"
        return f"{article} {COLOURS[self.colour]} {SHAPES[self.shape]} with a {ACCESSORIES[self.accessory]}"


@dataclass(frozen=True)
class Layout:
    """Where a place's landmarks stand: slot of the sky object and of the two landmarks (never the same slot)."""

    place: int
    sky: int
    first: int
    second: int


@dataclass(frozen=True)
class Actor:
    """One character in one shot: its name, looks, side of the frame (index into SIDES) and action."""

    name: str
    look: Look
    side: int
    action: int


@dataclass(frozen=True)
class ShotSpec:
    """Ground truth of one shot; `described` are the names whose looks its caption tells (first appearances)."""

    layout: Layout
    actors: tuple[Actor, ...]
    scale: int
    movement: int
    described: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """Caption for generation: looks only at first appearance, afterwards only the tag."""
        return self.caption(self.described)

    @property
    def query(self) -> str:
        """Caption for retrieval: each tag replaced by the description, because names mean nothing to CLIP."""
        return " ".join(self.clauses((), tag=False))

    def caption(self, told: Collection[str]) -> str:
        """The caption with tags, in which the looks of the `told` characters are written out."""
        return " ".join(self.clauses(told))

    def clauses(self, told: Collection[str], tag: bool = True, acting: bool = True) -> list[str]:
        """The caption's sentences: the setting, then one for each actor from left to right; `tag` False writes the
        looks in place of the names, `acting` False leaves out what they do.
        """
        head = f"{SCALES[self.scale]}, {MOVEMENTS[self.movement]}, in the {PLACES[self.layout.place]}."
        parts = [head]
        for a in self.actors:
            who = f"<{a.name}>" if tag else a.look.describe()
            if tag and a.name in told:
                who = f"<{a.name}>, {a.look.describe()},"
            does = f" {ACTIONS[a.action]}" if acting else ""
            parts.append(f"{who}{does} on the {SIDES[a.side]}.")
        return parts


@dataclass(frozen=True)
class Story:
    """A pocket story: the cast, the layouts of its places and its shots, all drawn from one seed."""

    seed: int
    cast: dict[str, Look]
    layouts: tuple[Layout, ...]
    shots: tuple[ShotSpec, ...] = field(default_factory=tuple)


def generator(split: str, seed: int) -> np.random.Generator:
    """A random generator for one item of a split; ``train`` and ``test`` streams never meet."""
    return np.random.default_rng(np.random.SeedSequence([DATA_VERSION, {"train": 0, "test": 1}[split], seed]))


def random_look(rng: np.random.Generator) -> Look:
    """Uniform over the 128 looks."""
    return Look(int(rng.integers(len(COLOURS))), int(rng.integers(len(SHAPES))), int(rng.integers(len(ACCESSORIES))))


def random_layout(rng: np.random.Generator, place: int) -> Layout:
    """Uniform over sky slots and ordered pairs of distinct landmark slots."""
    first, second = rng.permutation(LAND_SLOTS)[:2]
    return Layout(place, int(rng.integers(SKY_SLOTS)), int(first), int(second))


def make_story(
    seed: int, shots: int, split: str = "train", max_cast: int = 4, max_places: int = 3, min_cast: int = 2
) -> Story:
    """Draw a story: a cast with names and looks (all different), places with layouts, and its shots.

    Args:
        seed: any non-negative integer; the same seed gives the same story.
        shots: number of shots, at least 1.
        split: ``train`` or ``test``; the two streams are disjoint.
    """
    rng = generator(split, seed)
    size = int(rng.integers(min_cast, max_cast + 1))
    names = [CAST[i] for i in rng.permutation(len(CAST))[:size]]
    looks: list[Look] = []
    while len(looks) < size:
        look = random_look(rng)
        if look not in looks:
            looks.append(look)
    cast = dict(zip(names, looks, strict=True))
    places = rng.permutation(len(PLACES))[: int(rng.integers(2, max_places + 1))]
    layouts = tuple(random_layout(rng, int(p)) for p in places)
    seen: set[str] = set()
    specs = []
    for _ in range(shots):
        layout = layouts[int(rng.integers(len(layouts)))]
        count = 2 if rng.random() < 0.6 else 1
        who = [names[i] for i in rng.permutation(size)[:count]]
        sides = rng.permutation(2)[:count]
        actors = tuple(
            sorted(
                (Actor(n, cast[n], int(s), int(rng.integers(len(ACTIONS)))) for n, s in zip(who, sides, strict=True)),
                key=lambda a: a.side,
            )
        )
        described = tuple(a.name for a in actors if a.name not in seen)
        seen.update(described)
        specs.append(
            ShotSpec(layout, actors, int(rng.integers(len(SCALES))), int(rng.integers(len(MOVEMENTS))), described)
        )
    return Story(seed, cast, layouts, tuple(specs))
