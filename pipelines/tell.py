"""Text2Story's film (§3): a storyboard told from its texts alone, segment by segment, without keyframes.

Every shot is a segment with a scene prompt and an action prompt. Its latents are kept, because the next segment is
drawn towards them: a run that was broken off goes on with the segment it was in.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..core.errors import InputError
from ..core.files import atomic_path, write_atomic
from ..execution.run_folder import check_run, open_run
from ..media.contact_sheet import SheetKeyframe
from ..media.curve import draw_curves
from ..media.picture import write_picture
from ..media.video import open_writer
from ..models.studio import Studio
from ..sampling.flow import Step
from ..sampling.text2story.segments import PromptPair, StorySampler, StorySettings
from ..sampling.text2story.story_mochi import MochiStory
from ..story.names import expand_names, find_names, introduce_names
from ..story.shot import Keyframe, Shot
from ..story.stages import stage_seed
from ..story.storyboard import Storyboard
from ..story.timeline import snap_length
from .finish import check_size, draw_sheet, join_film, no_progress, prove
from .job import Job, Progress, clip_file, stage_generator
from .join import JoinedClip
from .story_stage import (
    Preview,
    other_choices,
    settings_inputs,
    story_grid,
    story_model,
    story_parts,
    story_pictures,
    story_sampler,
    video_settings,
)
from .summary import film_facts

__all__ = ["prompt_pairs", "tell_story"]

STAGES = ("segment", "backward", "clip")
"""What is made of a shot."""
STILLS = 3
"""Pictures of a segment on the contact sheet."""
_INFO = ("gamma", "scene_weights")


def prompt_pairs(story: Storyboard) -> list[PromptPair]:
    """Scene and action prompt of every shot, each able to stand alone: nothing is remembered, so looks are always told.

    The scene prompt has camera, place and scene text, the action prompt the action. Where the action names somebody
    whom the scene text does not, or there is no scene text, the scene prompt is the whole caption: it decides who is
    there before the action has its turn. A shot without an action has its scene twice.
    """
    pairs = []
    for shot in story.shots:
        alone = shot.scene and set(find_names(shot.action)) <= set(find_names(shot.scene))
        bare = shot.model_copy(update={"action": ""}) if alone else shot
        (scene,) = story.model_copy(update={"shots": [bare]}).captions()
        (whole,) = story.model_copy(update={"shots": [shot]}).captions()
        action, query = whole.prompt, whole.query
        if shot.action:
            action = introduce_names(shot.action, story.characters, set())
            query = expand_names(shot.action, story.characters)
        pairs.append(PromptPair([scene.prompt], [action], [scene.query], [query], [whole.prompt], [whole.query]))
    return pairs


def _in_one_piece(story: Storyboard) -> Storyboard:
    """The same shots without keyframes that cut them."""
    whole = [shot.model_copy(update={"keyframes": [Keyframe(at=0)]}) for shot in story.shots]
    return story.model_copy(update={"shots": whole})


def _lengths(story: Storyboard, grid: int) -> list[int]:
    """Frames of every shot of a story in one piece, on the video model's grid."""
    planned = [shot.timeline(story.fps, f"shots[{i}]") for i, shot in enumerate(story.shots)]
    return [snap_length(timeline.requested or timeline.length, grid) for timeline in planned]


def _check_mochi(story: Storyboard, lengths: Sequence[int], say: Callable[[str], None]) -> None:
    """Refuse shots longer than Mochi was made for, and say so where size or rate are others."""
    longest, fps = MochiStory.frames, MochiStory.fps
    for i, frames in enumerate(lengths):
        if frames > longest:
            fix = f"use at most {int(10 * longest / story.fps) / 10:g} seconds, or several shots"
            raise InputError(f"shots[{i}]", f"must have at most {longest} frames for Mochi", frames, fix)
    if story.frame_size != MochiStory.size or round(story.fps) != fps:
        (height, width), (w, h) = MochiStory.size, story.size
        made = f"Mochi was made for {width}×{height} at {fps} frames a second"
        say(f"{made}; the storyboard's {w}×{h} at {story.fps:g} may look poor")


