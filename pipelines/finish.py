"""What every film ends with, however its shots were made: the joined film and its contact sheet."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..core.errors import InputError
from ..media.contact_sheet import SheetKeyframe, SheetShot, write_contact_sheet
from ..models.studio import PARTS
from ..sampling.memory_context import PATCH
from ..story.shot import Shot
from ..story.storyboard import Storyboard
from .job import Job, clip_file
from .join import JoinedClip, Transition, join_clips, joined_clips

if TYPE_CHECKING:
    from ..models.encoders.vae import ImageCodec
    from ..models.studio import Studio

__all__ = ["check_size", "draw_sheet", "join_film", "no_progress", "prove"]


def prove(studio: Studio, *parts: str) -> None:
    """Refuse, with an `InputError`, model files that cannot be used, before a film is begun.

    Headers, shapes and settings of all `parts` (see `Studio.check`; all by default) are read. The models of a tiny
    studio are loaded, too, which costs next to nothing and leaves nothing to be found out later.
    """
    studio.check(*parts)
    if studio.is_tiny(*parts):
        for part in parts or PARTS:
            getattr(studio, part)


def check_size(story: Storyboard, studio: Studio, *vaes: ImageCodec) -> None:
    """Refuse, with an `InputError`, frames that the studio's models cannot make with these of its VAEs."""
    side = max(vae.image_size_multiple for vae in vaes) * PATCH
    width, height = story.size
    if width % side or height % side:
        near = [max(side, round(value / side) * side) for value in (width, height)]
        rule = f"must be multiples of {side} for the studio {studio.name}"
        raise InputError("size", rule, list(story.size), f"use {near}")


def join_film(job: Job) -> list[JoinedClip]:
    """Join the clips to film.mp4, unless the one that is there is made of them."""
    story, run = job.story, job.run
    shots = [story.shots[i] for i in job.chosen]
    # A dissolve belongs to two neighbours; where one of them is not rendered, there is nothing to dissolve.
    transitions: list[Transition] = [story.shots[i].transition if i - 1 in job.chosen else "cut" for i in job.chosen]
    placed = joined_clips([job.frames(i) for i in job.chosen], transitions, story.rate)
    inputs = {
        "clips": [run.stages_of(shot.id)["clip"].outputs[clip_file(shot)] for shot in shots],
        "transitions": transitions,
        "fps": str(story.rate),
    }
    if run.why("film", inputs, ["film.mp4"]) is not None:
        begin = time.perf_counter()
        job.say("joining the film")
        join_clips(run.file("film.mp4"), [run.path / clip_file(shot) for shot in shots], placed, story.rate)
        run.finish("film", inputs, ["film.mp4"], time.perf_counter() - begin)
    return placed


def draw_sheet(job: Job, placed: Sequence[JoinedClip], pictures: Callable[[Shot], list[SheetKeyframe]]) -> None:
    """Draw contact_sheet.png: a card for every chosen shot, with the `pictures` of it."""
    story, run = job.story, job.run
    cards = []
    for i, clip in zip(job.chosen, placed, strict=True):
        shot = story.shots[i]
        seconds = float(job.frames(i) / story.rate)
        start = float(clip.start / story.rate)
        caption = job.captions[i].prompt
        cards.append(SheetShot(shot.id, shot.place or "", caption, start, seconds, pictures(shot)))
    frames = placed[-1].start + placed[-1].frames
    width, height = story.size
    length = f"{len(cards)} shots · {float(frames / story.rate):.2f} s"
    subtitle = f"{length} · {width}×{height} at {story.fps:g} fps · studio {job.studio.name}"
    pages = write_contact_sheet(run.file("contact_sheet.png"), story.title, subtitle, cards)
    for page in itertools.count(len(pages) + 1):  # of a longer film
        path = run.path / f"contact_sheet_{page:02d}.png"
        if not path.is_file():
            break
        path.unlink()


def no_progress(stage: str, done: float, total: float, note: str = "") -> None:
    """Tells nobody."""
