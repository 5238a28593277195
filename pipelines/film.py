"""A storyboard in, a film out: keyframes, a video of every shot, the joined film."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError
from ..execution.driver import run_stages
from ..execution.pool import Executor, LocalExecutor
from ..media.image import read_image
from ..story.shot import Shot
from ..story.storyboard import Storyboard
from . import kinds
from .checks import check_size, check_upscale, prove
from .job import FilmCrew, FilmJob, FilmSettings, Progress
from .kinds import check_run, open_run, owns
from .pair_job import PAIR_MODELS, PairJob, pair_story
from .stages.clips import Clips
from .stages.join import placed_clips
from .stages.keyframes import dependents as dependent_shots
from .summary import no_progress, summarise, write_summary

if TYPE_CHECKING:
    from ..agents.client import Client
    from ..models.studio import Studio
    from .upscale.film_job import FilmUpscale

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
    keyframe: Mapping[str, Any] | None = None,
    check: bool = False,
    pairs: bool | None = None,
    refiner: Client | None = None,
    upscale: FilmUpscale | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    on_finish: Callable[[str, float], None] | None = None,
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Render a storyboard into the folder `out`.

    A run can be stopped at any moment, also by `kill -9`; with `resume` it goes on where it was, and the frames of the
    film equal those of an unbroken run. Memory does not grow with the number of shots. A film that is in the folder
    stays there, and can be resumed, until the new film's files replace its own one by one.

    Args:
        story: the whole storyboard, also when only some shots are rendered.
        studio: the models; each is released after the stage that uses it, and loads again on use.
        out: the run folder.
        shots: which shots to render, such as ``s02,s04-s06``. The keyframes of the shots before them are made, too,
            because the chosen ones look at them: a shot looks the same rendered alone as in the whole film.
        resume: keep what the folder holds and is still right; else a film in it is rendered again.
        redo: shots that get a new take, in the same writing; implies `resume`.
        dependents: with `redo`, remake the later shots that remember a redone one (same take); else they stay.
        keyframe: other values for some of the studio's `defaults.keyframe`, such as ``{"window": 32, "mode": "full"}``.
        check: compare every generated keyframe with its caption before it is remembered, and make one that lacks
            something again, up to `ATTEMPTS` times in all.
        pairs: make every shot from a start and an end frame (STAGE) instead of keyframes; None: as the storyboard says.
        refiner: with pairs: writes the prompt of every shot's video from both frames, in place of its caption (STAGE
            Eq. 9).
        upscale: make the finished clips larger, too, and join them to ``upscaled.mp4`` (SmartDirector §3.3).
        progress, say: receive progress and lines for people.
        on_finish: told every stage that is finished, such as ``s01/keyframe-0``, and the seconds that it took.
        executor: who makes the stages; None makes them in this process. The film is the same, byte for byte.

    Returns:
        The summary, which is also in ``summary.json``.

    Raises:
        InputError: an unknown shot, a picture that cannot be read, a studio without keyframes (or without start and end
            frames; or, to `check`, without a recogniser), a size that the studio cannot make, model files that cannot
            be used, or a folder that cannot be used; all before anything is rendered.
        OSError: the disk is full or fails; what is finished stays.
        TasksFailed: workers could not make some shots; all others are finished.
    """
    begin = time.perf_counter()
    chosen = story.subset(shots)
    redone = _redone(story, redo)
    resume = resume or redo is not None
    pairs = story.mode == "pairs" if pairs is None else pairs
    kind = kinds.KINDS["pairs" if pairs else "film"]
    check_run(out, resume=resume, task=kind.name)
    studio.check_task(kind.name)
    if check:
        studio.keyframe_check(story.characters)  # refuses a studio without a recogniser
    _check_pictures(story, chosen[-1] + 1, out)
    digest = _digest(story)
    if pairs:
        story = pair_story(story)
        job: FilmJob = _pair_job(story, chosen, studio, keyframe, check, refiner)
    elif refiner is not None:
        raise InputError("refiner", "goes with start and end frames", refiner.who, "add pairs, or leave it out")
    else:
        job = _job(story, chosen, studio, keyframe, check, upscale)
    if upscale is not None:
        job.upscale = upscale
        check_upscale(job)
    with open_run(out, resume=resume, task=kind.name) as run:
        run.on_finish = on_finish or run.on_finish
        run.describe(
            title=story.title,
            storyboard=digest,
            studio=studio.name,
            studio_hash=job.studio_hash,
            settings=job.sampling_inputs(),
            seeds={shot.id: shot.noise_seed() for shot in story.shots},
        )
        if redone:
            if not run.results:
                raise InputError("--redo", "needs a film in the folder", str(out), "render it first, without --redo")
            others = dependent_shots(story.shots, run, redone) if dependents else []
            run.new_takes([shot.id for shot in redone], [shot.id for shot in others])
        say = say or (lambda line: None)
        if upscale is not None:
            _say_upscale(job, say)
        run_stages(run, executor or LocalExecutor(), FilmCrew(job, kind.stages), progress or no_progress, say)
        studio.release()
        summary = summarise(job, run, placed_clips(job), time.perf_counter() - begin)
        write_summary(run, summary)
        run.complete(summary["files"], whole=len(chosen) == len(story.shots))
    return summary


