"""Mochi 1's transformer as a velocity network over video latents (diffusers' class)."""

from __future__ import annotations

from typing import cast

from diffusers import MochiTransformer3DModel
from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule
from torch import Tensor

from ...encoders.text_cond import TextCond

__all__ = ["ChunkMochi", "schedule"]

THRESHOLD = 0.025
"""Noise that Mochi's schedule takes away in its first, even half."""


class ChunkMochi(MochiTransformer3DModel):
    """diffusers' Mochi transformer that speaks of velocity and t as the samplers do; the stock forward is unchanged."""

    _repeated_blocks = MochiTransformer3DModel._no_split_modules  # diffusers names none

    @classmethod
    def adopt(cls, model: MochiTransformer3DModel) -> ChunkMochi:
        """Turn a loaded stock model into a `ChunkMochi` in place."""
        model.__class__ = cls
        return cast("ChunkMochi", model)

    def forward_chunks(
        self, latents: Tensor, timestep: Tensor, text: TextCond, rope_index: Tensor | None = None
    ) -> Tensor:
        """Velocity noise − data of a video of one chunk, fp32.

        Args:
            latents: `[B, C, F, h, w]`.
            timestep: `[B, F]` in 0…1, the same for all frames of a row: Mochi has one for a video.
            text: `[B, T, D]` with its mask; one row serves a batch.
            rope_index: not used: Mochi learned its positions.
        """
        batch, dtype = len(latents), self.dtype
        text = text.to(latents.device)
        out = self(
            hidden_states=latents.to(dtype),
            encoder_hidden_states=text.tokens.to(dtype).expand(batch, -1, -1),
            timestep=(1000 * (1 - timestep[:, 0].double())).float(),  # its time runs from noise to data
            encoder_attention_mask=text.mask.expand(batch, -1),
            return_dict=False,
        )
        return -out[0].float()


def schedule(steps: int) -> list[float]:
    """Mochi's noise levels, 1 … 0: even at first, then quadratic."""
    return [*linear_quadratic_schedule(steps, THRESHOLD), 0.0]
