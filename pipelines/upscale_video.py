"""A video in, a larger one out: windows that never cross a cut, each with its keyframes (SmartDirector §3.3)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from ..core.errors import InputError
from ..core.files import file_identity
from ..execution.driver import run_stages
from ..execution.pool import Executor, LocalExecutor
from ..execution.run_folder import RunFolder
from ..media.image import open_image
from ..media.source_video import SourceVideo
from .checks import prove
from .job import Progress
from .join import JoinedClip
from .kinds import KINDS, check_run, open_run, owns
from .stages.scan import FILE as SCAN
from .stages.scan import Scan
from .stages.upscale import Upscaled, Windows, upscaled_inputs
from .summary import no_progress, peak_memory, write_summary
from .upscale.assemble import container_for
from .upscale.film_run import film_clips
from .upscale.job import UpscaleClip, UpscaleCrew, UpscaleJob, UpscaleOptions
from .upscale.keyframes import find_keyframes, read_keyframe
from .upscale.source_info import ScanJob, read_scan
from .upscale.target import target_size

if TYPE_CHECKING:
    from ..models.studio import Studio

__all__ = ["upscale_video"]

Cuts = Literal["auto", "none"] | Sequence[int]


def upscale_video(
    video: str | os.PathLike[str],
    studio: Studio,
    out: str | os.PathLike[str],
    *,
    scale: float | Fraction | None = None,
    size: tuple[int, int] | None = None,
    keyframes: str | os.PathLike[str] = "auto",
    cuts: Cuts = "auto",
    options: UpscaleOptions | None = None,
    keep_windows: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    on_finish: Callable[[str, float], None] | None = None,
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Upscale a video, or the film of a run folder, into ``upscaled.mp4`` in the folder `out`.

    The times of the frames, the sound, the colours and their tags are the source's; where MP4 cannot hold the sound,
    the file is ``upscaled.mkv``. Memory does not grow with the length. A run can be stopped at any moment; with
    `resume` it goes on with the window that it was at, and gives the same bytes.

    Args:
        video: any video, or the folder of a finished film: its clips are taken before they were compressed.
        studio: gives the super-resolution model.
        out: the run folder.
        scale: factor, by default 2; or give `size` = (width, height).
        keyframes: a folder of pictures (see `find_keyframes`); ``auto``: those of a film's folder that are larger than
            the film; ``none``.
        cuts: ``auto`` finds them; ``none``; or frames that shots begin at. A film knows its own.
        options: method, windows, tiles; None takes the studio's.
        keep_windows: keep the windows when the video is complete.
        resume: go on with what `out` holds.
        progress, say, on_finish: receive progress, lines for people, and every result that is finished.
        executor: who makes the windows; None makes them in this process.

    Returns:
        The summary, which is also in ``summary.json``.

    Raises:
        InputError: something given cannot be used; before anything is made where that can be known.
        OSError: the disk is full or fails; what is finished stays.
    """
    begin, video, out = time.perf_counter(), Path(video), Path(out)
    options = options or UpscaleOptions.of(studio)
    say = say or (lambda line: None)
    check_run(out, resume=resume, task="upscale")
    if options.method == "model":
        studio.check_task("upscale")
        prove(studio, *studio.upscale_parts)
    with open_run(out, resume=resume, task="upscale") as run:
        run.on_finish = on_finish or run.on_finish
        if video.is_dir():
            if cuts != "auto":
                raise InputError("--cuts", "is for videos; a film knows its own", cuts, "leave it out")
            job = _film_job(video, studio, options, scale, size, keyframes, out, say)
        else:
            if owns(out, video):
                fix = "choose another folder"
                raise InputError("VIDEO", "must not be a file that the command replaces", str(video), fix)
            source = SourceVideo(video, "VIDEO")
            target = target_size(source.size, scale, size)
            _check_tiles(options, studio, source.size, target)
            for note in source.notes:
                say(f"{video.name}: {note}")
            run.describe(title=video.stem, size=list(target))
            job = _video_job(run, source, studio, options, target, keyframes, cuts, progress, say)
        run.describe(title=video.stem, size=list(job.target), settings=job.settings)
        kept = run.why("upscaled", upscaled_inputs(job), (job.file,)) is None
        if not kept:
            say(job.plan)
            crew = UpscaleCrew(job, (Windows, Upscaled))
            run_stages(run, executor or LocalExecutor(), crew, progress or no_progress, say)
        studio.release()
        summary = _summary(job, run, video, kept, time.perf_counter() - begin)
        write_summary(run, summary)
        if not keep_windows:
            run.drop([name for name in run.results if Windows.has(name)])
        run.complete(summary["files"])
    return summary


