"""The studio's super-resolution model as an `Upscaler` (SmartDirector §3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from ...sampling.flow import Step
from ...sampling.super_resolution import upscale_clip
from .tiles import Size
from .upscalers import Report

if TYPE_CHECKING:
    from ...models.encoders.text_cond import TextCond
    from ...models.studio import Studio

__all__ = ["ModelUpscaler"]


class ModelUpscaler:
    """Makes frames larger by the studio's model, as `defaults.upscale` says.

    Args:
        studio: the models; they are loaded when the first window is made.
    """

    reach = 0  # it sees all of a tile: what tiles share is blended
    keeps_colour = False

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._text: TextCond | None = None

    @property
    def align(self) -> int:
        """Whole tokens in both sizes."""
        return int(self._studio.upscale_vae.spatial_compression) * max(self._studio.upscale.config.patch_size[1:])

    def __call__(self, frames: Tensor, keyframes: Mapping[int, Tensor], size: Size, report: Report) -> Iterator[Tensor]:
        """One window or tile, from its low-resolution latents; see `sampling.super_resolution.upscale_clip`."""
        studio, settings = self._studio, self._studio.defaults.upscale
        if self._text is None:
            self._text = studio.upscale_text.encode([settings.prompt])
        count = len(frames)

        def callback(step: Step) -> None:
            report((step.index + 1) / settings.steps)

        parts = upscale_clip(
            studio.upscale,
            studio.upscale_vae,
            self._text,
            frames,
            {key: picture for key, picture in keyframes.items() if 0 <= key < count},
            size,
            settings.sampling,
            before=[picture for key, picture in keyframes.items() if key < 0],
            after=[picture for key, picture in keyframes.items() if key >= count],
            callback=callback,
        )
        for part in parts:
            yield part.float().cpu()
