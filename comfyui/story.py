"""From a node's text to a storyboard, and from a storyboard to what single nodes need."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..core.errors import InputError, closest
from ..models.encoders.prompt_text import to_prompt
from ..story.names import find_names
from ..story.shot import Shot
from ..story.stages import FIRST_TAKE, alias_names, stage_seed, tile_captions
from ..story.storyboard import Caption, Storyboard
from ..story.timeline import Time, Timeline
from ..story.vocabulary import Vocabulary, made_for_note, words_note
from .story_files import LINKED, read_story, story_files

__all__ = [
    "cast_line",
    "film_timeline",
    "keyframe_captions",
    "keyframe_prompts",
    "lines_for_people",
    "prompts_for",
    "read_and_note",
    "read_story",
    "shot_at",
    "shot_outputs",
    "story_fingerprint",
    "storyboard_outputs",
    "taught_lines",
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
    storyboard = read_story(story)
    LINKED.note(node, story_files(story))
    return storyboard


def shot_at(storyboard: Storyboard, shot: str | int) -> int:
    """Position (from 0) of the shot that `shot` names: its id, or its number from 1.

    Raises:
        InputError: there is no such shot.
    """
    name = str(shot).strip()
    ids = [each.id for each in storyboard.shots]
    if name in ids:
        return ids.index(name)
    # isdigit() also holds for ² and the like, which int() refuses.
    if name.isascii() and name.isdigit() and len(name) < 10 and 1 <= int(name) <= len(ids):
        return int(name) - 1
    near = closest(name, ids)
    rule = f"must be a number from 1 to {len(ids)}, or the id of a shot"
    raise InputError("shot", rule, name, f"did you mean {near}?" if near else f"the ids are {', '.join(ids[:8])}")


def keyframe_captions(storyboard: Storyboard) -> list[Caption]:
    """The caption of every keyframe of the film in order: its own text's, or its shot's."""
    return [caption for captions in storyboard.keyframe_captions() for caption in captions]


def film_timeline(storyboard: Storyboard) -> Timeline:
    """All shots as ONE video, one after the other, with all their keyframes (Captain Cinema §3.3).

    Raises:
        InputError: together they are longer than one video may be.
    """
    start = Time.from_frames(0, storyboard.rate)
    times = []
    for shot in storyboard.shots:
        times += [
            Time(start.exact + Time.from_seconds(k.at, storyboard.rate).exact, storyboard.rate) for k in shot.keyframes
        ]
        start = Time(start.exact + _length(shot, storyboard).exact, storyboard.rate)
    return Timeline.plan(storyboard.fps, start, times, where="film")


def _length(shot: Shot, storyboard: Storyboard) -> Time:
    """How long the storyboard wants a shot to be."""
    timeline = shot.timeline(storyboard.fps)
    return timeline.requested or timeline.length


def prompts_for(storyboard: Storyboard, clip: Any = None) -> list[str]:
    """The prompt of every shot. A small text encoder's unknown names become names it knows, the same all film long."""
    return _aliased(storyboard, clip)[0]


def keyframe_prompts(storyboard: Storyboard, clip: Any = None) -> list[str]:
    """The prompt of every keyframe of the film in order, with the same names."""
    return _aliased(storyboard, clip)[1]


def _aliased(storyboard: Storyboard, clip: Any) -> tuple[list[str], list[str]]:
    """The prompts of shots and of keyframes, renamed together: a name means the same in both."""
    shots = [caption.prompt for caption in storyboard.captions()]
    keyframes = [caption.prompt for caption in keyframe_captions(storyboard)]
    names = getattr(getattr(clip, "tokenizer", None), "names", None)
    if names:
        both = alias_names([*shots, *keyframes], names)
        shots, keyframes = both[: len(shots)], both[len(shots) :]
    return shots, keyframes


def storyboard_outputs(storyboard: Storyboard, clip: Any = None) -> tuple[Any, ...]:
    """All outputs of the Storyboard node, in its schema's order; `clip` will read the prompts."""
    prompts, keyframes = _aliased(storyboard, clip)
    parts = enumerate(storyboard.shots, 1)
    return (
        storyboard,
        [to_prompt(prompt) for prompt in prompts],
        [to_prompt(caption.query) for caption in storyboard.captions()],
        [replace(shot.timeline(storyboard.fps), part=(i, len(prompts), shot.id)) for i, shot in parts],
        [stage_seed(shot, FIRST_TAKE, "clip") for shot in storyboard.shots],
        to_prompt(tile_captions(prompts)),
        *storyboard.size,
        float(storyboard.fps),
        len(prompts),
        [to_prompt(prompt) for prompt in keyframes],
        [to_prompt(caption.query) for caption in keyframe_captions(storyboard)],
    )


def shot_outputs(storyboard: Storyboard, position: int, clip: Any = None) -> tuple[Any, ...]:
    """All outputs of the Shot node for the shot at a position, in its schema's order."""
    shot = storyboard.shots[position]
    timeline = shot.timeline(storyboard.fps)
    return (
        to_prompt(prompts_for(storyboard, clip)[position]),
        to_prompt(storyboard.captions()[position].query),
        timeline,
        timeline.length.seconds,
        stage_seed(shot, FIRST_TAKE, "clip"),
        len(shot.keyframes),
        shot.id,
        position + 1,
    )


def lines_for_people(storyboard: Storyboard, clip: Any = None) -> list[str]:
    """What the Storyboard node shows: shots, length and cast, and what a small text encoder does not know."""
    return [cast_line(storyboard), *taught_lines(storyboard, clip)]


def cast_line(storyboard: Storyboard) -> str:
    """One line for people: shots, length, cast."""
    seconds = sum(shot.timeline(storyboard.fps).length.seconds for shot in storyboard.shots)
    names = {name for shot in storyboard.shots for name in find_names(" ".join(shot.texts))}
    cast = f", with {', '.join(sorted(names))}" if names else ""
    plural = "" if len(storyboard.shots) == 1 else "s"
    line = f"{storyboard.title}: {len(storyboard.shots)} shot{plural}, {seconds:.2f} s at {storyboard.fps:g} fps{cast}"
    return "\n".join((line, *storyboard.notes))


def taught_lines(storyboard: Storyboard, clip: Any) -> list[str]:
    """Lines for people: the words, size and rate of a film that a small text encoder and its studio do not know."""
    tokenizer = getattr(clip, "tokenizer", None)
    words, made = getattr(tokenizer, "words", None), getattr(tokenizer, "made_for", None)
    notes = [words_note(storyboard, words)] if isinstance(words, Vocabulary) else []
    if made is not None:
        notes.append(made_for_note(storyboard, made.size, made.fps, "this text encoder's studio"))
    return [note for note in notes if note is not None]
