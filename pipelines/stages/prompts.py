"""The full prompt of every chosen shot's video, from its words and both its frames (STAGE §4.3, Eq. 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...core.documents import as_text
from ...core.files import write_atomic
from ...execution.stage import Records, Stage, Task, Workspace
from .pairs import end_file, record_of, start_file

if TYPE_CHECKING:
    from ..pair_job import PairJob

__all__ = ["Prompts"]


class Prompts(Stage):
    """Has the Shot Refiner write them; without one there is nothing to do, and clips are made from captions."""

    name = "prompts"
    folders = {"prompts": ".txt"}
    records = "prompt"
    figures = {"who": as_text}

    def __init__(self, job: PairJob) -> None:
        self.job = job

    def tasks(self, run: Records) -> list[Task]:
        """One for each chosen shot."""
        found = []
        for position in self.job.chosen:
            shot, file = self.job.story.shots[position], self.job.prompt_file(position)
            if file is not None:
                key = f"{shot.id}/prompt"
                asks = record_of(shot, 0), record_of(shot, len(shot.keyframes) - 1)
                found.append(Task(self.name, key, {key: (file,)}, asks, in_driver=True, detail=position))
        return found

    def inputs(self, task: Task, run: Records) -> Mapping[str, Mapping[str, Any]]:
        """The shot's caption, its camera and length, the hashes of its frames, and who refines."""
        job, shot = self.job, self.job.story.shots[task.detail]
        found = [
            (run.record(record_of(shot, 0)), start_file(shot)),
            (run.record(record_of(shot, len(shot.keyframes) - 1)), end_file(shot)),
        ]
        inputs = {
            "caption": job.pair_captions[task.detail].prompt,
            "seconds": shot.timeline(job.story.fps).length.seconds,
            "frames": [record.outputs[name] for record, name in found if record is not None],
            "refiner": job.refined,
        }
        return {task.key: inputs}

    def reads(self, task: Task) -> Sequence[str]:
        """Both frames."""
        shot = self.job.story.shots[task.detail]
        return [start_file(shot), end_file(shot)]

    def make(self, task: Task, workspace: Workspace) -> list[dict[str, Any]]:
        """Ask the refiner."""
        from ...agents.refiner import refine, shot_brief
        from ...media.image import read_image

        job, shot = self.job, self.job.story.shots[task.detail]
        assert job.refiner is not None, "made where the refiner is"
        workspace.report(0, shot.id)
        start, end = (read_image(workspace.source(name)) for name in self.reads(task))
        prompt = refine(job.refiner, shot_brief(job.story, task.detail), start, end)
        file = job.prompt_file(task.detail)
        assert file is not None
        write_atomic(workspace.target(file), prompt + "\n")
        return [{"who": job.refiner.who}]
