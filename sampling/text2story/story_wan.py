"""The Wan class as a story's text-to-video model (the pocket studio's, Wan 2.1, Wan 2.2 with one or two experts)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ...models.backbones.wan.headless import DirectorWan
from ...models.encoders.text_cond import TextCond
from ...models.encoders.vae import VideoVAE
from ...models.layouts.chunks import VideoPlan, latent_length, pad_text
from ...story.timeline import GRID
from ..flow import Callback, Edit, flow_sigmas
from ..video import Experts, denoise
from .prompt_mixing import zero_padded

if TYPE_CHECKING:
    from ...models.encoders.text import TextEncoder

__all__ = ["WanStory"]


@dataclass
class WanStory:
    """Text to video with a Wan-class model, see `story.TextToVideo`.

    Attributes:
        grid: a segment has grid · n + 1 frames.
        model: `DirectorWan`, or Wan 2.2's two experts.
        vae, text: its VAE and text encoder.
        frames: length of a segment, 4n+1.
        size: (height, width) in pixels.
        steps, shift: see `flow_sigmas`.
        text_length: fill texts up with zeros to this many tokens, as the model was trained (512 for the public ones).
        guidance, negative: classifier-free guidance; 1 leaves it out.
    """

    grid: ClassVar[int] = GRID
    model: DirectorWan | Experts
    vae: VideoVAE
    text: TextEncoder
    frames: int
    size: tuple[int, int]
    steps: int = 30
    shift: float = 5.0
    text_length: int | None = None
    guidance: float | tuple[float, float] = 1.0
    negative: str = ""

    def __post_init__(self) -> None:
        self._latents = latent_length(self.frames, "frames")

    @property
    def sigmas(self) -> Tensor:
        return flow_sigmas(self.steps, self.shift)

    def encode(self, prompts: Sequence[str]) -> TextCond:
        """Token states filled up as the model was trained."""
        cond = self.text.encode(list(prompts))
        tokens = pad_text(cond.tokens, cond.mask, self.text_length)
        mask = pad_text(cond.mask[..., None], None, self.text_length)[..., 0]
        return TextCond(tokens, mask, cond.pooled)

    def denoise(
        self,
        text: Callable[[float], TextCond],
        rows: int,
        generator: torch.Generator | list[torch.Generator] | None,
        *,
        sigmas: Tensor | None = None,
        given: Tensor | None = None,
        start: Callable[[Tensor], Tensor] | None = None,
        edit: Edit | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """See `story.TextToVideo`; given latents are pinned at t = 0 (SmartDirector §3.2)."""
        h, w = (side // self.vae.image_size_multiple for side in self.size)
        if given is None:
            given = torch.zeros(rows, self.vae.latent_channels, 0, h, w)
        guided = self.guidance not in (1, (1, 1))
        return denoise(
            self.model,
            lambda t: zero_padded(text(t)),
            VideoPlan("multi_chunk", [self._latents], list(range(given.shape[2])), self.frames),
            given.expand(rows, *given.shape[1:]),
            self.sigmas if sigmas is None else sigmas,
            negative=self.encode([self.negative]).tokens.expand(rows, -1, -1) if guided else None,
            guidance=self.guidance,
            generator=generator,
            start=start,
            edit=edit,
            callback=callback,
        )

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Frames [B, t, 3, H, W] in 0…1."""
        return self.vae.decode_chunks(latents, [latents.shape[2]])
