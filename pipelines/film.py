"""A storyboard in, a film out: keyframes, a video of every shot, the joined film."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..media.contact_sheet import SheetKeyframe, SheetShot, write_contact_sheet
from ..media.picture import read_picture
from ..sampling.memory_context import PATCH
from ..story.errors import InputError
from ..story.files import write_atomic
from ..story.shot import Shot
from ..story.storyboard import Storyboard
from .job import FilmJob, FilmSettings, Progress, clip_file, keyframe_file
from .join import JoinedClip, Transition, join_clips, joined_clips
from .keyframe_stage import make_keyframes, remembering
from .run_folder import open_run
from .summary import summarise
from .video_stage import make_clips

if TYPE_CHECKING:
    from ..models.studio import Studio

__all__ = ["make_film"]


def make_film(
    story: Storyboard,
    studio: Studio,
    out: str | os.PathLike[str],
    *,
    shots: str | None = None,
    resume: bool = False,
    redo: str | None = None,
    dependents: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Render a storyboard into the folder `out`.

    A run can be stopped at any moment, also by `kill -9`; with `resume` it goes on where it was, and the frames of the
    film equal those of an unbroken run. Memory does not grow with the number of shots.

    Args:
        story: the whole storyboard, also when only some shots are rendered.
        studio: the models; each is let go of after the stage that uses it, and loads again on use.
        out: the run folder.
        shots: which shots to render, such as ``s02,s04-s06``. The keyframes of the shots before them are made, too,
            because the chosen ones look at them: a shot looks the same rendered alone as in the whole film.
        resume: keep what the folder holds and is still right; else a film in it is made anew.
        redo: shots that get a new take, in the same writing; implies `resume`.
        dependents: with `redo`, remake the later shots that remember a redone one (same take); else they stay.
        progress, say: receive progress and lines for people.

    Returns:
        The summary, which is also in ``summary.json``.

    Raises:
        InputError: an unknown shot, a picture that cannot be read, a size that the studio cannot make, or a folder that
            cannot be used; all before anything is rendered.
    """
    begin = time.perf_counter()
    chosen = story.subset(shots)
    redone = _redone(story, redo)
    studio.check()
    _check_size(story, studio)
    _check_pictures(story, chosen[-1] + 1)
    settings = FilmSettings.of(studio, story.frame_size)
    with open_run(out, resume=resume or redo is not None) as run:
        job = FilmJob(story, chosen, studio, settings, run, progress or _no_progress, say or (lambda line: None))
        run.describe(
            title=story.title,
            storyboard=hashlib.sha256(story.model_dump_json().encode()).hexdigest(),
            studio=studio.name,
            studio_hash=job.studio_hash,
            settings={"keyframe": settings.keyframe_inputs(), "video": settings.video_inputs()},
            seeds={shot.id: shot.noise_seed() for shot in story.shots},
        )
        if redone:
            if not run.stages:
                raise InputError("--redo", "needs a film in the folder", str(out), "render it first, without --redo")
            again = remembering(job, redone) if dependents else []
            run.new_takes([shot.id for shot in redone], [shot.id for shot in again])
        make_keyframes(job)
        # What is not used again makes room for the video models; on a large studio both do not fit.
        studio.release("keyframe", "keyframe_text", "clip", "image_vae")
        make_clips(job)
        studio.release()
        placed = _join(job)
        _draw_sheet(job, placed)
        summary = summarise(job, placed, run.made, time.perf_counter() - begin)
        write_atomic(run.path / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    return summary


def _redone(story: Storyboard, redo: str | None) -> list[Shot]:
    if redo is None:
        return []
    try:
        return [story.shots[i] for i in story.subset(redo)]
    except InputError as error:
        raise InputError("--redo", error.rule, error.value, error.fix) from None


def _check_pictures(story: Storyboard, count: int) -> None:
    """Read every picture of the user's that will be needed: an unreadable one must not stop a film half-way."""
    for i, shot in enumerate(story.shots[:count]):
        for k, keyframe in enumerate(shot.keyframes):
            path = story.image_path(keyframe)
            if path is not None:
                read_picture(path, f"shots[{i}].keyframes[{k}].image")


def _check_size(story: Storyboard, studio: Studio) -> None:
    side = max(studio.image_vae.image_size_multiple, studio.video_vae.image_size_multiple) * PATCH
    width, height = story.size
    if width % side or height % side:
        near = [max(side, round(value / side) * side) for value in (width, height)]
        rule = f"must be multiples of {side} for the studio {studio.name}"
        raise InputError("size", rule, list(story.size), f"use {near}")


def _join(job: FilmJob) -> list[JoinedClip]:
    """Join the clips to film.mp4, unless the one that is there is made of them."""
    story, run = job.story, job.run
    shots = [story.shots[i] for i in job.chosen]
    # A dissolve belongs to two neighbours; where one of them is not rendered, there is nothing to dissolve.
    transitions: list[Transition] = [story.shots[i].transition if i - 1 in job.chosen else "cut" for i in job.chosen]
    placed = joined_clips([shot.timeline(story.fps).frames for shot in shots], transitions, story.rate)
    inputs = {
        "clips": [run.stages_of(shot.id)["clip"].outputs[clip_file(shot)] for shot in shots],
        "transitions": transitions,
        "fps": str(story.rate),
    }
    if run.why("film", inputs) is not None:
        begin = time.perf_counter()
        job.say("joining the film")
        join_clips(run.file("film.mp4"), [run.path / clip_file(shot) for shot in shots], placed, story.rate)
        run.finish("film", inputs, ["film.mp4"], time.perf_counter() - begin)
    return placed


def _draw_sheet(job: FilmJob, placed: Sequence[JoinedClip]) -> None:
    story, run = job.story, job.run
    cards = []
    for i, clip in zip(job.chosen, placed, strict=True):
        shot = story.shots[i]
        timeline = shot.timeline(story.fps)
        keyframes = [
            SheetKeyframe(run.path / keyframe_file(shot, k), key.requested.seconds, key.snapped.seconds)
            for k, key in enumerate(timeline.keyframes)
        ]
        start = float(clip.start / story.rate)
        caption = job.captions[i].prompt
        cards.append(SheetShot(shot.id, shot.place or "", caption, start, timeline.length.seconds, keyframes))
    frames = placed[-1].start + placed[-1].frames
    width, height = story.size
    length = f"{len(cards)} shots · {float(frames / story.rate):.2f} s"
    subtitle = f"{length} · {width}×{height} at {story.fps:g} fps · studio {job.studio.name}"
    pages = write_contact_sheet(run.file("contact_sheet.png"), story.title, subtitle, cards)
    for page in set(run.path.glob("contact_sheet_*.png")) - set(pages):  # of a longer film
        page.unlink()


def _no_progress(stage: str, done: float, total: float, note: str = "") -> None:
    pass
