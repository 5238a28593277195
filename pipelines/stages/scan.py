"""A look at the whole of a video before it is upscaled: how long it is, when its frames appear, and where it cuts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ...execution.stage import Records, Stage, Task, Workspace

if TYPE_CHECKING:
    from torch import Tensor

    from ...media.source_video import SourceVideo
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
        from ...core.files import write_atomic
        from ...media.source_video import SourceVideo

        source = SourceVideo(self.job.path)
        ticks: list[int] = []
        last = 0

        def frames() -> Iterator[Tensor]:
            nonlocal last
            for frame in source.frames():
                ticks.append(round(frame.time / source.time_base))
                last = round(frame.duration / source.time_base)
                if len(ticks) % 100 == 1:
                    workspace.report(0, f"{len(ticks)} frames")
                yield frame.pixels

        if self.job.cuts is None:
            cuts = _found(frames(), source, workspace)
        else:
            cuts = list(self.job.cuts)
            for _ in frames():
                pass
        data = {"base": str(source.time_base), "last": last, "cuts": cuts, "ticks": ticks}
        write_atomic(workspace.target(FILE), json.dumps(data) + "\n")
        return [{}]


def _found(frames: Iterator[Tensor], source: SourceVideo, workspace: Workspace) -> list[int]:
    name = f"{__package__}.media.cuts".replace(".pipelines.stages", "")
    if find_spec(name) is None:
        workspace.say("cuts are not looked for: the detector is missing; name them with --cuts")
        for _ in frames:
            pass
        return []
    return list(import_module(name).find_cuts(frames, source.rate))
