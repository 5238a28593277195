"""Eq. 5 as a step of training: a flow from low-resolution latents to high-resolution ones, without noise (§3.3)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ...models.layouts.chunks import frame_timesteps, mc_index
from ..objectives import FlowInputs
from ..processes import Share

__all__ = ["BridgeConditions", "KeyframeChances", "bridge_inputs", "draw_times", "predict", "share_rows"]


class BridgeConditions(NamedTuple):
    """What the model wants beside latents: times [N, F], 0 at keyframes; text states [N, T, D]; latent frames of each
    chunk.
    """

    times: Tensor
    text: Tensor
    latent_chunks: list[int]


@dataclass(frozen=True)
class KeyframeChances:
    """How many of a clip's keyframes are given at high resolution: all, none, or each with an even chance."""

    all: float = 0.55
    none: float = 0.2

    def draw(self, places: Sequence[int], rng: random.Random) -> list[int]:
        """Those of `places` that are given."""
        way = rng.random()
        chance = 1.0 if way < self.all else 0.0 if way < self.all + self.none else 0.5
        return [place for place in places if rng.random() < chance]


def draw_times(count: int, at_start: float, rng: random.Random) -> list[float]:
    """Times of a batch's rows: 1, where every sampler starts, for a share of them, and even ones below."""
    return [1.0 if rng.random() < at_start else rng.uniform(0.02, 1) for _ in range(count)]


def bridge_inputs(
    high: Tensor, low: Tensor, text: Tensor, latent_chunks: list[int], pinned: Sequence[int], t: Tensor
) -> FlowInputs:
    """A step's inputs: z_t = (1 − t)·z_HR + t·z_LR, and v = z_LR − z_HR is learned off the keyframes, which are z_HR.

    Args:
        high: z_HR [N, C, F, h, w].
        low: z_LR in the same size, see `upscale_latents`.
        text: token states [N, T, D].
        latent_chunks: of F.
        pinned: latent frames that are keyframes.
        t: [N].
    """
    times = frame_timesteps(t, pinned, high.shape[2])
    at = times[:, None, :, None, None]
    return FlowInputs(high, low, at, (at > 0).to(high), BridgeConditions(times, text, latent_chunks))


def predict(model: Any, z: Tensor, inputs: FlowInputs) -> Tensor:
    """The model's velocity at z_t."""
    times, text, latent_chunks = inputs.conditions
    return model.forward_chunks(z, times, text, mc_index(latent_chunks))


def share_rows(inputs: FlowInputs, share: Share) -> FlowInputs:
    """A process's rows of a batch."""
    rows = share.rows(len(inputs.clean), "clips")
    times, text, latent_chunks = inputs.conditions
    clean, noise, t, weight = (rows.of(x) for x in inputs[:4])
    return FlowInputs(clean, noise, t, weight, BridgeConditions(rows.of(times), rows.of(text), latent_chunks))
