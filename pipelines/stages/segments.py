"""The segments of a text film as latents, each drawn towards the one before it (Text2Story §3), and the backward pass.

Latents are kept, because the next segment is drawn towards them: an interrupted run resumes with the segment it was in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...core.documents import as_number
from ...execution.manifest import numbers
from ...execution.stage import Records, Stage, Task, Workspace
from ...story.shot import Shot
from ...story.stages import stage_seed

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ...sampling.flow import Step
    from ..text_film import TextFilmJob

__all__ = ["Backward", "SegmentPlace", "SegmentStage", "Segments", "latents_file", "load_latents"]


def latents_file(shot: Shot, stage: str) -> str:
    """Name of the latents of `shot` in the run folder, as the stage `segment` or `backward` leaves them."""
    return f"latents/{shot.id}_{stage}.safetensors"


def load_latents(workspace: Workspace, name: str) -> Tensor:
    """Latents [1, C, F, h, w] of a segment."""
    from safetensors.torch import load_file

    return load_file(workspace.source(name))["latents"]


@dataclass(frozen=True)
class SegmentPlace:
    """The segment of the shot at `position`, drawn from `seed`."""

    position: int
    seed: int


class SegmentStage(Stage):
    """What the stages of a text film share: its job, its shots, and their results in the manifest."""

    def __init__(self, job: TextFilmJob) -> None:
        self.job = job

    @property
    def parts(self) -> tuple[str, ...]:
        """The text-to-video model with its VAE and text encoder, and CLIP."""
        return self.job.parts

    def shot(self, position: int) -> Shot:
        """The shot at a position."""
        return self.job.story.shots[position]

    def record(self, position: int, stage: str) -> str:
        """What the manifest calls a shot's result."""
        return f"{self.shot(position).id}/{stage}"

    def digest(self, position: int, stage: str, run: Records) -> str:
        """SHA-256 of a shot's latents."""
        name = self.record(position, stage)
        record = run.record(name)
        assert record is not None, f"{name} is made before"
        return record.outputs[latents_file(self.shot(position), stage)]


class _Sampled(SegmentStage):
    """A stage that samples latents."""

    folders = {"latents": ".safetensors"}

    def place(self, position: int, run: Records) -> SegmentPlace:
        """A segment and its seed."""
        shot = self.shot(position)
        return SegmentPlace(position, stage_seed(shot, run.take(shot.id), "segment"))

    def facts(self, place: SegmentPlace) -> dict[str, Any]:
        """What a shot's latents are made from, whichever stage makes them."""
        job, pair = self.job, self.job.pairs[place.position]
        prompts = [*pair.scene, *pair.action, *(pair.whole or ())]
        facts = {"prompts": prompts, "frames": job.lengths[place.position], "seed": place.seed}
        return facts | {"settings": job.settings_inputs, "size": list(job.story.size), "studio": job.studio_hash}

    def follow(self, task: Task, workspace: Workspace) -> Callable[[Step], None]:
        """Reports the solver's steps; a run that begins later has fewer, and fills the bar as well."""
        position = task.detail.position
        note = f"{self.shot(position).id}, {self.job.lengths[position]} frames"

        def report(step: Step) -> None:
            workspace.report((step.index + 1) / step.steps * task.units, note)

        return report

    def write(self, workspace: Workspace, name: str, latents: Tensor) -> None:
        """Write latents."""
        from safetensors.torch import save_file

        from ...core.files import atomic_path

        with atomic_path(workspace.target(name)) as temporary:
            save_file({"latents": latents.cpu().contiguous()}, temporary)