@dataclass
class StoryJob(Job):
    """A film told from texts alone.

    Attributes:
        lengths: frames of every shot of the story, on the video model's grid.
    """

    lengths: Sequence[int]

    @cached_property
    def studio_hash(self) -> str:
        """What identifies the parts of the studio that tell a story; the video defaults stand among the settings."""
        return self.studio.fingerprint(*story_parts(self.studio))

    def frames(self, position: int) -> int:
        """Frames of the shot at a position."""
        return self.lengths[position]

    def accept_whole_studio(self) -> None:
        """Keep what was made when the whole studio counted, if that is unchanged."""
        old = {
            name: record.inputs["studio"]
            for name, record in self.run.stages.items()
            if name.rpartition("/")[2] in STAGES and record.inputs.get("studio", self.studio_hash) != self.studio_hash
        }
        if not old:
            return
        try:
            whole = self.studio.fingerprint()
        except InputError:  # files of parts that are not used here are missing: nobody can say
            return
        self.run.restate([name for name, studio in old.items() if studio == whole], studio=self.studio_hash)


def tell_story(
    story: Storyboard,
    studio: Studio,
    out: str | os.PathLike[str],
    settings: StorySettings | None = None,
    *,
    preview: Preview = "latent_rgb",
    cut: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    on_finish: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Make a film of a storyboard's texts.

    Args:
        story: its shots are the segments; keyframes and pictures in it are not used.
        studio: of it the video model with its VAE and text encoder, and CLIP; only these need files.
        out: run folder; gets ``film.mp4``, ``contact_sheet.png``, ``weights.png``, ``summary.json``, clips and latents.
        settings: what of Text2Story is used; None takes all of it.
        preview: how CLIP is shown what the model foresees.
        cut: blend only within a place (not in the paper); what comes after a cut does not depend on what was before it.
        resume: keep the segments that are there and still fit.
        progress, say: where progress and lines for people go.
        on_finish: told every stage that is finished, such as ``s01/segment``, and the seconds that it took.

    Returns:
        The summary, which is also in ``summary.json``.

    Raises:
        InputError: a size or length that the studio cannot make, model files that cannot be used, or a folder that
            cannot be used; all before anything is made. What is in the folder stays until then.
        OSError: the disk is full or fails; what is finished stays.
    """
    begin = time.perf_counter()
    say = say or (lambda line: None)
    story = _in_one_piece(story)
    lengths = _lengths(story, story_grid(studio))
    if studio.config.video.kind == "mochi":
        _check_mochi(story, lengths, say)
    check_run(out, resume=resume, task="tell")
    prove(studio, *story_parts(studio))  # last, because it opens files
    check_size(story, studio, studio.video_vae)
    with open_run(out, resume=resume, task="tell") as run:
        run.on_finish = on_finish or run.on_finish
        everything = list(range(len(story.shots)))
        job = StoryJob(story, everything, studio, run, progress or no_progress, say, lengths)
        job.accept_whole_studio()
        teller = _Teller(job, settings or StorySettings(), preview, cut)
        used = teller.inputs | {"cut": cut}
        record = run.record(f"{story.shots[0].id}/segment")
        if record is not None and (line := other_choices(record.inputs.get("settings"), teller.inputs)):
            say(line)
        run.describe(title=story.title, studio=studio.name, studio_hash=job.studio_hash, settings=used)
        for i in everything:
            teller.segment(i)
        for i in teller.again:
            teller.backward(i)
        for i in everything:
            teller.clip(i)
        placed = join_film(job)
        draw_sheet(job, placed, teller.stills)
        weights = teller.draw_weights()
        summary = _summary(job, placed, used, weights, time.perf_counter() - begin)
        write_atomic(run.file("summary.json"), json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
        run.complete(summary["files"])
    return summary


class _Teller:
    """Makes the stages of every shot: ``segment`` and ``backward`` (latents), then ``clip``."""

    def __init__(self, job: StoryJob, settings: StorySettings, preview: Preview, cut: bool) -> None:
        self.job, self.settings, self.cut = job, settings, cut
        story = job.story
        texts = [text for pair in prompt_pairs(story) for text in (*pair.scene, *pair.action, *(pair.whole or ()))]
        read = job.studio.video_text.alias(texts)  # all at once, so that a name is the same throughout
        self.pairs = [
            replace(pair, scene=[read[3 * i]], action=[read[3 * i + 1]], whole=[read[3 * i + 2]])
            for i, pair in enumerate(prompt_pairs(story))
        ]
        self.frames = [job.frames(i) for i in range(len(story.shots))]
        self.again = [i for i in reversed(range(len(story.shots))) if self.last(i) == "backward"]
        self.inputs = settings_inputs(settings) | {"preview": preview, "video": video_settings(job.studio)}
        model = story_model(job.studio, self.frames[0], story.frame_size)
        pictures = None if settings.dipw is None else story_pictures(model, preview)
        self._samplers = {
            n: story_sampler(job.studio, replace(model, frames=n), settings, pictures) for n in set(self.frames)
        }
        self.centre = self._sampler(0).centre(self.pairs)

    def segment(self, i: int) -> None:
        """Sample a shot's latents, unless those that are there fit."""
        shot, before = self.job.story.shots[i], i - 1 if self._blends(i) and self.settings.gamma else None
        inputs = self._inputs(i) | {"before": None if before is None else self._digest(before, "segment")}
        if before is not None and self.centre is not None:  # it follows from the texts of the whole story
            gamma = self._sampler(i).gamma(self.pairs[before], self.pairs[i], self.centre)
            inputs["gamma"] = round(float(gamma[0]), 4)
        if not self.job.pending(f"{shot.id}/segment", inputs, [_latents_file(shot, "segment")], _INFO):
            return
        begin = time.perf_counter()
        known = None if before is None else (self.pairs[before], self._latents(before, "segment"))
        sampler = self._sampler(i)
        report = self._report(i, "segment")
        made = sampler.segment(self.pairs[i], known, self._generator(i), callback=report, centre=self.centre)
        weights = [round(float(step.weights[0, 0]), 4) for step in made.record]
        info = {"gamma": round(float(made.gamma[0]), 4), "scene_weights": weights}
        self._keep(i, "segment", made.latents, inputs, begin, info)

    def backward(self, i: int) -> None:
        """Draw a finished segment's last frame towards the next segment's first."""
        shot, after = self.job.story.shots[i], self.last(i + 1)
        inputs = self._inputs(i) | {"own": self._digest(i, "segment"), "after": self._digest(i + 1, after)}
        if not self.job.pending(f"{shot.id}/backward", inputs, [_latents_file(shot, "backward")]):
            return
        begin = time.perf_counter()
        parts = self._latents(i, "segment"), self._latents(i + 1, after)
        report = self._report(i, "backward")
        again = self._sampler(i).backward(self.pairs[i], *parts, self._generator(i), callback=report)
        self._keep(i, "backward", again, inputs, begin, {})

    def last(self, i: int) -> str:
        """The stage that a shot's clip is decoded from."""
        return "backward" if self.settings.backward and self._blends(i + 1) else "segment"

    def clip(self, i: int) -> None:
        """Decode a shot's latents to its clip, and keep some frames as pictures."""
        job, shot, stage = self.job, self.job.story.shots[i], self.last(i)
        inputs = {"latents": self._digest(i, stage), "fps": str(job.story.rate), "studio": job.studio_hash}
        name, pictures = clip_file(shot), {t: _still_file(shot, k) for k, t in enumerate(_still_times(self.frames[i]))}
        if not job.pending(f"{shot.id}/clip", inputs, [name, *pictures.values()]):
            return
        begin = time.perf_counter()
        count, before, frames = 0, sum(self.frames[:i]), sum(self.frames)
        note = f"{shot.id}, {self.frames[i]} frames"
        job.progress("clip", before, frames, note)
        with open_writer(job.run.file(name), job.story.rate, lossless=True) as writer:
            for part in self._sampler(i).model.decode(self._latents(i, stage)):
                for frame in part[0].cpu():
                    writer.write(frame)
                    if count in pictures:
                        write_picture(job.run.file(pictures[count]), frame)
                    count += 1
                job.progress("clip", before + count, frames, note)
        job.run.finish(f"{shot.id}/clip", inputs, [name, *pictures.values()], time.perf_counter() - begin, frames=count)

    def stills(self, shot: Shot) -> list[SheetKeyframe]:
        """A shot's pictures for the contact sheet."""
        times = _still_times(self.frames[self.job.story.shots.index(shot)])
        seconds = [float(t / self.job.story.rate) for t in times]
        return [
            SheetKeyframe(self.job.run.path / _still_file(shot, k), at, at, "frame") for k, at in enumerate(seconds)
        ]

    def draw_weights(self) -> list[str]:
        """Draw ``weights.png``: the scene's weight in every segment; returns the files made."""
        curves = {}
        for shot in self.job.story.shots:
            record = self.job.run.record(f"{shot.id}/segment")
            if record is not None and record.info["scene_weights"]:
                curves[shot.id] = record.info["scene_weights"]
        if not curves:
            (self.job.run.path / "weights.png").unlink(missing_ok=True)  # of a run with prompt mixing
            return []
        with atomic_path(self.job.run.file("weights.png")) as temporary:
            draw_curves("weight of the scene, by step", curves).save(temporary, format="PNG")
        return ["weights.png"]

    def _blends(self, i: int) -> bool:
        """Whether a shot goes on from the one before it."""
        shots = self.job.story.shots
        if not 0 < i < len(shots):
            return False
        before = next((shot.place for shot in reversed(shots[:i]) if shot.place is not None), None)
        return not self.cut or before is None or shots[i].place in (before, None)

    def _inputs(self, i: int) -> dict[str, Any]:
        pair = self.pairs[i]
        prompts = [*pair.scene, *pair.action, *(pair.whole or ())]
        facts = {"prompts": prompts, "frames": self.frames[i], "seed": self._seed(i), "settings": self.inputs}
        return facts | {"size": list(self.job.story.size), "studio": self.job.studio_hash}

    def _sampler(self, i: int) -> StorySampler:
        return self._samplers[self.frames[i]]

    def _seed(self, i: int) -> int:
        shot = self.job.story.shots[i]
        return stage_seed(shot, self.job.run.take(shot.id), "segment")

    def _generator(self, i: int) -> torch.Generator:
        return stage_generator(self._seed(i))

    def _digest(self, i: int, stage: str) -> str:
        shot = self.job.story.shots[i]
        record = self.job.run.record(f"{shot.id}/{stage}")
        assert record is not None, f"{shot.id}/{stage} is made before"
        return record.outputs[_latents_file(shot, stage)]

    def _latents(self, i: int, stage: str) -> Tensor:
        return load_file(self.job.run.path / _latents_file(self.job.story.shots[i], stage))["latents"]

    def _keep(
        self, i: int, stage: str, latents: Tensor, inputs: dict[str, Any], begin: float, info: dict[str, Any]
    ) -> None:
        shot = self.job.story.shots[i]
        name = _latents_file(shot, stage)
        with atomic_path(self.job.run.file(name)) as temporary:
            save_file({"latents": latents.cpu().contiguous()}, temporary)
        self.job.run.finish(f"{shot.id}/{stage}", inputs, [name], time.perf_counter() - begin, **info)

    def _report(self, i: int, stage: str) -> Callable[[Step], None]:
        shots, note = len(self.frames), f"{self.job.story.shots[i].id}, {self.frames[i]} frames"
        place = i
        if stage == "backward":
            shots, place = len(self.again), self.again.index(i)

        def report(step: Step) -> None:
            self.job.progress(stage, place * step.steps + step.index + 1, shots * step.steps, note)

        return report


def _latents_file(shot: Shot, stage: str) -> str:
    return f"latents/{shot.id}_{stage}.safetensors"


def _still_file(shot: Shot, index: int) -> str:
    return f"stills/{shot.id}_{index:02d}.png"


def _still_times(frames: int) -> list[int]:
    return sorted({round(k * (frames - 1) / (STILLS - 1)) for k in range(STILLS)})


def _summary(
    job: StoryJob, placed: Sequence[JoinedClip], settings: dict[str, Any], weights: list[str], seconds: float
) -> dict[str, Any]:
    story, run = job.story, job.run
    shots = []
    for shot, clip in zip(story.shots, placed, strict=True):
        stages = run.stages_of(shot.id)
        fresh = [stage for stage in stages if f"{shot.id}/{stage}" in run.made]
        shots.append(
            {
                "id": shot.id,
                "start": round(float(clip.start / story.rate), 6),
                "frames": clip.frames,
                **stages["segment"].info,
                "kept": not fresh,
                "render_seconds": round(sum(stages[stage].seconds for stage in fresh), 3),
            }
        )
    return {
        **film_facts(job, placed),
        "shots": shots,
        "timings": {"run": round(seconds, 3), "made": sorted(run.made)},
        "settings": settings,
        "files": ["film.mp4", "contact_sheet.png", *weights, "summary.json"],
    }
