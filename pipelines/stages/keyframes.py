"""The keyframes of every shot, in film order, each remembering earlier ones (Captain Cinema §3.2).

A window of keyframes is made together and is one task. Each of them is a result of its own, but has all members of its
window among its inputs: when one is to be made (again), all are, and a new take of one is a new take of its window.

Where keyframes are checked, a window that lacks something of its captions is made again from other noise before it is
remembered; of several attempts the one stays that lacks least.
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
from ...story.stages import stage_seed, windows

if TYPE_CHECKING:
    from ..job import FilmJob
    from ..keyframe_sampling import KeyframeSampler

__all__ = ["ATTEMPTS", "KeyframePlace", "Keyframes", "dependents", "keyframe_file"]

ATTEMPTS = 3
"""How often a checked keyframe is made at most."""
_SEEN = ("remembers", "together", "sees")
"""Figures of a keyframe that name the keyframes it has seen."""


def keyframe_file(shot: Shot, index: int) -> str:
    """Name of keyframe `index` of `shot` in the run folder."""
    return f"keyframes/{shot.id}_{index:02d}.png"


@dataclass(frozen=True)
class KeyframePlace:
    """One keyframe of the film: index `index` of the shot at `position`, drawn from `seed` as take `take`."""

    position: int
    index: int
    seed: int
    take: int


class Keyframes(Stage):
    """Makes keyframes one window after the other: each needs all that are before it."""

    name = "keyframes"
    folders = {"keyframes": ".png"}
    records = "keyframe-[0-9]+"
    figures = (
        dict.fromkeys(("remembers", "together", "missing"), texts)
        | {"source": as_text}
        | dict.fromkeys(("tokens", "tokens_uncompressed", "seed", "take", "attempts"), as_number)
    )

    def __init__(self, job: FilmJob) -> None:
        self.job = job

    @property
    def parts(self) -> tuple[str, ...]:
        """The keyframe model with its encoders, and the recogniser where keyframes are checked."""
        return "keyframe", "keyframe_text", "clip", "image_vae", *(["recogniser"] * self.job.checked)

    @cached_property
    def places(self) -> list[tuple[int, int]]:
        """(position of the shot, index) of every keyframe of the whole film, in film order."""
        return [(p, k) for p, shot in enumerate(self.job.story.shots) for k in range(len(shot.keyframes))]

    def tasks(self, run: Records) -> list[Task]:
        """The windows, planned over the whole film, whichever shots are chosen."""
        story = self.job.story
        needed, tasks = self.job.remembered, list[Task]()
        before: tuple[str, ...] = ()
        for window in windows(
            self.places, self.job.settings.window, lambda at: story.shots[at[0]].keyframes[at[1]].image is not None
        ):
            if window[0][0] not in needed:
                break
            places = tuple(self._place(position, index, run) for position, index in window)
            records = {self.record(place): (self.file(place),) for place in places}
            first = story.shots[places[0].position].keyframes[places[0].index]
            key, steps = next(iter(records)), self.job.settings.keyframe.steps
            task = Task(self.name, key, records, (), before, steps, in_driver=first.image is not None, detail=places)
            tasks.append(task)
            before = (*records,)
        return tasks

    def inputs(self, task: Task, run: Records) -> dict[str, dict[str, Any]]:
        """What each keyframe is made from; those of a window name all of its members."""
        places: Sequence[KeyframePlace] = task.detail
        found = {self.record(place): self._inputs(place) for place in places}
        if len(places) > 1:
            together = [
                {"keyframe": record} | {key: inputs[key] for key in ("prompt", "query", "seed")}
                for record, inputs in found.items()
            ]
            found = {record: inputs | {"together": together} for record, inputs in found.items()}
        return found

    def reads(self, task: Task) -> list[str]:
        """All keyframes before it: any of them may be remembered."""
        first: KeyframePlace = task.detail[0]
        end = self.places.index((first.position, first.index))
        return [keyframe_file(self.job.story.shots[position], index) for position, index in self.places[:end]]

    def make(self, task: Task, workspace: Workspace) -> list[dict[str, Any]]:
        """Sample the keyframes of a window, or fit the user's own picture."""
        return self._sampler.make(task.detail, workspace)

    @cached_property
    def _sampler(self) -> KeyframeSampler:
        from ..keyframe_sampling import KeyframeSampler

        return KeyframeSampler(self.job, self.places)

    def record(self, place: KeyframePlace) -> str:
        """What the manifest calls a keyframe."""
        return f"{self.job.story.shots[place.position].id}/keyframe-{place.index}"

    def file(self, place: KeyframePlace) -> str:
        """Name of a keyframe in the run folder."""
        return keyframe_file(self.job.story.shots[place.position], place.index)

    def _place(self, position: int, index: int, run: Records) -> KeyframePlace:
        shot = self.job.story.shots[position]
        take = run.take(shot.id)
        return KeyframePlace(position, index, stage_seed(shot, take, f"keyframe-{index}"), take)

    def _inputs(self, place: KeyframePlace) -> dict[str, Any]:
        job = self.job
        path = job.story.image_path(job.story.shots[place.position].keyframes[place.index])
        inputs: dict[str, Any] = {"size": job.keyframe_size}
        if path is not None:
            return inputs | {"image": sha256_file(path)}
        caption = job.keyframe_captions[place.position][place.index]
        inputs |= {"prompt": caption.prompt, "query": caption.query, "seed": place.seed}
        inputs |= {"settings": job.settings.keyframe_inputs(), "studio": job.studio_hash}
        if job.check is not None:
            inputs |= {"check": {"attempts": ATTEMPTS, "recogniser": job.check.identity}}
        return inputs


def dependents(shots: Sequence[Shot], run: Records, redone: Sequence[Shot]) -> list[Shot]:
    """The other shots whose keyframes remember one of theirs or are made with it, directly or through another shot.

    Args:
        shots: all shots of the film.
        run: knows what each keyframe has seen.
        redone: the shots that change.
    """
    changed = {shot.id for shot in redone}
    owners: Mapping[str, str] = {
        keyframe_file(shot, index): shot.id for shot in shots for index in range(len(shot.keyframes))
    }
    found = []
    for shot in shots:
        records = [run.record(f"{shot.id}/keyframe-{index}") for index in range(len(shot.keyframes))]
        names = {name for record in records if record for part in _SEEN for name in record.info.get(part, [])}
        if shot.id not in changed and {owners.get(name) for name in names} & changed:
            changed.add(shot.id)
            found.append(shot)
    return found
