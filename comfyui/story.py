"""From a node's text to a storyboard, and from a storyboard to what single nodes need."""

from __future__ import annotations

from typing import Any

from ..core.errors import InputError, closest
from ..story.names import find_names
from ..story.shot import Shot
from ..story.stages import alias_names
from ..story.storyboard import Caption, Storyboard
from ..story.timeline import Time, Timeline
from ..story.vocabulary import Vocabulary, made_for_note, words_note
from .story_files import LINKED, read_story, story_files

__all__ = [
    "cast_line",
    "film_timeline",
    "keyframe_captions",
    "keyframe_prompts",
    "prompts_for",
    "read_and_note",
    "read_story",
    "shot_at",
    "taught_lines",
    "story_fingerprint",
]


def story_fingerprint(story: str | None, node: str = "") -> str:
    """Changes when a file that the text names, or a picture that its storyboard uses, changes; else empty.

    Args:
        story: the node's text; None where it is linked.
        node: the node's id, to look up what a linked text has led to.
    """
    if story is None:
        return f"version {LINKED.version(node)}"
    try:
        return "|".join(story_files(story).values())
    except InputError as error:
        return str(error)  # said properly when the node runs


def read_and_note(story: str, node: str = "") -> Storyboard:
    """`read_story`, with a note of the files for the fingerprint of a linked text."""
    board = read_story(story)
    LINKED.note(node, story_files(story))
    return board


def shot_at(board: Storyboard, shot: str | int) -> int:
    """Position (from 0) of the shot that `shot` names: its id, or its number from 1.

    Raises:
        InputError: there is no such shot.
    """
    name = str(shot).strip()
    ids = [each.id for each in board.shots]
    if name in ids:
        return ids.index(name)
    # isdigit() also holds for ² and the like, which int() refuses.
    if name.isascii() and name.isdigit() and len(name) < 10 and 1 <= int(name) <= len(ids):
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
    line = f"{board.title}: {len(board.shots)} shot{plural}, {seconds:.2f} s at {board.fps:g} fps{cast}"
    return "\n".join((line, *board.notes))


def taught_lines(board: Storyboard, clip: Any) -> list[str]:
    """Lines for people: the words, size and rate of a film that a small text encoder and its studio do not know."""
    tokenizer = getattr(clip, "tokenizer", None)
    words, made = getattr(tokenizer, "words", None), getattr(tokenizer, "made_for", None)
    notes = [words_note(board, words)] if isinstance(words, Vocabulary) else []
    if made is not None:
        notes.append(made_for_note(board, made.size, made.fps, "this text encoder's studio"))
    return [note for note in notes if note is not None]
