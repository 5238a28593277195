"""A video goes on: new frames after its own, which stay what they are (SmartDirector §1, Fig. 2)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..core.errors import InputError
from ..core.files import sha256_file
from ..execution.driver import Progress, run_stages
from ..execution.pool import Executor, LocalExecutor, Runner
from ..execution.run_folder import RunFolder
from ..media.append import container_suffix
from ..media.image import read_image
from ..media.source_video import SourceVideo
from . import kinds
from .checks import prove
from .extend_plan import Grid, NewShot, Part, context_length, native_of, plan_grid, plan_parts
from .kinds import check_run, open_run, owns
from .stages.clips import Clips
from .summary import no_progress, peak_memory, write_summary

if TYPE_CHECKING:
    from ..models.studio import Studio
    from ..models.studio_config import VideoDefaults

__all__ = ["ExtendJob", "make_extension"]

TASK = "extend"


@dataclass
class ExtendJob:
    """What all stages of an extension share. It says what to make, not where, and can be sent to another process.

    Attributes:
        video: the file that goes on.
        shots: what follows.
        studio: the models.
        grid: the size and rate that the model works at.
        context: frames that every part looks back at.
        parts: what is made in one go each, in order.
        target: name of the extended video in the folder.
        field: what errors call the video.
    """

    video: Path
    shots: Sequence[NewShot]
    studio: Studio
    grid: Grid
    context: int
    parts: Sequence[Part]
    target: str
    field: str = "VIDEO"

    @property
    def settings(self) -> VideoDefaults:
        """How the parts are sampled."""
        return self.studio.defaults.video

    @cached_property
    def studio_hash(self) -> str:
        """What identifies the settings and weights that an extension is made with."""
        return self.studio.fingerprint(*Clips.uses)

    @cached_property
    def _digests(self) -> dict[Path, str]:
        return {}

    def digest(self, path: Path) -> str:
        """SHA-256 of a file that was given."""
        if path not in self._digests:
            self._digests[path] = sha256_file(path)
        return self._digests[path]

    def spoken(self, prompt: str) -> str:
        """A prompt with the names that the text encoder knows, the same in all parts."""
        prompts = [shot.prompt for shot in self.shots]
        return self.studio.video_text.alias(prompts)[prompts.index(prompt)]


@dataclass(frozen=True)
class ExtendCrew:
    """Makes the runner of an extension in any process; see `execution.pool.Crew`."""

    job: ExtendJob

    @property
    def device(self) -> str:
        """The kind of device that the studio's models compute on."""
        return self.job.studio.device.type

    def __call__(self, device: str | None = None) -> Runner:
        """A runner whose models compute on `device`, by default where the studio's do."""
        if device is not None:
            self.job.studio.device = torch.device(device)
        stages: Any = kinds.KINDS[TASK].stages
        return Runner([stage(self.job) for stage in stages], self.job.studio.release)


