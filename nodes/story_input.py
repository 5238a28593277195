"""From a node's text to a storyboard, and from a storyboard to what single nodes need."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..story.errors import InputError, closest
from ..story.files import sha256_file
from ..story.importers import COLUMNS
from ..story.load import KINDS
from ..story.names import find_names
from ..story.shot import Shot
from ..story.stages import alias_names
from ..story.storyboard import Caption, Storyboard, load_storyboard, parse_storyboard
from ..story.timeline import Time, Timeline
from .host import input_path

__all__ = [
    "cast_line",
    "film_timeline",
    "guess_kind",
    "keyframe_captions",
    "keyframe_prompts",
    "named_file",
    "prompts_for",
    "read_story",
    "shot_at",
    "story_fingerprint",
]

_FIELD = re.compile(r"(title|fps|size|characters|places|shots)\s*:")


def named_file(story: str) -> str | None:
    """The file that `story` names: one line that ends like a storyboard file. None if it is the storyboard itself."""
    line = story.strip()
    return line if "\n" not in line and Path(line).suffix.lower() in KINDS else None


def guess_kind(text: str) -> str:
    """Which of the storyboard formats a text is in: ``yaml``, ``json``, ``csv`` or ``txt``."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    first = lines[0] if lines else ""
    if re.match(r"\{\s*(\"|$)", first):
        return "json"
    if first.startswith("{"):  # YAML in one pair of braces
        return "yaml"
    if any(_FIELD.match(line) for line in lines if not line.startswith(("-", "["))):
        return "yaml"
    cells = [cell.strip().lower() for cell in re.split(r"[,;\t]", first)]
    if len(cells) > 1 and {"scene", "action"} & set(cells) and len(set(cells) & set(COLUMNS)) > 1:
        return "csv"
    return "txt"


def read_story(story: str) -> Storyboard:
    """Read a storyboard from text in any of its formats, or from a file in ComfyUI's input folder.

    Pictures that it names are looked for beside its file, or in the input folder.

    Raises:
        InputError: anything in it is wrong.
    """
    name = named_file(story)
    if name is not None:
        return load_storyboard(input_path(name, "story"))
    return parse_storyboard(story, guess_kind(story), folder=input_path("", "story"))


def story_fingerprint(story: str) -> str:
    """Changes when the file that `story` names, or a picture that its storyboard uses, changes; else empty."""
    stamps = []
    try:
        name = named_file(story)
        if name is not None:
            stamps.append(sha256_file(input_path(name, "story")))
        board = read_story(story)
        for keyframe in (keyframe for shot in board.shots for keyframe in shot.keyframes):
            if (picture := board.image_path(keyframe)) is not None:
                stamps.append(f"{picture.stat().st_mtime_ns}:{picture.stat().st_size}")
    except (InputError, OSError) as error:
        return str(error)  # said properly when the node runs
    return "|".join(stamps)


def shot_at(board: Storyboard, shot: str | int) -> int:
    """Position (from 0) of the shot that `shot` names: its id, or its number from 1.

    Raises:
        InputError: there is no such shot.
    """
    name = str(shot).strip()
    ids = [each.id for each in board.shots]
    if name in ids:
        return ids.index(name)
    if name.isdigit() and 1 <= int(name) <= len(ids):
        return int(name) - 1
    near = closest(name, ids)
    rule = f"must be a number from 1 to {len(ids)}, or the id of a shot"
    raise InputError("shot", rule, name, f"did you mean {near}?" if near else f"the ids are {', '.join(ids[:8])}")


def keyframe_captions(board: Storyboard) -> list[Caption]:
    """The caption of every keyframe of the film in order: its own text's, or its shot's."""
    return [caption for captions in board.keyframe_captions() for caption in captions]


def film_timeline(board: Storyboard) -> Timeline:
    """All shots as ONE video, one after the other, with all their keyframes (Captain Cinema §3.3).

    Raises:
        InputError: together they are longer than one video may be.
    """
    start = Time.from_frames(0, board.rate)
    times = []
    for shot in board.shots:
        times += [Time(start.exact + Time.from_seconds(k.at, board.rate).exact, board.rate) for k in shot.keyframes]
        start = Time(start.exact + _length(shot, board).exact, board.rate)
    return Timeline.plan(board.fps, start, times, where="film")


def _length(shot: Shot, board: Storyboard) -> Time:
    """How long the storyboard wants a shot to be."""
    timeline = shot.timeline(board.fps)
    return timeline.requested or timeline.length


def prompts_for(board: Storyboard, clip: Any = None) -> list[str]:
    """The prompt of every shot. A small text encoder's unknown names become names it knows, the same all film long."""
    return _aliased(board, clip)[0]


def keyframe_prompts(board: Storyboard, clip: Any = None) -> list[str]:
    """The prompt of every keyframe of the film in order, with the same names."""
    return _aliased(board, clip)[1]


def _aliased(board: Storyboard, clip: Any) -> tuple[list[str], list[str]]:
    """The prompts of shots and of keyframes, renamed together: a name means the same in both."""
    shots = [caption.prompt for caption in board.captions()]
    keyframes = [caption.prompt for caption in keyframe_captions(board)]
    names = getattr(getattr(clip, "tokenizer", None), "names", None)
    if names:
        both = alias_names([*shots, *keyframes], names)
        shots, keyframes = both[: len(shots)], both[len(shots) :]
    return shots, keyframes


def cast_line(board: Storyboard) -> str:
    """One line for people: shots, length, cast."""
    seconds = sum(shot.timeline(board.fps).length.seconds for shot in board.shots)
    names = {name for shot in board.shots for name in find_names(" ".join(shot.texts))}
    cast = f", with {', '.join(sorted(names))}" if names else ""
    plural = "" if len(board.shots) == 1 else "s"
    return f"{board.title}: {len(board.shots)} shot{plural}, {seconds:.2f} s at {board.fps:g} fps{cast}"
