"""The windows of all clips, joined to one video: streamed, whatever its length."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from ...core.errors import InputError
from ...media.lossless import pixels_of
from ...media.source_video import SourceVideo
from ...media.target_video import open_target
from ...media.video import open_writer
from ..join import joined_frames
from ..stages.upscale import clip_frames
from .job import UpscaleJob

__all__ = ["assemble", "container_for"]


def assemble(job: UpscaleJob, path: Path, source: Callable[[str], Path], report: Callable[[float, str], None]) -> int:
    """Write the upscaled video to `path`; it appears whole. Returns its number of frames.

    A video keeps the times of its frames, its colours' tags and its sound; the clips of a film follow each other as
    in the film.

    Args:
        job: which; all windows are there.
        path: the file.
        source: gives the path of a window.
        report: told how many frames are written.
    """
    frames = joined_frames((clip_frames(job, clip, source) for clip in job.clips), job.placed)
    count = 0
    if job.source is None:
        with open_writer(path, job.rate) as plain:
            for count, codes in enumerate(frames, 1):
                plain.write_array(codes)
                report(count, path.name)
        return count
    known = job.source
    last = itertools.repeat(Fraction(0), known.frames - 1)
    durations = itertools.chain(last, [known.base * known.last])
    with open_target(path, SourceVideo(known.path, times=known.times), job.target) as writer:
        for codes, tick, duration in zip(frames, known.ticks, durations, strict=True):
            writer.write(pixels_of(codes), known.base * tick, duration)
            count += 1
            report(count, path.name)
    return count


def container_for(source: SourceVideo) -> str:
    """The suffix of a container that holds the sound of `source`, ``.mp4`` if that does.

    Found out by writing one frame, before hours of work.
    """
    frame = next(source.frames())
    with tempfile.TemporaryDirectory() as folder:
        try:
            with open_target(Path(folder, "trial.mp4"), source) as writer:
                writer.write(frame.pixels, frame.time, frame.duration)
        except InputError:
            return ".mkv"
    return ".mp4"
