"""Self-attention within a neighbourhood of latent frames: near ones, and the nearest keyframes. Both hosts use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .chunks import VideoPlan

__all__ = ["Neighbourhood", "attend_near", "neighbourhood"]


@dataclass(frozen=True)
class Neighbourhood:
    """Which latent frames a latent frame attends to (ours, not the paper's).

    Near ones on both sides, and the nearest keyframe before and behind it, however far. A keyframe attends to itself
    alone: it is given, and has nothing to learn. So what lies beyond the keyframes around a latent changes nothing in
    it, and a clip can be cut there. Full attention grows with the square of a window's length; this with the length.

    Attributes:
        latents: F.
        near: how many on each side.
        keyframes: positions of the given ones.
    """

    latents: int
    near: int
    keyframes: tuple[int, ...] = ()

    def visible(self, i: int) -> list[int]:
        """Positions that latent frame i attends to, itself among them, ascending."""
        if i in self.keyframes:
            return [i]
        before, behind = ([k for k in self.keyframes if (k < i) is side] for side in (True, False))
        nearest = {*sorted(before)[-1:], *sorted(behind)[:1]}
        return sorted({*range(max(0, i - self.near), min(self.latents, i + self.near + 1)), *nearest})

    @property
    def runs(self) -> list[tuple[slice, list[slice]]]:
        """Successive latent frames that see the same, and what they see, in runs of successive frames."""
        out: list[tuple[slice, list[int]]] = []
        for i in range(self.latents):
            seen = self.visible(i)
            if out and out[-1][1] == seen:
                out[-1] = (slice(out[-1][0].start, i + 1), seen)
            else:
                out.append((slice(i, i + 1), seen))
        return [(frames, _slices(seen)) for frames, seen in out]

    @property
    def pairs(self) -> int:
        """Pairs of latent frames that meet; full attention has F²."""
        return sum(len(self.visible(i)) for i in range(self.latents))


def neighbourhood(plan: VideoPlan, near: int | None) -> Neighbourhood | None:
    """The neighbourhood of a video's latents, the pinned ones its keyframes; None where all see all."""
    if near is None:
        return None
    found = Neighbourhood(plan.latents, near, tuple(plan.pinned))
    return None if found.pairs == plan.latents**2 else found


def _slices(positions: Sequence[int]) -> list[slice]:
    out: list[slice] = []
    for i in positions:
        if out and out[-1].stop == i:
            out[-1] = slice(out[-1].start, i + 1)
        else:
            out.append(slice(i, i + 1))
    return out


def attend_near(
    attention: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor, near: Neighbourhood
) -> Tensor:
    """Self-attention within a neighbourhood, as dense calls: no mask of all tokens by all tokens is made.

    Args:
        attention: any full attention.
        q, k, v: `[B, F · tokens, …]`, the tokens of one latent frame after those of another.
        near: who sees whom.
    """
    tokens = q.shape[1] // near.latents

    def take(x: Tensor, frames: slice) -> Tensor:
        return x[:, frames.start * tokens : frames.stop * tokens]

    def gather(x: Tensor, seen: list[slice]) -> Tensor:
        return take(x, seen[0]) if len(seen) == 1 else torch.cat([take(x, frames) for frames in seen], dim=1)

    parts = [attention(take(q, frames), gather(k, seen), gather(v, seen)) for frames, seen in near.runs]
    return torch.cat(parts, dim=1)