class Segments(_Sampled):
    """Samples a shot's latents. Where it blends with the shot before, it needs that one's; else it goes freely."""

    name = "segment"
    records = "segment"
    figures = {"gamma": as_number, "scene_weights": numbers}
    wanted = ("gamma", "scene_weights")

    def before(self, position: int) -> int | None:
        """The shot whose latents a segment is drawn towards, if any."""
        return position - 1 if self.job.blends(position) and self.job.settings.gamma else None

    def tasks(self, run: Records) -> list[Task]:
        """One for each shot."""
        found = []
        for i, shot in enumerate(self.job.story.shots):
            key, before = self.record(i, "segment"), self.before(i)
            asks = () if before is None else (self.record(before, "segment"),)
            files = {key: (latents_file(shot, "segment"),)}
            found.append(Task(self.name, key, files, asks, units=self.job.steps, detail=self.place(i, run)))
        return found

    def inputs(self, task: Task, run: Records) -> Mapping[str, Mapping[str, Any]]:
        """Its prompts and settings, the hash of the segment before, and γ' where the whole story decides it."""
        i, before = task.detail.position, self.before(task.detail.position)
        inputs = self.facts(task.detail)
        inputs["before"] = None if before is None else self.digest(before, "segment", run)
        if before is not None and self.job.centre is not None:  # it follows from the texts of the whole story
            gamma = self.job.similarity.gamma(self.job.pairs[before], self.job.pairs[i], self.job.centre)
            inputs["gamma"] = round(float(gamma[0]), 4)
        return {task.key: inputs}

    def reads(self, task: Task) -> list[str]:
        """The latents of the segment before, where it blends."""
        before = self.before(task.detail.position)
        return [] if before is None else [latents_file(self.shot(before), "segment")]

    def make(self, task: Task, workspace: Workspace) -> list[dict[str, Any]]:
        """Sample it."""
        from ...sampling.noise import seeded

        job, i, before = self.job, task.detail.position, self.before(task.detail.position)
        known = None if before is None else (job.pairs[before], load_latents(workspace, self.reads(task)[0]))
        generator, report = seeded(task.detail.seed), self.follow(task, workspace)
        made = job.sampler(i).segment(job.pairs[i], known, generator, callback=report, centre=job.centre)
        self.write(workspace, task.files[0], made.latents)
        weights = [round(float(step.weights[0, 0]), 4) for step in made.record]
        return [{"gamma": round(float(made.gamma[0]), 4), "scene_weights": weights}]


class Backward(_Sampled):
    """Draws a finished segment's last frame towards the next segment's first, from the last shot to the first."""

    name = "backward"
    records = "backward"

    def tasks(self, run: Records) -> list[Task]:
        """One for each shot that blends with the next one."""
        found = []
        for i in reversed(range(len(self.job.story.shots))):
            if self.job.last(i) == self.name:
                key = self.record(i, self.name)
                asks = (self.record(i, "segment"), self.record(i + 1, self.job.last(i + 1)))
                files = {key: (latents_file(self.shot(i), self.name),)}
                found.append(Task(self.name, key, files, asks, units=self.job.steps, detail=self.place(i, run)))
        return found

    def inputs(self, task: Task, run: Records) -> Mapping[str, Mapping[str, Any]]:
        """Its prompts and settings, and the hashes of its own latents and the next segment's."""
        i = task.detail.position
        own, after = self.digest(i, "segment", run), self.digest(i + 1, self.job.last(i + 1), run)
        return {task.key: self.facts(task.detail) | {"own": own, "after": after}}

    def reads(self, task: Task) -> list[str]:
        """Its own latents and the next segment's."""
        i = task.detail.position
        return [latents_file(self.shot(i), "segment"), latents_file(self.shot(i + 1), self.job.last(i + 1))]

    def make(self, task: Task, workspace: Workspace) -> list[dict[str, Any]]:
        """Sample it again from a lower noise level."""
        from ...sampling.noise import seeded

        job, i = self.job, task.detail.position
        own, after = (load_latents(workspace, name) for name in self.reads(task))
        generator, report = seeded(task.detail.seed), self.follow(task, workspace)
        self.write(
            workspace, task.files[0], job.sampler(i).backward(job.pairs[i], own, after, generator, callback=report)
        )
        return [{}]
