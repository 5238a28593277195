"""Windows of a video, or of a film's clips, made larger one by one, and joined again (SmartDirector §3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.documents import as_number
from ...execution.stage import Records, Stage, Task, Workspace

if TYPE_CHECKING:
    import numpy as np

    from ..job import FilmJob
    from ..upscale.feed import Feed
    from ..upscale.job import UpscaleClip, UpscaleJob
    from ..upscale.windows import Window

__all__ = [
    "FILES",
    "ShotWindows",
    "Upscaled",
    "UpscaledFilm",
    "Windows",
    "clip_frames",
    "upscaled_inputs",
    "window_files",
]

FILES = ("upscaled.mp4", "upscaled.mkv")


class Windows(Stage):
    """Makes each window as soon as its clip is there; windows do not wait for each other."""

    name = "upscale"
    folders = {"windows": ".mkv"}
    records = "window-[0-9]+"
    figures = {"upscaled_frames": as_number}

    def __init__(self, job: UpscaleJob | None) -> None:
        self.upscale = job
        self._feed: Feed | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """The studio's super-resolution model, its VAE and text encoder; interpolation needs none."""
        return () if self.upscale is None else self.upscale.parts

    def tasks(self, run: Records) -> list[Task]:
        """All windows of all clips."""
        if self.upscale is None:
            return []
        found = []
        for index, clip in enumerate(self.upscale.clips):
            asks = (clip.result,) if clip.result else ()
            windows = self.upscale.windows[clip.name]
            for (key, file), window in zip(window_files(clip, windows), windows, strict=True):
                detail = (index, window)
                found.append(Task(self.name, key, {key: (file,)}, asks, units=window.frames, detail=detail))
        return found

    def inputs(self, task: Task, run: Records) -> Mapping[str, Mapping[str, Any]]:
        """Its frames and keyframes, by the hashes of their files, and how it is made."""
        job = self._job
        clip, window = self._place(task)
        identity = clip.identity
        if clip.result:
            record = run.record(clip.result)
            identity = "" if record is None else record.outputs[clip.file]
        digests = dict(job.digests[clip.name])
        for key, (result, file) in clip.made.items():
            record = run.record(result)
            digests[key] = "" if record is None else record.outputs[file]
        return {
            task.key: {
                "source": identity,
                "frames": [window.start, window.stop],
                "keyframes": {str(key): digests[key] for key in _shown(window)},
                **job.settings,
            }
        }

    def reads(self, task: Task) -> list[str]:
        """The clip and the keyframes, where they are the film's own."""
        clip, window = self._place(task)
        own = [clip.made[key][1] for key in _shown(window) if key in clip.made]
        return [clip.file, *own] if clip.file else []

    def make(self, task: Task, workspace: Workspace) -> list[dict[str, Any]]:
        """Read the window's frames, make them larger, and write them as they come."""
        from ...media.lossless import open_lossless
        from ..upscale.feed import Feed
        from ..upscale.keyframes import read_keyframe
        from ..upscale.upscalers import upscale_window

        job = self._job
        clip, window = self._place(task)
        path = clip.path if clip.path is not None else workspace.source(clip.file)
        note = f"{clip.name}, frames {window.start} to {window.stop - 1}"
        workspace.report(0, note)
        if self._feed is None or self._feed.path != path:
            self._feed = Feed(path, None if job.source is None else job.source.times)
        frames = self._feed.read(window.start, window.stop)
        paths = dict(clip.keyframes) | {key: workspace.source(file) for key, (_, file) in clip.made.items()}
        crop = bool(clip.result)
        pictures = {key: read_keyframe(paths[key], job.target, crop=crop) for key in _shown(window)}
        count = 0
        with open_lossless(workspace.target(task.files[0]), clip.depth) as writer:
            for part in upscale_window(
                job.upscaler,
                frames,
                {key - window.start: picture for key, picture in pictures.items()},
                job.target,
                job.tiling,
                colour=job.options.colour,
                report=lambda share: workspace.report(share * window.frames, note),
                where=note,
            ):
                for frame in part:
                    writer.write(frame)
                count += len(part)
        return [{"upscaled_frames": count}]

    @property
    def _job(self) -> UpscaleJob:
        assert self.upscale is not None, "asked for tasks that it has not"
        return self.upscale

    def _place(self, task: Task) -> tuple[UpscaleClip, Window]:
        index, window = task.detail
        return self._job.clips[index], window


def _shown(window: Window) -> list[int]:
    """The keyframes that a window sees."""
    return [key for key in (window.before, *window.keyframes, window.after) if key is not None]


def window_files(clip: UpscaleClip, windows: Sequence[Window]) -> list[tuple[str, str]]:
    """The result and the file of each window of a clip."""
    return [(f"{clip.name}/window-{n}", f"windows/{clip.name}_{n:05d}.mkv") for n in range(len(windows))]


