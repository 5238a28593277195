"""Any backbone that makes video from text, as a story uses it: prompts in, one chunk of video out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.errors import InputError
from ...models.backbones import Backbone
from ...models.encoders.text_cond import TextCond
from ...models.encoders.vae import VideoCodec
from ...models.layouts.chunks import ChunkModel, Experts, VideoPlan, VideoSettings, latent_length, pad_text
from ..flow import Callback, X0Transform, flow_sigmas
from ..video import denoise
from .prompt_mixing import zero_padded

if TYPE_CHECKING:
    from ...models.encoders.text import TextEncoder

__all__ = ["TextToVideoModel"]


@dataclass
class TextToVideoModel:
    """Text to video with one backbone, see `segments.TextToVideo`.

    Attributes:
        backbone: what the model is: it says how text is read, the noise levels, and how long a video may be.
        model: the velocity network, or two experts.
        vae, text: its VAE and text encoder.
        frames: length of a segment, temporal_stride · n + 1.
        size: (height, width) in pixels.
        settings: steps, shift, guidance, length of the text.
        negative: the prompt that guidance leads away from.
    """

    backbone: Backbone
    model: ChunkModel | Experts
    vae: VideoCodec
    text: TextEncoder
    frames: int
    size: tuple[int, int]
    settings: VideoSettings = VideoSettings()
    negative: str = ""

    def __post_init__(self) -> None:
        self._latents = latent_length(self.frames, "frames", self.backbone.temporal_stride)
        least, steps = self.backbone.min_steps, self.settings.steps
        if steps < least:
            raise InputError("steps", f"must be at least {least} for {self.backbone.title}", steps, "use more")

    @property
    def temporal_stride(self) -> int:
        """Frames of a latent frame."""
        return self.backbone.temporal_stride

    @property
    def sigmas(self) -> Tensor:
        """Noise levels 1 … 0, the backbone's own or `flow_sigmas`."""
        own = self.backbone.schedule
        return (
            flow_sigmas(self.settings.steps, self.settings.shift)
            if own is None
            else torch.tensor(own()(self.settings.steps))
        )

    def encode(self, prompts: Sequence[str]) -> TextCond:
        """Token states as the backbone was trained to read them: masked, or filled up with zeros."""
        cond = self.text.encode(list(prompts))
        if self.backbone.masked_text:
            return cond
        tokens = pad_text(cond.tokens, cond.mask, self.settings.text_length)
        mask = pad_text(cond.mask[..., None], None, self.settings.text_length)[..., 0]
        return TextCond(tokens, mask, cond.pooled)

    def denoise(
        self,
        text: Callable[[float], TextCond],
        batch: int,
        generator: torch.Generator | list[torch.Generator] | None,
        *,
        sigmas: Tensor | None = None,
        clean_latents: Tensor | None = None,
        start: Callable[[Tensor], Tensor] | None = None,
        x0_transform: X0Transform | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """See `segments.TextToVideo`; clean latents are pinned at t = 0 (SmartDirector §3.2).

        Raises:
            InputError: clean latents for a backbone that takes text alone.
        """
        h, w = (side // self.vae.spatial_compression for side in self.size)
        if clean_latents is None:
            clean_latents = torch.zeros(batch, self.vae.latent_channels, 0, h, w)
        if clean_latents.shape[2] and "video" not in self.backbone.tasks:
            rule = f"must be empty: {self.backbone.title} takes text alone"
            raise InputError("clean_latents", rule, list(clean_latents.shape), "use a model that takes keyframes")
        negative = None
        if self.settings.guided:
            negative = self._network_text(self.encode([self.negative]).expand(batch))
        return denoise(
            self.model,
            lambda t: self._network_text(text(t)),
            VideoPlan("multi_chunk", [self._latents], list(range(clean_latents.shape[2])), self.frames),
            clean_latents.expand(batch, *clean_latents.shape[1:]),
            self.sigmas if sigmas is None else sigmas,
            negative=negative,
            guidance=self.settings.guidance,
            generator=generator,
            start=start,
            x0_transform=x0_transform,
            callback=callback,
        )

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Frames [B, t, 3, H, W] in 0…1, part by part."""
        return self.vae.decode_stream(latents)

    def _network_text(self, text: TextCond) -> TextCond | Tensor:
        return text if self.backbone.masked_text else zero_padded(text)
