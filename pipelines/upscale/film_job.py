"""The upscaling of a film that is being made: its clips, each with the sharp keyframes that there are of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...media.image import open_image
from ..stages.clips import clip_file
from ..stages.join import placed_clips
from ..stages.keyframes import keyframe_file
from .job import UpscaleClip, UpscaleJob, UpscaleOptions
from .target import target_size

if TYPE_CHECKING:
    from ...story.shot import Shot
    from ..job import FilmJob

__all__ = ["FilmUpscale", "film_upscale"]


@dataclass(frozen=True)
class FilmUpscale:
    """How much larger a film is made, and how.

    Attributes:
        scale: factor.
        options: method, windows, tiles.
        sharp: make the keyframes at the large size; the video model gets them smaller (SmartDirector §3.3).
    """

    scale: float
    options: UpscaleOptions
    sharp: bool = False


def film_upscale(job: FilmJob) -> UpscaleJob | None:
    """What there is to upscale of a film; None where nobody asks for it.

    A keyframe counts where it is larger than the film: one that was made so, or a picture of the user's as it is.

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
        made = wanted.sharp
        clip = UpscaleClip(
            shot.id,
            job.frames(position),
            size,
            file,
            result=result,
            keyframes={} if made else _pictures(job, shot),
            made=_made(job, shot) if made else {},
        )
        clips.append(clip)
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


def _made(job: FilmJob, shot: Shot) -> dict[int, tuple[str, str]]:
    """The result and the file of each of a shot's keyframes, by the frame that it is snapped to."""
    frames = shot.timeline(job.story.fps).keyframe_frames
    return {frame: (f"{shot.id}/keyframe-{index}", keyframe_file(shot, index)) for index, frame in enumerate(frames)}
