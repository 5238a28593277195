"""The upscaling of a film that is being made: its clips, each with the sharp keyframes that there are of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...media.image import open_image
from ..stages.clips import clip_file
from ..stages.join import placed_clips
from .job import UpscaleClip, UpscaleJob, UpscaleOptions
from .target import target_size

if TYPE_CHECKING:
    from ...story.shot import Shot
    from ..job import FilmJob

__all__ = ["FilmUpscale", "film_upscale"]


@dataclass(frozen=True)
class FilmUpscale:
    """How much larger a film is made, and how."""

    scale: float
    options: UpscaleOptions


def film_upscale(job: FilmJob) -> UpscaleJob | None:
    """What there is to upscale of a film; None where nobody asks for it.

    A keyframe counts where it is larger than the film: a picture of the user's, as it is.

    Raises:
        InputError: a scale that gives no whole pixels, or a picture that cannot be read.
    """
    wanted = job.upscale
    if wanted is None:
        return None
    size = job.story.frame_size
    clips = []
    for position in job.chosen:
        shot = job.story.shots[position]
        file, result = clip_file(shot), f"{shot.id}/clip"
        keyframes = _pictures(job, shot)
        clips.append(UpscaleClip(shot.id, job.frames(position), size, file, result=result, keyframes=keyframes))
    target = target_size(size, wanted.scale)
    return UpscaleJob(clips, placed_clips(job), target, job.story.rate, job.studio, wanted.options)


def _pictures(job: FilmJob, shot: Shot) -> dict[int, Path]:
    """The user's own pictures of a shot that are larger than the film, by the frame that they are snapped to."""
    height, width = job.story.frame_size
    found = {}
    for keyframe, placed in zip(shot.keyframes, shot.timeline(job.story.fps).keyframes, strict=True):
        path = job.story.image_path(keyframe)
        if path is None:
            continue
        with open_image(path) as picture:
            if picture.width > width and picture.height > height:
                found[placed.frame] = path
    return found
