"""The video of every chosen shot, through its keyframes, streamed to the disk (SmartDirector §3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...core.documents import as_number
from ...execution.manifest import numbers
from ...execution.stage import Records, Stage, Task, Workspace
from ...story.shot import Shot
from ...story.stages import stage_seed
from .keyframes import keyframe_file

if TYPE_CHECKING:
    from ..job import FilmJob

__all__ = ["ClipPlace", "Clips", "clip_file"]


def clip_file(shot: Shot) -> str:
    """Name of the clip of `shot` in the run folder."""
    return f"clips/{shot.id}.mkv"


@dataclass(frozen=True)
class ClipPlace:
    """The clip of the shot at `position`, drawn from `seed` as take `take`."""

    position: int
    seed: int
    take: int


class Clips(Stage):
    """Makes a shot's clip as soon as its keyframes are there; shots do not wait for each other."""

    name = "video"
    folders = {"clips": ".mkv"}
    records = "clip"
    figures = {"keyframe_psnr_db": numbers} | dict.fromkeys(("motion", "frames", "seed", "take"), as_number)
    wanted = ("keyframe_psnr_db", "motion")
    uses = ("video_text", "video_vae", "video", "video_low")
    """The video model, of two experts both, with its VAE and text encoder."""

    def __init__(self, job: FilmJob) -> None:
        self.job = job

    @property
    def parts(self) -> tuple[str, ...]:
        """The video model, of two experts both, with its VAE and text encoder."""
        return self.uses

    def tasks(self, run: Records) -> list[Task]:
        """One for each chosen shot."""
        found = []
        for position in self.job.chosen:
            shot = self.job.story.shots[position]
            take = run.take(shot.id)
            place = ClipPlace(position, stage_seed(shot, take, "clip"), take)
            key, steps = f"{shot.id}/clip", self.job.settings.video.steps
            asks = tuple(f"{shot.id}/keyframe-{index}" for index in range(len(shot.keyframes)))
            if self.job.prompt_file(position) is not None:
                asks += (f"{shot.id}/prompt",)
            found.append(Task(self.name, key, {key: (clip_file(shot),)}, asks, units=steps, detail=place))
        return found

    def inputs(self, task: Task, run: Records) -> Mapping[str, Mapping[str, Any]]:
        """What the clip is made from, with the hashes of its keyframes."""
        job, place = self.job, task.detail
        shot = job.story.shots[place.position]
        digests = []
        for index in range(len(shot.keyframes)):
            record = run.record(f"{shot.id}/keyframe-{index}")
            digests.append("" if record is None else record.outputs[keyframe_file(shot, index)])
        inputs = {
            "prompt": self._prompt_input(place.position, run),
            "keyframes": digests,
            "timeline": shot.timeline(job.story.fps).to_dict(),
            "seed": place.seed,
            "settings": job.settings.video_inputs(),
            "studio": job.studio_hash,
        }
        return {task.key: inputs}

    def reads(self, task: Task) -> list[str]:
        """The shot's keyframes, and its prompt where that is a file."""
        own = self.job.prompt_file(task.detail.position)
        return [*self._keyframes(task.detail.position), *([] if own is None else [own])]

    def _keyframes(self, position: int) -> list[str]:
        shot = self.job.story.shots[position]
        return [keyframe_file(shot, index) for index in range(len(shot.keyframes))]

    def _prompt_input(self, position: int, run: Records) -> str:
        """The shot's caption, or the hash of the prompt that was written for it."""
        own = self.job.prompt_file(position)
        if own is None:
            return self.job.captions[position].prompt
        record = run.record(f"{self.job.story.shots[position].id}/prompt")
        return "" if record is None else record.outputs[own]

    def _prompt(self, position: int, workspace: Workspace) -> str:
        """What the video model reads."""
        own = self.job.prompt_file(position)
        if own is None:
            return self._prompts[position]
        written = workspace.source(own).read_text(encoding="utf-8").strip()
        captions = [caption.prompt for caption in self.job.captions]
        return self.job.studio.video_text.alias([*captions, written])[-1]

    @cached_property
    def _prompts(self) -> list[str]:
        """The shots' prompts with the names that the video model's text encoder knows."""
        return self.job.aliased(self.job.studio.video_text)[0]

    def make(self, task: Task, workspace: Workspace) -> list[dict[str, Any]]:
        """Sample the clip, decode it chunk by chunk, and measure it on the way."""
        from ..clip_sampling import make_clip

        place: ClipPlace = task.detail
        shot = self.job.story.shots[place.position]
        names = self._keyframes(place.position)
        prompt = self._prompt(place.position, workspace)
        figures = make_clip(self.job, shot, prompt, place.seed, names, clip_file(shot), workspace)
        return [{"take": place.take, "seed": place.seed, **figures}]
