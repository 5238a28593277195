"""Stories that people wrote, with what they show by hand: storyboards in a folder, their truths under ``truth/``.

The held-out stories of the pocket world are told by its own grammar; these are not, and no recipe trains on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..models.pocket.reading import read_caption
from ..models.pocket.world import (
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
from ..story.documents import read_bytes
from ..story.errors import InputError
from ..story.limits import MAX_BYTES
from ..story.storyboard import Storyboard, load_storyboard
from ..story.yaml_text import read_yaml

__all__ = ["WRITTEN", "WrittenShot", "load_stories", "padded"]

WRITTEN = Path(__file__).resolve().parent / "written"
_KINDS = (".yaml", ".yml", ".json")
_LOOKS = (("colour", COLOURS), ("shape", SHAPES), ("accessory", ACCESSORIES))
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
        limit: only the first so many.

    Raises:
        InputError: no storyboards there, a faulty one, or a text or truth that the pocket world cannot show.
    """
    if not folder.is_dir():
        raise InputError("set", "must be held_out, written, or a folder of storyboards", str(folder), "give a folder")
    files = sorted(path for path in folder.iterdir() if path.suffix in _KINDS and path.is_file())[:limit]
    if not files:
        raise InputError("set", "must hold storyboards (.yaml, .json)", str(folder), "give another folder")
    return sorted((_story(number, path) for number, path in enumerate(files)), key=lambda story: -len(story.shots))


def _story(number: int, path: Path) -> Story:
    board = load_storyboard(path)
    answers = path.parent / "truth" / path.name
    truth = _read_truth(answers, board) if answers.is_file() else _understand(path.name, board)
    rng = generator("test", number)
    layouts: dict[int, Layout] = {}
    shots = []
    seen: set[str] = set()
    for caption, (setting, actors) in zip(board.captions(), truth, strict=True):
        layout = layouts.setdefault(setting["place"], random_layout(rng, setting["place"]))
        described = tuple(name for name in caption.names if name not in seen)
        seen.update(described)
        scale, movement = setting["scale"], setting["movement"]
        told = {"text": caption.prompt, "question": caption.query}
        shots.append(WrittenShot(layout, tuple(actors), scale, movement, described, **told))
    cast = {actor.name: actor.look for shot in shots for actor in shot.actors}
    return Story(number, cast, tuple(layouts.values()), tuple(shots))


def _read_truth(path: Path, board: Storyboard) -> list[tuple[dict[str, int], list[Actor]]]:
    where = f"truth/{path.name}"
    data, _ = read_yaml(read_bytes(path, where, limit=MAX_BYTES).decode(errors="replace"), where)
    try:
        looks = {
            name: Look(*(classes.index(word) for word, (_, classes) in zip(words, _LOOKS, strict=True)))
            for name, words in data["characters"].items()
        }
        return [_answer(data["shots"][shot.id], looks) for shot in board.shots]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        fix = "name every shot's place, scale, movement, and who is left and right"
        raise InputError(where, "must tell every shot in the pocket world's words", str(error), fix) from error


def _answer(row: Mapping[str, Any], looks: Mapping[str, Look]) -> tuple[dict[str, int], list[Actor]]:
    setting = {fact: classes.index(row[fact]) for fact, classes in _SETTING}
    told = [(side, *row[name]) for side, name in enumerate(SIDES) if name in row]
    return setting, [Actor(name, looks[name], side, ACTIONS.index(action)) for side, name, action in told]


def _understand(name: str, board: Storyboard) -> list[tuple[dict[str, int], list[Actor]]]:
    """What the captions say, by rules; refused where they leave open who looks how or where the shot is."""
    looks: dict[str, Look] = {}
    out = []
    for shot, caption in zip(board.shots, board.captions(), strict=True):
        reading = read_caption(caption.prompt)
        for who, facts in reading.actors.items():
            if who not in looks:
                told = [facts.get(fact) for fact, _ in _LOOKS]
                if None in told:
                    fix = "say colour, shape and accessory, e.g. a yellow square with a crown, or write a truth file"
                    raise InputError(f"{name}: characters.{who}", "must look like the pocket world's", told, fix)
                looks[who] = Look(*(value for value in told if value is not None))
        if "place" not in reading.setting or len(reading.actors) > len(SIDES):
            fix = "name one of its places and at most two characters, or write a truth file"
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
