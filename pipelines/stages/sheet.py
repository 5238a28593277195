"""The pages that show a film: its contact sheet, and the weights of its prompts. They are drawn anew in every run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...execution.stage import Records, Stage, Task, Workspace
from ...story.shot import Shot
from .decode import still_file, still_times
from .join import placed_clips
from .keyframes import keyframe_file

if TYPE_CHECKING:
    from ...media.contact_sheet import SheetKeyframe
    from ..job import Job
    from ..text_film import TextFilmJob

__all__ = ["WEIGHTS", "PairSheet", "Sheet", "TextSheet", "Weights"]

SHEET = "contact_sheet.png"
WEIGHTS = "weights.png"


class Sheet(Stage):
    """Draws a card for every chosen shot, with its keyframes."""

    name = "contact sheet"
    files = (SHEET, "contact_sheet_*.png")

    def __init__(self, job: Job) -> None:
        self.job = job

    def tasks(self, run: Records) -> list[Task]:
        """The sheet, once the film is joined."""
        return [Task(self.name, self.name, {}, needs=("film",))]

    def make(self, task: Task, workspace: Workspace) -> Sequence[dict[str, Any]]:
        """Draw all pages, and remove those of a longer film."""
        from ...media.contact_sheet import SheetShot, write_contact_sheet

        job, story, placed = self.job, self.job.story, placed_clips(self.job)
        cards = []
        for i, clip in zip(job.chosen, placed, strict=True):
            shot = story.shots[i]
            seconds = float(job.frames(i) / story.rate)
            start = float(clip.start / story.rate)
            caption = job.captions[i].prompt
            cards.append(SheetShot(shot.id, shot.place or "", caption, start, seconds, self.pictures(shot, workspace)))
        frames = placed[-1].start + placed[-1].frames
        width, height = story.size
        length = f"{len(cards)} shots · {float(frames / story.rate):.2f} s"
        subtitle = f"{length} · {width}×{height} at {story.fps:g} fps · studio {job.studio.name}"
        target = workspace.target(SHEET)
        pages = write_contact_sheet(target, story.title, subtitle, cards)
        for page in itertools.count(len(pages) + 1):  # of a longer film
            path = target.with_name(f"contact_sheet_{page:02d}.png")
            if not path.is_file():
                break
            path.unlink()
        return []

    def pictures(self, shot: Shot, workspace: Workspace) -> list[SheetKeyframe]:
        """What a shot's card shows: its keyframes with their times."""
        from ...media.contact_sheet import SheetKeyframe

        keyframes = shot.timeline(self.job.story.fps).keyframes
        return [
            SheetKeyframe(workspace.source(keyframe_file(shot, k)), key.requested.seconds, key.snapped.seconds, *name)
            for k, (key, name) in enumerate(zip(keyframes, self._names(len(keyframes)), strict=True))
        ]

    def _names(self, count: int) -> list[tuple[str, ...]]:
        """What a shot's keyframes are called, where they are called otherwise."""
        return [()] * count


class PairSheet(Sheet):
    """Draws a card for every chosen shot, with its start and end frame."""

    def _names(self, count: int) -> list[tuple[str, ...]]:
        return [("start frame",), *[()] * (count - 2), ("end frame",)]


class TextSheet(Sheet):
    """Draws a card for every shot, with some of its frames."""

    def pictures(self, shot: Shot, workspace: Workspace) -> list[SheetKeyframe]:
        """What a shot's card shows: some frames of its clip."""
        from ...media.contact_sheet import SheetKeyframe

        story = self.job.story
        seconds = [float(t / story.rate) for t in still_times(self.job.frames(story.shots.index(shot)))]
        return [SheetKeyframe(workspace.source(still_file(shot, k)), at, at, "frame") for k, at in enumerate(seconds)]


class Weights(Stage):
    """Draws the weight of the scene prompt in every segment; with prompts that are not mixed there is no such page."""

    name = "weights"
    files = (WEIGHTS,)

    def __init__(self, job: TextFilmJob) -> None:
        self.job = job
        self._run: Records | None = None

    def tasks(self, run: Records) -> list[Task]:
        """The page, once the film is joined."""
        self._run = run
        return [Task(self.name, self.name, {}, needs=("film",))]

    def make(self, task: Task, workspace: Workspace) -> Sequence[dict[str, Any]]:
        """Draw it from the figures of the segments, or remove that of an earlier run."""
        from ...core.files import atomic_path
        from ...media.curve import draw_curves

        curves = {}
        for shot in self.job.story.shots:
            record = None if self._run is None else self._run.record(f"{shot.id}/segment")
            if record is not None and record.info["scene_weights"]:
                curves[shot.id] = record.info["scene_weights"]
        if not curves:
            workspace.source(WEIGHTS).unlink(missing_ok=True)
            return []
        with atomic_path(workspace.target(WEIGHTS)) as temporary:
            draw_curves("weight of the scene, by step", curves).save(temporary, format="PNG")
        return []