def _say_upscale(job: FilmJob, say: Callable[[str], None]) -> None:
    """What will be made of the finished clips, in a line."""
    from .upscale.film_job import film_upscale

    larger = film_upscale(job)
    if larger is not None:
        say(f"upscaled film, {larger.plan}")
    made_for, (height, width) = job.studio.config.made_for.size, job.keyframe_size
    if job.upscale is not None and job.upscale.sharp and made_for is not None and width > made_for[0]:
        sizes = f"{width}×{height}, and the studio {job.studio.name} was made for {made_for[0]}×{made_for[1]}"
        say(f"keyframes are made at {sizes}: things may be there twice; leave out --sharp-keyframes then")


def _digest(story: Storyboard) -> str:
    """What tells one storyboard from another."""
    younger = {"mode"} if story.mode is None else None  # older folders know storyboards without it
    return hashlib.sha256(story.model_dump_json(exclude=younger).encode()).hexdigest()


def _job(
    story: Storyboard,
    chosen: list[int],
    studio: Studio,
    keyframe: Mapping[str, Any] | None,
    check: bool,
    upscale: FilmUpscale | None,
) -> FilmJob:
    prove(studio)
    check_size(story, studio, studio.image_vae, studio.video_vae)
    job = FilmJob(story, chosen, studio, FilmSettings.of(studio, story.frame_size, keyframe), check, upscale)
    if job.keyframe_size != story.frame_size:  # their noise schedule may follow their size
        job.settings = FilmSettings.of(studio, job.keyframe_size, keyframe)
    return job


def _pair_job(
    story: Storyboard,
    chosen: list[int],
    studio: Studio,
    keyframe: Mapping[str, Any] | None,
    check: bool,
    refiner: Client | None,
) -> PairJob:
    if keyframe:
        name = next(iter(keyframe))
        raise InputError("keyframe", "has no meaning for start and end frames", name, "set defaults.pair in the studio")
    prove(studio, *PAIR_MODELS, *Clips.uses)
    check_size(story, studio, studio.pair_vae, studio.video_vae)
    return PairJob.of(story, chosen, studio, check, refiner)


def _redone(story: Storyboard, redo: str | None) -> list[Shot]:
    if redo is None:
        return []
    try:
        return [story.shots[i] for i in story.subset(redo)]
    except InputError as error:
        raise InputError("--redo", error.rule, error.value, error.fix) from None


def _check_pictures(story: Storyboard, count: int, out: str | os.PathLike[str]) -> None:
    """Read every picture of the user's that will be needed: an unreadable one must not stop a film half-way."""
    sound: set[Path] = set()
    for i, shot in enumerate(story.shots[:count]):
        for k, keyframe in enumerate(shot.keyframes):
            path = story.image_path(keyframe)
            if path is None or path in sound:
                continue
            field = f"shots[{i}].keyframes[{k}].image"
            if owns(out, path):
                fix = "copy it to another folder, and name the copy"
                raise InputError(field, "must not be a file that this film replaces", str(path), fix)
            read_image(path, field)
            sound.add(path)
