"""Mochi 1 as a story's text-to-video model: what Text2Story was published with (§4.1: 64 steps, guidance 4.5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from diffusers import MochiTransformer3DModel
from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule
from diffusers.utils.torch_utils import get_module_execution_device, randn_tensor
from torch import Tensor

from ...core.errors import InputError
from ...models.backbones.mochi.vae import MOCHI_GRID, MochiVAE, mochi_latents
from ...models.encoders.text_cond import TextCond
from ..flow import Callback, Edit, edited, euler

if TYPE_CHECKING:
    from ...models.encoders.text import TextEncoder

__all__ = ["MochiStory"]

THRESHOLD = 0.025
"""Noise that Mochi's schedule takes away in its first, even half."""


@dataclass
class MochiStory:
    """Text to video with Mochi, see `story.TextToVideo`.

    The model's v is data − noise and its time runs up from noise; here both are turned round, as everywhere else.

    Attributes:
        grid: a segment has grid · n + 1 frames.
        fps: frames a second that the model was made for, as `size` and at most `frames`.
        model, vae, text: Mochi's parts; T5's padding is masked.
        frames: length of a segment, 6n+1.
        size: (height, width) in pixels.
        steps, guidance, negative: as in the paper.
    """

    grid: ClassVar[int] = MOCHI_GRID
    fps: ClassVar[int] = 30
    model: MochiTransformer3DModel
    vae: MochiVAE
    text: TextEncoder
    frames: int = 163
    size: tuple[int, int] = (480, 848)
    steps: int = 64
    guidance: float = 4.5
    negative: str = ""

    def __post_init__(self) -> None:
        self._latents = mochi_latents(self.frames)
        if self.steps < 2:
            raise InputError("steps", "must be at least 2", self.steps, "64 are the paper's")

    @property
    def sigmas(self) -> Tensor:
        """Mochi's schedule: even at first, then quadratic."""
        return torch.tensor([*linear_quadratic_schedule(self.steps, THRESHOLD), 0.0])

    def encode(self, prompts: Sequence[str]) -> TextCond:
        """T5 states, zeros and masked at padding."""
        return self.text.encode(list(prompts))

    @torch.no_grad()
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
        """See `story.TextToVideo`.

        Raises:
            InputError: `given` latents, which Mochi has no way to take.
        """
        if given is not None and given.shape[2]:
            raise InputError("given", "must be empty: Mochi takes text alone", list(given.shape), "use a Wan model")
        h, w = (side // self.vae.image_size_multiple for side in self.size)
        device = get_module_execution_device(self.model)  # also when weights are offloaded
        shape = (rows, self.vae.latent_channels, self._latents, h, w)
        z = randn_tensor(shape, generator, device, torch.float32)
        z = z if start is None else start(z)
        empty = self.encode([self.negative]) if self.guidance != 1 else None

        def velocity(z: Tensor, t: float) -> Tensor:
            v = self._v(z, t, text(t))
            if empty is not None:
                v_empty = self._v(z, t, empty)
                v = v_empty + self.guidance * (v - v_empty)
            return v

        return euler(edited(velocity, edit), z, self.sigmas if sigmas is None else sigmas, callback)

    def decode(self, latents: Tensor) -> Iterator[Tensor]:
        """Frames [B, t, 3, H, W] in 0…1, part by part."""
        return self.vae.decode_stream(latents)

    def _v(self, z: Tensor, t: float, text: TextCond) -> Tensor:
        rows, dtype = len(z), self.model.dtype
        words = text.to(z.device)
        out = self.model(
            hidden_states=z.to(dtype),
            encoder_hidden_states=words.tokens.to(dtype).expand(rows, -1, -1),
            timestep=torch.full((rows,), 1000 * (1 - t), device=z.device),
            encoder_attention_mask=words.mask.expand(rows, -1),
            return_dict=False,
        )
        return -out[0].float()
