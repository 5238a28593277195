"""The film: its clips joined, with cuts and cross-dissolves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...execution.stage import Records, Stage, Task, Workspace
from .clips import clip_file

if TYPE_CHECKING:
    from ..job import Job
    from ..join import JoinedClip, Transition

__all__ = ["FILM", "Join", "placed_clips"]

FILM = "film.mp4"


def placed_clips(job: Job) -> list[JoinedClip]:
    """Where the clip of each chosen shot lies in the film."""
    from ..join import joined_clips

    return joined_clips([job.frames(i) for i in job.chosen], _transitions(job), job.story.rate)


def _transitions(job: Job) -> list[Transition]:
    # A dissolve belongs to two neighbours; where one of them is not rendered, there is nothing to dissolve.
    return [job.transition(i) if i - 1 in job.chosen else "cut" for i in job.chosen]


class Join(Stage):
    """Joins the clips to film.mp4, unless the one that is there is made of them."""

    name = "film"
    files = (FILM,)
    records = "film"
    announced = False

    def __init__(self, job: Job) -> None:
        self.job = job

    def tasks(self, run: Records) -> list[Task]:
        """The film."""
        clips = tuple(f"{self.job.story.shots[i].id}/clip" for i in self.job.chosen)
        return [Task(self.name, "film", {"film": (FILM,)}, asks=clips)]

    def inputs(self, task: Task, run: Records) -> Mapping[str, Mapping[str, Any]]:
        """The hashes of the clips, and how they follow each other."""
        story = self.job.story
        found = [(run.record(f"{shot.id}/clip"), clip_file(shot)) for shot in self._shots()]
        inputs = {
            "clips": [record.outputs[name] for record, name in found if record is not None],
            "transitions": _transitions(self.job),
            "fps": str(story.rate),
        }
        return {task.key: inputs}

    def reads(self, task: Task) -> Sequence[str]:
        """All clips."""
        return [clip_file(shot) for shot in self._shots()]

    def make(self, task: Task, workspace: Workspace) -> list[dict[str, Any]]:
        """Join them."""
        from ..join import join_clips

        workspace.say("joining the film")
        clips = [workspace.source(name) for name in self.reads(task)]
        join_clips(workspace.target(FILM), clips, placed_clips(self.job), self.job.story.rate)
        return [{}]

    def _shots(self) -> list[Any]:
        return [self.job.story.shots[i] for i in self.job.chosen]
