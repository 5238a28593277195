"""Stories that people wrote, with what they show by hand: storyboards in a folder, their truths under ``truth/``.

The held-out stories of the pocket world come from its own grammar; these do not, and no recipe trains on them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.documents import as_array, as_object, read_bytes
from ..core.errors import InputError
from ..core.limits import MAX_BYTES
from ..core.yaml_text import read_yaml
from ..pocket.reading import read_caption
from ..pocket.world import (
    ACCESSORIES,
    ACTIONS,
    COLOURS,
    MOVEMENTS,
    PLACES,
    SCALES,
    SHAPES,
    SIDES,
    Actor,
    Layout,
    Look,
    ShotSpec,
    Story,
    generator,
    random_layout,
)
from ..story.storyboard import Caption, Storyboard, load_storyboard

__all__ = ["MAX_SHOTS", "WRITTEN", "WrittenShot", "load_stories", "padded"]

MAX_SHOTS = 256
"""Of a story that is evaluated."""

WRITTEN = Path(__file__).resolve().parent / "written"
_KINDS = (".yaml", ".yml", ".json")
_LOOKS = (("colour", COLOURS), ("shape", SHAPES), ("accessory", ACCESSORIES))
_Truth = tuple[dict[str, int], list[Actor]]
_SETTING = (("place", PLACES), ("scale", SCALES), ("movement", MOVEMENTS))


@dataclass(frozen=True)
class WrittenShot(ShotSpec):
    """A shot with the caption that its storyboard gives it."""

    text: str = ""
    question: str = ""

    @property
    def prompt(self) -> str:
        """The film's caption of this shot."""
        return self.text

    @property
    def query(self) -> str:
        """The same with looks in place of names."""
        return self.question