def make_extension(
    video: str | os.PathLike[str],
    shots: Sequence[NewShot],
    studio: Studio,
    out: str | os.PathLike[str],
    *,
    context: float | None = None,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    resume: bool = False,
    redo: Sequence[str] = (),
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    on_finish: Callable[[str, float], None] | None = None,
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Let a video go on, in the run folder `out`.

    Every part that is made sees the frames before it as clean context, and its first frame follows the last of them.
    The video's own frames and its sound go into the new file as they are, where the codec allows it in their encoded
    packets. Memory is bounded by `context`, and does not grow with the video.

    Args:
        video: any video file.
        shots: what follows; each goes on from the one before it. A picture at a shot's start is its first frame.
        studio: the models.
        out: the run folder.
        context: seconds to look back at; None: half of what the model makes in one go.
        size: (height, width) that the model works in; None chooses, see `plan_grid`.
        fps: frames per second that the model works at; None chooses.
        resume: keep what the folder holds and is still right.
        redo: ids of shots that get a new take, and all after them are made again; implies `resume`.
        progress, say, on_finish, executor: as in `make_film`.

    Returns:
        The summary, which is also in ``summary.json``.

    Raises:
        InputError: a video or picture that cannot be read, a length or time that cannot be, a studio that cannot make
            video through keyframes, or a folder that cannot be used; all before anything is made.
        OSError: the disk is full or fails; what is finished stays.
    """
    begin = time.perf_counter()
    resume = resume or bool(redo)
    check_run(out, resume=resume, task=TASK)
    studio.check_task("video")
    prove(studio, *Clips.uses)
    path = Path(video).absolute()
    if owns(out, path):
        raise InputError("VIDEO", "must not be a file that the extension replaces", str(video), "copy it elsewhere")
    source = SourceVideo(path, "VIDEO")
    job = _job(path, source, shots, studio, context, size, fps)
    say = say or (lambda line: None)
    for note in (*source.notes, *job.grid.notes):
        say(f"{path.name}: {note}")
    with open_run(out, resume=resume, task=TASK) as run:
        run.on_finish = on_finish or run.on_finish
        run.describe(
            video=job.digest(path),
            studio=studio.name,
            studio_hash=job.studio_hash,
            settings={"video": job.settings.model_dump(mode="json")},
            seeds={shot.id: shot.seed for shot in shots},
        )
        if redo:
            if not run.results:
                raise InputError("--redo", "needs an extension in the folder", str(out), "make it first")
            run.new_takes(_known(redo, shots))
        run_stages(run, executor or LocalExecutor(), ExtendCrew(job), progress or no_progress, say)
        studio.release()
        summary = _summary(job, source, run, time.perf_counter() - begin)
        write_summary(run, summary)
        run.complete(summary["files"])
    return summary


def _job(
    path: Path,
    source: SourceVideo,
    shots: Sequence[NewShot],
    studio: Studio,
    context: float | None,
    size: tuple[int, int] | None,
    fps: float | None,
) -> ExtendJob:
    for shot in shots:
        for _, picture in shot.pictures:
            read_image(picture, "keyframe")  # an unreadable one must not stop the work half-way
    native = native_of(studio)
    multiple = studio.video_vae.pixels_per_token
    grid = plan_grid(source.size, source.sample_aspect, source.rate, native, multiple, size=size, fps=fps)
    frames = context_length(native, grid.rate, context)
    parts = plan_parts(shots, grid.rate, frames, native)
    target = f"extended{container_suffix(source)}"
    return ExtendJob(path, shots, studio, grid, frames, parts, target)


def _known(redo: Sequence[str], shots: Sequence[NewShot]) -> list[str]:
    ids = [shot.id for shot in shots]
    for name in redo:
        if name not in ids:
            raise InputError("--redo", f"must be among {', '.join(ids[:20])}", name, "name shots of the extension")
    return list(redo)


def _summary(job: ExtendJob, source: SourceVideo, run: RunFolder, seconds: float) -> dict[str, Any]:
    grid = job.grid
    records = run.results
    shots = []
    for shot in job.shots:
        parts = [part for part in job.parts if part.shot == shot.id]
        rendered = [part.key for part in parts if part.key in run.made]
        shots.append(
            {
                "id": shot.id,
                "prompt": shot.prompt,
                "seconds": round(float(sum(part.frames for part in parts) / grid.rate), 6),
                "take": run.take(shot.id),
                "parts": [
                    {
                        **records[part.key].info,
                        "frames": part.frames,
                        "keyframes": [
                            {"requested": shot.pictures[number][0], "frame": frame}
                            for number, frame in zip(part.pictures, _shown(part), strict=True)
                        ],
                        "cuts": part.cuts,
                        **({"dissolves": part.overlap} if part.overlap else {}),
                    }
                    for part in parts
                ],
                "kept": not rendered,
                "render_seconds": round(sum(records[key].seconds for key in rendered), 3),
            }
        )
    frames = sum(part.frames - part.overlap for part in job.parts)
    encoded = records["extended"].info.get("encoded") or None
    return {
        "video": str(job.video),
        "studio": job.studio.name,
        "studio_hash": job.studio_hash,
        "device": str(job.studio.device),
        "size": [grid.source_size[1], grid.source_size[0]],
        "fps": float(grid.source_rate),
        "model_size": [grid.size[1], grid.size[0]],
        "model_fps": float(grid.rate),
        "context_frames": job.context,
        "new_frames": frames * grid.held,
        "new_seconds": round(float(frames / grid.rate), 6),
        "copied": encoded is None,
        "encoded_because": encoded,
        "shots": shots,
        "notes": [*source.notes, *grid.notes],
        "timings": {"run": round(seconds, 3), "made": sorted(run.made)},
        "settings": {"video": job.settings.model_dump(mode="json")},
        "peak_memory_mb": peak_memory(job.studio.device),
        "files": [job.target, "joins.png", "summary.json"],
    }


def _shown(part: Part) -> list[int]:
    """New frames, from 0, that a part's keyframes are."""
    offset = 0 if part.cuts else 1
    return [frame - offset for frame in part.timeline.keyframe_frames]
