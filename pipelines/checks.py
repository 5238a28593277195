"""What every film is refused for before it is begun: unusable model files, and sizes that the models cannot make."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.errors import InputError
from ..models.studio_files import PARTS
from ..story.storyboard import Storyboard

if TYPE_CHECKING:
    from ..models.encoders.vae import ImageCodec
    from ..models.studio import Studio
    from .job import FilmJob

__all__ = ["check_size", "check_upscale", "prove"]


def prove(studio: Studio, *parts: str) -> None:
    """Refuse, with an `InputError`, model files that cannot be used, before a film is begun.

    Headers, shapes and settings of all `parts` (see `Studio.check`; all by default) are read. The models of a tiny
    studio are loaded, too, which costs next to nothing and leaves nothing to be found out later.
    """
    studio.check(*parts)
    if studio.is_tiny(*parts):
        for part in parts or PARTS:
            getattr(studio, part)


def check_size(story: Storyboard, studio: Studio, *vaes: ImageCodec) -> None:
    """Refuse, with an `InputError`, frames that the studio's models cannot make with these of its VAEs."""
    side = max(vae.pixels_per_token for vae in vaes)
    width, height = story.size
    if width % side or height % side:
        near = [max(side, round(value / side) * side) for value in (width, height)]
        rule = f"must be multiples of {side} for the studio {studio.name}"
        raise InputError("size", rule, list(story.size), f"use {near}")


def check_upscale(job: FilmJob) -> None:
    """Refuse, with an `InputError`, a film that cannot be upscaled as is asked, before anything is made."""
    from .upscale.film_job import film_upscale

    if job.upscale is not None and job.upscale.options.method == "model":
        job.studio.check_task("upscale")
        prove(job.studio, *job.studio.upscale_parts)
    if job.upscale is not None and job.upscale.sharp:
        side = job.studio.image_vae.pixels_per_token
        height, width = job.keyframe_size
        if height % side or width % side:
            rule = f"must make keyframes of multiples of {side} pixels for the studio {job.studio.name}"
            raise InputError("--upscale", rule, f"{width}×{height}", "use e.g. 2")
    larger = film_upscale(job)  # its size and its pictures
    if larger is not None:
        try:
            larger.tiles(job.story.frame_size)
        except InputError as error:
            field, file = f"defaults.upscale.{error.field}", job.studio.file.name
            raise InputError(field, error.rule, error.value, error.fix, file) from None
