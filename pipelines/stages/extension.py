"""The stages of an extension: what is given at the model's size, the new parts, and the video with them at its end."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ...core.documents import as_number, as_text
from ...execution.stage import Records, Stage, Task, Workspace
from ...story.shot import MAX_SEED
from .clips import ClipPlace, Clips

if TYPE_CHECKING:
    from torch import Tensor

    from ..extend import ExtendJob

__all__ = ["CONTEXT", "Append", "Extension", "Given", "picture_file"]

CONTEXT = "context.mkv"
JOINS = "joins.png"
_FIGURES = ("before_psnr_db", "join_psnr_db", "after_psnr_db", "colour_step")
_SHOWN, _ROWS = 3, 24  # frames on either side of a join in the picture of joins, and joins


def picture_file(shot: str, number: int) -> str:
    """Where a shot's picture lies in the folder, scaled to the model's size."""
    return f"keyframes/{shot}_{number:02d}.png"


class Given(Stage):
    """Brings the end of the video, and the pictures, to the size and rate that the model works in."""

    name = "context"
    files = (CONTEXT,)
    folders = {"keyframes": ".png"}
    records = "context|keyframe-[0-9]+"
    figures = {"frames": as_number}
    announced = False

    def __init__(self, job: ExtendJob) -> None:
        self.job = job

    def tasks(self, run: Records) -> list[Task]:
        """The context, and every picture."""
        found = [Task(self.name, "context", {"context": (CONTEXT,)}, in_driver=True)]
        for shot in self.job.shots:
            for number in range(len(shot.pictures)):
                key = f"{shot.id}/keyframe-{number}"
                detail = shot.pictures[number][1]
                files = {key: (picture_file(shot.id, number),)}
                found.append(Task(self.name, key, files, in_driver=True, detail=detail))
        return found

    def inputs(self, task: Task, run: Records) -> Mapping[str, Mapping[str, Any]]:
        """The hash of the file that is given, and the size (and rate) that it is brought to."""
        job = self.job
        if task.detail is not None:
            return {task.key: {"picture": job.digest(task.detail), "size": list(job.grid.size)}}
        grid = {"size": list(job.grid.size), "rate": str(job.grid.rate)}
        return {task.key: {"video": job.digest(job.video), "grid": grid, "context": job.context}}

    def make(self, task: Task, workspace: Workspace) -> list[dict[str, Any]]:
        """Read, scale and write."""
        from ...media.image import fit_image, read_image, write_image
        from ...media.video import open_writer

        (name,) = task.files
        if task.detail is not None:
            picture = fit_image(read_image(task.detail, "keyframe"), self.job.grid.size)
            write_image(workspace.target(name), picture)
            return [{"frames": 1}]
        workspace.report(0, "reading the video")
        frames = self._context()
        with open_writer(workspace.target(name), self.job.grid.rate, lossless=True) as writer:
            for frame in frames:
                writer.write_array(frame)
        return [{"frames": len(frames)}]

    def _context(self) -> list[Any]:
        """The last frames at the model's rate, 8 bits. Of those that are read no more are held than these last."""
        from ...media.frames import to_uint8
        from ...media.joins import scaled
        from ...media.source_video import SourceVideo

        job = self.job
        span = (job.context + 1) / job.grid.rate
        held: deque[tuple[Fraction, Any]] = deque()
        for frame in SourceVideo(job.video, job.field).frames():
            held.append((frame.time, to_uint8(scaled(frame.pixels, job.grid.size))))
            while held[-1][0] - held[0][0] > span:
                held.popleft()
        last, slack = held[-1][0], Fraction(1, 2) / job.grid.source_rate
        found = []
        for number in range(job.context):  # from the last one back: what is on the screen then
            time = last - number / job.grid.rate
            while len(held) > 1 and held[-1][0] > time + slack:
                held.pop()
            if held[-1][0] > time + slack:
                break
            found.append(held[-1][1])
        return found[::-1]


