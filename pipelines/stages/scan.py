"""A look at the whole of a video before it is upscaled: how long it is, when its frames appear, and where it cuts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...execution.stage import Records, Stage, Task, Workspace

if TYPE_CHECKING:
    from ..upscale.source_info import ScanJob

__all__ = ["FILE", "Scan"]

FILE = "source.json"


class Scan(Stage):
    """Decodes a video once; holds one frame at a time."""

    name = "scan"
    files = (FILE,)
    records = "scan"

    def __init__(self, job: ScanJob) -> None:
        self.job = job

    def tasks(self, run: Records) -> list[Task]:
        """The one pass."""
        return [Task(self.name, "scan", {"scan": (FILE,)})]

    def inputs(self, task: Task, run: Records) -> Mapping[str, Mapping[str, Any]]:
        """The file, and the cuts that a user names."""
        cuts = None if self.job.cuts is None else list(self.job.cuts)
        return {task.key: {"source": self.job.identity, "cuts": cuts}}

    def make(self, task: Task, workspace: Workspace) -> Sequence[dict[str, Any]]:
        """Count the frames, note their times, find the cuts."""
        from ...core.errors import InputError
        from ...core.files import write_atomic
        from ...media.source_video import SourceVideo

        workspace.report(0, self.job.path.name)
        source = SourceVideo(self.job.path)
        if self.job.cuts is None:
            from ...media.cuts import cuts_of_video

            cuts = cuts_of_video(source)
        else:
            cuts = sorted(set(self.job.cuts))
        times, base = source.times, source.time_base
        if outside := [cut for cut in cuts if not 0 <= cut < len(times)]:
            raise InputError("--cuts", f"must be frames from 1 to {len(times) - 1}", outside[0], "leave it out")
        ticks = [round(time / base) for time in times]
        last = round((source.duration - times[-1]) / base)
        data = {"base": str(base), "last": last, "cuts": cuts, "ticks": ticks}
        write_atomic(workspace.target(FILE), json.dumps(data) + "\n")
        return [{}]
