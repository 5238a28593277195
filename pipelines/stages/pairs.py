"""The start and the end frame of every shot, in film order, each pair remembering earlier ones (STAGE §4.1, Eq. 8).

They are the first and the last keyframe of their shot: what makes clips of keyframes makes clips of pairs. A pair is
one task. A shot whose transition is `match` begins with the very frame that the one before it ends with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...core.documents import as_number, as_text
from ...core.files import sha256_file
from ...execution.manifest import texts
from ...execution.stage import Records, Stage, Task, Workspace
from ...story.shot import Shot
from ...story.stages import stage_seed
from .keyframes import ATTEMPTS, keyframe_file

if TYPE_CHECKING:
    from ..pair_job import PairJob
    from ..pair_sampling import PairFrameSampler

__all__ = ["PairPlace", "Pairs", "end_file", "start_file"]


def start_file(shot: Shot) -> str:
    """Name of a shot's start frame in the run folder."""
    return keyframe_file(shot, 0)


def end_file(shot: Shot) -> str:
    """Name of a shot's end frame in the run folder."""
    return keyframe_file(shot, len(shot.keyframes) - 1)


@dataclass(frozen=True)
class PairPlace:
    """The pair of the shot at `position`, drawn from `seed` as take `take`."""

    position: int
    seed: int
    take: int


class Pairs(Stage):
    """Makes pairs one after the other: each needs all that are before it."""

    name = "pairs"
    folders = {"keyframes": ".png"}
    records = "keyframe-[0-9]+"
    figures = (
        dict.fromkeys(("remembers", "sees", "missing"), texts)
        | dict.fromkeys(("source", "packing"), as_text)
        | dict.fromkeys(("tokens", "tokens_uncompressed", "seed", "take", "attempts"), as_number)
    )

    def __init__(self, job: PairJob) -> None:
        self.job = job

    @property
    def parts(self) -> tuple[str, ...]:
        """The pair model with its encoders, and the recogniser where frames are checked."""
        return "pair_text", "pair", "pair_vae", "clip", *(["recogniser"] * self.job.checked)

    def tasks(self, run: Records) -> list[Task]:
        """One for each shot up to the last chosen one."""
        tasks: list[Task] = []
        before: tuple[str, ...] = ()
        steps = self.job.pair_settings.sampling.steps
        for position in self.job.remembered:
            shot = self.job.story.shots[position]
            take = run.take(shot.id)
            place = PairPlace(position, stage_seed(shot, take, "pair"), take)
            records = {record_of(shot, k): (keyframe_file(shot, k),) for k in range(len(shot.keyframes))}
            asks = before[-1:] if self.matches(position) else ()
            nothing = self.given(position, 0) and self.given(position, -1)
            key = next(iter(records))
            tasks.append(Task(self.name, key, records, asks, before, steps, in_driver=nothing, detail=place))
            before = (*records,)
        return tasks

    def matches(self, position: int) -> bool:
        """Whether a shot begins with the end frame of the one before it; a picture of the user's goes first."""
        shot = self.job.story.shots[position]
        return position > 0 and shot.transition == "match" and shot.keyframes[0].image is None

    def given(self, position: int, index: int) -> bool:
        """Whether a frame is there before anything is sampled: the user's own, or the end of the shot before."""
        first = index in (0, -len(self.job.story.shots[position].keyframes))
        return self.job.story.shots[position].keyframes[index].image is not None or (first and self.matches(position))

    def inputs(self, task: Task, run: Records) -> Mapping[str, Mapping[str, Any]]:
        """What each frame is made from. What it remembers is not among it: a new take of one leaves the later ones."""
        job, place = self.job, task.detail
        shot = job.story.shots[place.position]
        given: dict[int, str] = {}
        for k, keyframe in enumerate(shot.keyframes):
            path = job.story.image_path(keyframe)
            if path is not None:
                given[k] = sha256_file(path)
        if self.matches(place.position):
            earlier = job.story.shots[place.position - 1]
            record = run.record(record_of(earlier, len(earlier.keyframes) - 1))
            given[0] = "" if record is None else record.outputs[end_file(earlier)]
        generated = {
            "size": job.story.frame_size,
            "prompt": job.pair_prompts[place.position],
            "query": job.pair_captions[place.position].query,
            "seed": place.seed,
            "settings": job.pair_settings.inputs(),
            "studio": job.pair_hash,
        }
        ends = {name: given[k] for name, k in (("start", 0), ("end", len(shot.keyframes) - 1)) if k in given}
        generated |= {"given": ends} if ends else {}
        if job.check is not None:
            generated |= {"check": {"attempts": ATTEMPTS, "recogniser": job.check.identity}}
        return {
            record: {"size": job.story.frame_size, "image": given[k]} if k in given else generated
            for k, record in enumerate(task.records)
        }

    def reads(self, task: Task) -> Sequence[str]:
        """The start and end frames of all shots before it: any of them may be remembered."""
        return [
            name for shot in self.job.story.shots[: task.detail.position] for name in (start_file(shot), end_file(shot))
        ]

    def make(self, task: Task, workspace: Workspace) -> list[dict[str, Any]]:
        """Sample what is missing of a pair, and fit the user's own pictures."""
        return self._sampler.make(task.detail, self.matches(task.detail.position), workspace)

    @cached_property
    def _sampler(self) -> PairFrameSampler:
        from ..pair_sampling import PairFrameSampler

        return PairFrameSampler(self.job)


def record_of(shot: Shot, index: int) -> str:
    """What the manifest calls a keyframe of a shot."""
    return f"{shot.id}/keyframe-{index}"
