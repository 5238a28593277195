"""The clips of a text film: finished latents decoded, with some frames kept as images for the contact sheet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.documents import as_number
from ...execution.stage import Records, Task, Workspace
from ...story.shot import Shot
from .clips import clip_file
from .segments import SegmentStage, latents_file, load_latents

__all__ = ["Decode", "still_file", "still_times"]

STILLS = 3
"""Frames of a segment on the contact sheet."""


def still_file(shot: Shot, index: int) -> str:
    """Name of frame `index` of those that are kept of `shot`, in the run folder."""
    return f"stills/{shot.id}_{index:02d}.png"


def still_times(frames: int) -> list[int]:
    """Which of a segment's frames are kept."""
    return sorted({round(k * (frames - 1) / (STILLS - 1)) for k in range(STILLS)})


class Decode(SegmentStage):
    """Decodes a shot's latents as soon as they are final; shots do not wait for each other."""

    name = "clip"
    folders = {"clips": ".mkv", "stills": ".png"}
    records = "clip"
    figures = {"frames": as_number}

    def tasks(self, run: Records) -> list[Task]:
        """One for each shot."""
        found = []
        for i, shot in enumerate(self.job.story.shots):
            frames = self.job.lengths[i]
            files = (clip_file(shot), *(still_file(shot, k) for k in range(len(still_times(frames)))))
            key, asks = self.record(i, "clip"), (self.record(i, self.job.last(i)),)
            found.append(Task(self.name, key, {key: files}, asks, units=frames, detail=i))
        return found

    def inputs(self, task: Task, run: Records) -> Mapping[str, Mapping[str, Any]]:
        """The hash of the latents, and what decodes them."""
        job, i = self.job, task.detail
        latents = self.digest(i, job.last(i), run)
        return {task.key: {"latents": latents, "fps": str(job.story.rate), "studio": job.studio_hash}}

    def reads(self, task: Task) -> list[str]:
        """The shot's latents."""
        return [latents_file(self.shot(task.detail), self.job.last(task.detail))]

    def make(self, task: Task, workspace: Workspace) -> list[dict[str, Any]]:
        """Decode them part by part."""
        from ...media.frames import check_finite
        from ...media.image import write_image
        from ...media.video import open_writer

        job, i, count = self.job, task.detail, 0
        clip, *stills = task.files
        kept = dict(zip(still_times(job.lengths[i]), stills, strict=True))
        note = f"{self.shot(i).id}, {job.lengths[i]} frames"
        workspace.report(0, note)
        with open_writer(workspace.target(clip), job.story.rate, lossless=True) as writer:
            for part in job.sampler(i).model.decode(load_latents(workspace, self.reads(task)[0])):
                for frame in part[0].cpu():
                    writer.write(check_finite(frame, "video", clip))
                    if count in kept:
                        write_image(workspace.target(kept[count]), frame)
                    count += 1
                workspace.report(count, note)
        return [{"frames": count}]