def clip_frames(job: UpscaleJob, clip: UpscaleClip, source: Any) -> Iterator[np.ndarray]:
    """The upscaled frames of a clip as codes, its windows blended where they overlap, still where the clip is still.

    Args:
        job, clip: which.
        source: gives the path of a file of the film, such as `Workspace.source`.
    """
    from ...media.lossless import read_lossless
    from ..upscale.feed import Feed
    from ..upscale.hold import hold_codes
    from ..upscale.windows import joined_windows

    windows = job.windows[clip.name]
    files: list[Path] = [source(file) for _, file in window_files(clip, windows)]
    frames = joined_windows(map(read_lossless, files), windows)
    if not job.held:
        return frames
    path = clip.path if clip.path is not None else source(clip.file)
    feed = Feed(path, None if job.source is None else job.source.times)
    small = (feed.read(n, n + 1)[0] for n in range(clip.frames))
    return hold_codes(frames, small, job.held["hold"] / 255, set(clip.cuts), {*clip.keyframes, *clip.made})


class Upscaled(Stage):
    """Joins all windows to the video, with the times, colours and sound of its source."""

    name = "join"
    files = FILES
    records = "upscaled"
    announced = False

    def __init__(self, job: UpscaleJob) -> None:
        self.job = job

    def tasks(self, run: Records) -> list[Task]:
        """The video, once all windows are there."""
        needs = tuple(key for clip in self.job.clips for key, _ in window_files(clip, self.job.windows[clip.name]))
        frames = sum(clip.frames for clip in self.job.clips)
        return [Task(self.name, "upscaled", {"upscaled": (self.job.file,)}, needs=needs, units=frames)]

    def inputs(self, task: Task, run: Records) -> Mapping[str, Mapping[str, Any]]:
        """All that its windows are made from: they need not be there any more."""
        return {task.key: upscaled_inputs(self.job)}

    def reads(self, task: Task) -> Sequence[str]:
        """All windows, and the film's own clips that they are of."""
        return _joined_files(self.job)

    def make(self, task: Task, workspace: Workspace) -> list[dict[str, Any]]:
        """Stream the windows into the encoder."""
        from ..upscale.assemble import assemble

        frames = assemble(self.job, workspace.target(self.job.file), workspace.source, workspace.report)
        return [{"upscaled_frames": frames}]


def upscaled_inputs(job: UpscaleJob) -> dict[str, Any]:
    """Everything that an upscaled video is made from, as plain JSON."""
    clips = [
        {
            "source": clip.identity,
            "windows": [[w.start, w.stop, w.overlap] for w in job.windows[clip.name]],
            "keyframes": {str(key): digest for key, digest in job.digests[clip.name].items()},
        }
        for clip in job.clips
    ]
    placed = [[place.start, place.overlap] for place in job.placed]
    return {"clips": clips, "placed": placed, **job.settings, **job.held}


def _joined_files(job: UpscaleJob) -> list[str]:
    """The film's files that the joined video is made of; clips are looked at where something is held."""
    clips = [clip.file for clip in job.clips if clip.file and job.held]
    return clips + [file for clip in job.clips for _, file in window_files(clip, job.windows[clip.name])]


class ShotWindows(Windows):
    """Makes the windows of a film's shots, if the film is to be upscaled, as soon as their clips are there."""

    def __init__(self, job: FilmJob) -> None:
        super().__init__(_of_film(job))


class UpscaledFilm(Stage):
    """Joins the upscaled shots as the film is joined, if it is to be upscaled."""

    name = "upscaled film"
    files = FILES
    records = "upscaled"
    announced = False

    def __init__(self, job: FilmJob) -> None:
        self.job = _of_film(job)

    def tasks(self, run: Records) -> list[Task]:
        """The film."""
        if self.job is None:
            return []
        keys = tuple(key for _, key, _ in self._windows())
        return [Task(self.name, "upscaled", {"upscaled": (self.job.file,)}, asks=keys)]

    def inputs(self, task: Task, run: Records) -> Mapping[str, Mapping[str, Any]]:
        """The hashes of the windows, and how they follow each other."""
        job = self._film
        found = [(run.record(key), file) for _, key, file in self._windows()]
        placed = [window for clip in job.clips for window in job.windows[clip.name]]
        inputs = {
            "windows": [record.outputs[file] for record, file in found if record is not None],
            "overlaps": [window.overlap for window in placed],
            "placed": [[place.start, place.overlap] for place in job.placed],
            "fps": str(job.rate),
            **job.held,
        }
        return {task.key: inputs}

    def reads(self, task: Task) -> Sequence[str]:
        """All windows, and the clips that they are of."""
        return _joined_files(self._film)

    def make(self, task: Task, workspace: Workspace) -> list[dict[str, Any]]:
        """Stream the windows into the encoder."""
        from ..upscale.assemble import assemble

        workspace.say("joining the upscaled film")
        job = self._film
        assemble(job, workspace.target(job.file), workspace.source, lambda done, note: None)
        return [{}]

    @property
    def _film(self) -> UpscaleJob:
        assert self.job is not None, "asked for tasks that it has not"
        return self.job

    def _windows(self) -> list[tuple[UpscaleClip, str, str]]:
        job = self._film
        return [(clip, *names) for clip in job.clips for names in window_files(clip, job.windows[clip.name])]


def _of_film(job: FilmJob) -> UpscaleJob | None:
    if job.upscale is None:
        return None
    from ..upscale.film_job import film_upscale

    return film_upscale(job)