def _video_job(
    run: RunFolder,
    source: SourceVideo,
    studio: Studio,
    options: UpscaleOptions,
    target: tuple[int, int],
    keyframes: str | os.PathLike[str],
    cuts: Cuts,
    progress: Progress | None,
    say: Callable[[str], None],
) -> UpscaleJob:
    """The job of one video, which is looked at first."""
    identity = file_identity(source.path)
    named = () if cuts == "none" else None if cuts == "auto" else tuple(int(cut) for cut in cuts)
    scan = ScanJob(source.path, identity, named)
    suffix = container_for(source) if source.audio else ".mp4"
    if suffix != ".mp4":
        say(f"MP4 cannot hold its sound ({', '.join(source.audio)}): writing upscaled{suffix}")
    run_stages(run, LocalExecutor(), _ScanCrew(scan, studio), progress or no_progress, say)
    info = read_scan(run.path / SCAN, source.path)
    if named is None and info.cuts:
        count = len(info.cuts)
        say(f"{count} cut{'s' * (count > 1)} found")
    pictures: dict[int, Path] = {}
    if str(keyframes) == "auto":
        say("no keyframes: a video has none of its own; give a folder of pictures with --keyframes DIR")
    elif str(keyframes) != "none":
        pictures = find_keyframes(Path(keyframes), info.times, source.rate)
        _check_keyframes(list(pictures.values()), source.size, target, say)
    clip = UpscaleClip(
        "video",
        info.frames,
        source.size,
        path=source.path,
        identity=identity,
        cuts=info.cuts,
        keyframes=pictures,
        depth=8 if source.colour.depth == 8 else 12,
    )
    placed = [JoinedClip(info.frames, 0, 0)]
    return UpscaleJob([clip], placed, target, source.rate, studio, options, info, f"upscaled{suffix}")


def _film_job(
    film: Path,
    studio: Studio,
    options: UpscaleOptions,
    scale: float | Fraction | None,
    size: tuple[int, int] | None,
    keyframes: str | os.PathLike[str],
    out: Path,
    say: Callable[[str], None],
) -> UpscaleJob:
    """The job of a finished film: its clips, as they were before they were compressed."""
    if film.resolve() == out.resolve():
        raise InputError("--out", "must not be the film's own folder", str(out), "choose another folder")
    found = film_clips(film, KINDS)
    frame_size = found.clips[0].size
    target = target_size(frame_size, scale, size)
    _check_tiles(options, studio, frame_size, target)
    clips = found.clips
    if str(keyframes) == "auto":
        clips = found.with_own_keyframes()
        if not any(clip.keyframes for clip in clips):
            say(f"no keyframes: those of {film} are not larger than the film; give pictures with --keyframes DIR")
    elif str(keyframes) != "none":
        clips = found.with_keyframes(find_keyframes(Path(keyframes), found.times, found.rate))
    _check_keyframes([path for clip in clips for path in clip.keyframes.values()], frame_size, target, say)
    return UpscaleJob(clips, found.placed, target, found.rate, studio, options)


def _check_keyframes(
    pictures: Sequence[Path], size: tuple[int, int], target: tuple[int, int], say: Callable[[str], None]
) -> None:
    """Refuse pictures that cannot be keyframes; say which are no larger than the video, whose detail they hide."""
    small = []
    for path in pictures:
        read_keyframe(path, target)
        with open_image(path) as picture:
            if picture.width <= size[1] or picture.height <= size[0]:
                small.append(path.name)
    if small and target != size:
        names = ", ".join(small[:5]) + ("" if len(small) < 6 else f" and {len(small) - 5} more")
        say(f"no larger than the video, so without detail of their own (better left out): {names}")


def _check_tiles(options: UpscaleOptions, studio: Studio, size: tuple[int, int], target: tuple[int, int]) -> None:
    """Refuse tiles that are too small before anything is made."""
    try:
        UpscaleJob([], [], target, Fraction(1), studio, options).tiles(size)
    except InputError as error:
        raise InputError(f"--{error.field.replace('_', '-')}", error.rule, error.value, error.fix) from None


def _summary(job: UpscaleJob, run: RunFolder, video: Path, kept: bool, seconds: float) -> dict[str, Any]:
    windows = [window for found in job.windows.values() for window in found]
    frames = job.placed[-1].start + job.placed[-1].frames
    made = sorted(run.made)
    return {
        "title": video.stem,
        "source": str(video),
        "studio": job.studio.name if job.options.method == "model" else None,
        "method": job.options.method,
        "size": [job.target[1], job.target[0]],
        "source_size": [job.clips[0].size[1], job.clips[0].size[0]],
        "frames": frames,
        "seconds": round(_seconds(job, frames), 6),
        "shots": sum(1 + len([cut for cut in clip.cuts if cut]) for clip in job.clips),
        "windows": len(windows),
        "tiles": len(job.tiles(job.clips[0].size)),
        "keyframes": sum(len(clip.keyframes) for clip in job.clips),
        "kept": kept,
        "timings": {"run": round(seconds, 3), "made": made},
        "peak_memory_mb": peak_memory(job.studio.device if job.options.method == "model" else torch.device("cpu")),
        "settings": job.settings,
        "files": [job.file, "summary.json"],
    }


def _seconds(job: UpscaleJob, frames: int) -> float:
    if job.source is None:
        return float(frames / job.rate)
    known = job.source
    return float(known.times[-1] + (known.base * known.last or 1 / job.rate))


class _ScanCrew:
    """Makes the runner that looks at a video; see `execution.pool.Crew`."""

    def __init__(self, job: ScanJob, studio: Studio) -> None:
        self._job, self._studio = job, studio
        self.device = "cpu"

    def __call__(self, device: str | None = None) -> Any:
        from ..execution.pool import Runner

        return Runner([Scan(self._job)], self._studio.release)