class Extension(Stage):
    """Makes one part after the other: each goes on from those before it."""

    name = "extend"
    folders = {"clips": ".mkv"}
    records = "extension-[0-9]+"
    figures = dict.fromkeys((*_FIGURES, "frames", "seed", "take"), as_number)
    wanted = ("frames",)

    def __init__(self, job: ExtendJob) -> None:
        self.job = job

    @property
    def parts(self) -> tuple[str, ...]:
        """The video model, of two experts both, with its VAE and text encoder."""
        return Clips.uses

    def tasks(self, run: Records) -> list[Task]:
        """The parts, in order."""
        found: list[Task] = []
        for position, part in enumerate(self.job.parts):
            take = run.take(part.shot)
            place = ClipPlace(position, part_seed(part.seed, take, part.index), take)
            asks = tuple(self._seen(position).values())
            steps = self.job.settings.steps
            found.append(Task(self.name, part.key, {part.key: (part.file,)}, asks, units=steps, detail=place))
        return found

    def _before(self, position: int) -> dict[str, str]:
        """Files whose last frames the part at a position looks back at, in order, and the result that each is of."""
        found: dict[str, str] = {}
        frames = 0
        for part in reversed(self.job.parts[:position]):
            found[part.file] = part.key
            frames += part.frames
            if frames >= self.job.context:
                break
        else:
            found[CONTEXT] = "context"
        return dict(reversed(found.items()))

    def _seen(self, position: int) -> dict[str, str]:
        """The same with the part's keyframes."""
        part = self.job.parts[position]
        keys = [f"{part.shot}/keyframe-{number}" for number in part.pictures]
        return self._before(position) | dict(zip(part.picture_files, keys, strict=True))

    def inputs(self, task: Task, run: Records) -> Mapping[str, Mapping[str, Any]]:
        """What the part is made from, with the hashes of what it sees."""
        job, place = self.job, task.detail
        part = job.parts[place.position]
        records = {file: run.record(key) for file, key in self._seen(place.position).items()}
        inputs = {
            "prompt": part.prompt,
            "sees": {file: record.outputs[file] for file, record in records.items() if record is not None},
            "timeline": part.timeline.to_dict(),
            "rate": str(job.grid.rate),
            "context": job.context,
            "seed": place.seed,
            "settings": job.settings.model_dump(mode="json"),
            "studio": job.studio_hash,
        }
        return {task.key: inputs}

    def reads(self, task: Task) -> list[str]:
        """What is before it, and its keyframes."""
        return list(self._seen(task.detail.position))

    def make(self, task: Task, workspace: Workspace) -> list[dict[str, Any]]:
        """Sample the part and decode it."""
        from ..extend_sampling import make_part

        place = task.detail
        part, before = self.job.parts[place.position], list(self._before(place.position))
        return [{"take": place.take, **make_part(self.job, part, place.seed, before, workspace)}]


def part_seed(seed: int, take: int, index: int) -> int:
    """The seed of a part, from its shot's, its take and its number."""
    digest = hashlib.sha256(f"{seed}:{take}:extension-{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") & MAX_SEED


class Append(Stage):
    """Puts the new frames after the video's own."""

    name = "join"
    files = ("extended.mp4", "extended.mkv", JOINS)
    records = "extended"
    figures = {"encoded": as_text}
    announced = False

    def __init__(self, job: ExtendJob) -> None:
        self.job = job

    def tasks(self, run: Records) -> list[Task]:
        """The extended video."""
        keys = tuple(part.key for part in self.job.parts)
        files = (self.job.target, JOINS)
        return [Task(self.name, "extended", {"extended": files}, asks=("context", *keys), in_driver=True)]

    def inputs(self, task: Task, run: Records) -> Mapping[str, Mapping[str, Any]]:
        """The hash of the video, and those of the parts."""
        made = [(run.record(part.key), part.file) for part in self.job.parts]
        clips = [record.outputs[name] for record, name in made if record is not None]
        grid = self.job.grid
        found: dict[str, Any] = {
            "video": self.job.digest(self.job.video),
            "clips": clips,
            "rate": str(grid.rate),
            "held": grid.held,
        }
        overlaps = [part.overlap for part in self.job.parts]
        return {task.key: found | ({"overlaps": overlaps} if any(overlaps) else {})}

    def reads(self, task: Task) -> Sequence[str]:
        """All parts, and the context."""
        return [CONTEXT, *(part.file for part in self.job.parts)]

    def make(self, task: Task, workspace: Workspace) -> list[dict[str, Any]]:
        """Write the video, and a picture of its joins."""
        from ...media.append import append_frames
        from ...media.source_video import SourceVideo

        job, grid = self.job, self.job.grid
        workspace.say("joining the video and what is new")
        reason = append_frames(
            workspace.target(job.target),
            SourceVideo(job.video, job.field),
            lambda: self._new(workspace),
            grid.source_rate,
        )
        self._draw(workspace)
        return [{"encoded": reason or ""}]

    def _new(self, workspace: Workspace) -> Iterator[Tensor]:
        """The new frames at the video's size and rate."""
        from ...media.frames import from_uint8
        from ...media.joins import scaled
        from ...media.video import VideoReader
        from ..extend_plan import placed_parts
        from ..join import joined_frames

        grid, parts = self.job.grid, self.job.parts
        clips = (VideoReader(workspace.source(part.file)).arrays() for part in parts)
        for array in joined_frames(clips, placed_parts(parts)):
            frame = scaled(from_uint8(array), grid.source_size)
            for _ in range(grid.held):
                yield frame

    def _draw(self, workspace: Workspace) -> None:
        """A row for each part: the last frames before it and its first."""
        import torch

        from ...media.image import write_image
        from ..extend_sampling import look_back

        rows, before = [], workspace.source(CONTEXT)
        for part in self.job.parts:
            file = workspace.source(part.file)
            old, new = look_back([before], _SHOWN), look_back([file], part.frames)[:_SHOWN]
            blank = torch.zeros(max(0, _SHOWN - len(old)), *old.shape[1:])
            blank_after = torch.zeros(max(0, _SHOWN - len(new)), *old.shape[1:])
            line = torch.ones(3, old.shape[-2], 4)
            rows.append(torch.cat([*blank, *old, line, *new, *blank_after], dim=2))
            before = file
        write_image(workspace.target(JOINS), torch.cat(rows[:_ROWS], dim=1))