def load_stories(folder: Path, limit: int | None = None) -> list[Story]:
    """The storyboards of a folder, the longest first, each with what its shots show.

    Truth comes from ``truth/NAME`` where there is one: ``characters`` (name: [colour, shape, accessory]) and ``shots``
    (id: place, scale, movement, and ``left`` and ``right``: [name, action]), in the pocket world's own words. Without
    one `read_caption` tells what the captions say. Layouts, which no text tells, are drawn.

    Args:
        folder: holds YAML or JSON storyboards.
        limit: only the first so many, by name.

    Raises:
        InputError: no storyboards there, a faulty one, or a text or truth that the pocket world cannot show.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix in _KINDS and path.is_file())[:limit]
    except (OSError, ValueError) as error:
        fix = "use held_out, written, or a folder of storyboards"
        raise InputError("set", "must be a folder that can be read", str(folder), fix) from error
    if not files:
        raise InputError("set", "must hold storyboards (.yaml, .json)", str(folder), "give another folder")
    return sorted((_story(number, path) for number, path in enumerate(files)), key=lambda story: -len(story.shots))


def _story(number: int, path: Path) -> Story:
    board = load_storyboard(path)
    if len(board.shots) > MAX_SHOTS:
        raise InputError(f"{path.name}: shots", f"must be at most {MAX_SHOTS}", len(board.shots), "split the story")
    answers = [path.parent / "truth" / f"{path.stem}{kind}" for kind in _KINDS]
    found = next((answer for answer in answers if os.path.lexists(answer)), None)
    truth = _understand(path.name, board) if found is None else _read_truth(found, board)
    rng = generator("test", number)
    layouts: dict[int, Layout] = {}
    shots = []
    seen: set[str] = set()
    for caption, (setting, actors) in zip(board.captions(), truth, strict=True):
        layout = layouts.setdefault(setting["place"], random_layout(rng, setting["place"]))
        described = tuple(name for name in caption.names if name not in seen)
        seen.update(described)
        scale, movement = setting["scale"], setting["movement"]
        texts = {"text": caption.prompt, "question": caption.query}
        shots.append(WrittenShot(layout, tuple(actors), scale, movement, described, **texts))
    cast = {actor.name: actor.look for shot in shots for actor in shot.actors}
    return Story(number, cast, tuple(layouts.values()), tuple(shots))


def _read_truth(path: Path, board: Storyboard) -> list[_Truth]:
    where = f"truth/{path.name}"
    data, _ = read_yaml(read_bytes(path, where, limit=MAX_BYTES).decode(errors="replace"), where)
    data = as_object(data, where)
    cast = as_object(data.get("characters"), f"{where}: characters")
    looks = {name: _told_look(words, f"{where}: characters.{name}") for name, words in cast.items()}
    rows = as_object(data.get("shots"), f"{where}: shots")
    ids = [shot.id for shot in board.shots]
    if set(rows) != set(ids):
        odd = sorted(set(rows) ^ set(ids))
        raise InputError(f"{where}: shots", "must be the story's", odd[:5], "tell every shot, and no other")
    captions = zip(ids, board.captions(), strict=True)
    return [_answer(rows[shot], looks, caption, f"{where}: shots.{shot}") for shot, caption in captions]


def _told_look(words: Any, where: str) -> Look:
    listed = as_array(words, where)
    if len(listed) != len(_LOOKS):
        raise InputError(where, "must be [colour, shape, accessory]", listed, "write e.g. [green, triangle, hat]")
    return Look(*(_index(word, classes, where) for word, (_, classes) in zip(listed, _LOOKS, strict=True)))


def _index(word: Any, classes: Sequence[str], where: str) -> int:
    if word not in classes:
        raise InputError(where, f"must be one of {', '.join(classes)}", word, "use the pocket world's own words")
    return classes.index(word)


def _answer(row: Any, looks: Mapping[str, Look], caption: Caption, where: str) -> _Truth:
    facts = as_object(row, where)
    if odd := sorted(set(facts) - {fact for fact, _ in _SETTING} - set(SIDES)):
        raise InputError(where, "must have place, scale, movement, left and right only", odd[0], "correct the key")
    setting = {fact: _index(facts.get(fact), classes, f"{where}.{fact}") for fact, classes in _SETTING}
    actors = []
    for side, key in enumerate(SIDES):
        if key not in facts:
            continue
        pair = as_array(facts[key], f"{where}.{key}")
        if len(pair) != 2 or pair[0] not in looks:
            fix = f"use one of {', '.join(looks)}, with an action"
            raise InputError(f"{where}.{key}", "must be [name, action]", pair, fix)
        actors.append(Actor(pair[0], looks[pair[0]], side, _index(pair[1], ACTIONS, f"{where}.{key}")))
    if sorted(actor.name for actor in actors) != sorted(caption.names):
        rule = "left and right must be those whom the caption names, once each"
        raise InputError(where, rule, [actor.name for actor in actors], f"the caption is: {caption.prompt}")
    return setting, actors


def _understand(name: str, board: Storyboard) -> list[_Truth]:
    """What the captions say, by rules; refused where they leave open who looks how or where the shot is."""
    looks: dict[str, Look] = {}
    out = []
    for shot, caption in zip(board.shots, board.captions(), strict=True):
        reading = read_caption(caption.prompt)
        for who, facts in reading.actors.items():
            if who not in looks:
                looks_of = [facts.get(fact) for fact, _ in _LOOKS]
                if None in looks_of:
                    lacking = ", ".join(fact for fact, _ in _LOOKS if fact not in facts)
                    fix = f"say its {lacking}, e.g. a yellow square with a crown, or write a truth file"
                    rule = "must look like the pocket world's"
                    raise InputError(f"{name}: characters.{who}", rule, board.characters.get(who), fix)
                looks[who] = Look(*(value for value in looks_of if value is not None))
        sides = [facts.get("side", 0) for facts in reading.actors.values()]
        if "place" not in reading.setting or len(sides) > len(SIDES) or len(set(sides)) < len(sides):
            fix = "name one of its places and at most one character on each side, or write a truth file"
            raise InputError(f"{name}: {shot.id}", "must be a shot of the pocket world", caption.prompt, fix)
        setting = {fact: reading.setting.get(fact, 0) for fact, _ in _SETTING}
        actors = [Actor(who, looks[who], f.get("side", 0), f["action"]) for who, f in reading.actors.items()]
        out.append((setting, sorted(actors, key=lambda actor: actor.side)))
    return out


def padded(stories: Sequence[Story], shots: int) -> list[Story]:
    """Stories of equal length: the last shot of a shorter one is repeated, and counts nowhere (see `StoryTruth.of`)."""
    return [
        Story(s.seed, s.cast, s.layouts, s.shots[:shots] + (s.shots[-1],) * (shots - len(s.shots))) for s in stories
    ]
