"""Text2Story's Time-Weighted Blending between segments (TWB, §3.2).

It draws the first latent frame of a segment towards the segment before it:

    w_i = 0.9^(N−i−1), normalised        z̃ = Σ w_i·z_i        z_0 ← γ·z_prev,last + γ·z̃ + (1 − 2γ)·z_0

The paper applies the assignment at initialisation or "recursively during sampling" without saying at which noise level.
Here it acts on the clean latents that the model predicts, which is the same as blending with latents of the matching
noise level; `blend_noise` is the initialisation. Where the model predicts what it was shown, any γ above 0 at every
step ends at (z_prev,last + z̃) / 2: γ says how fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...core.errors import InputError

__all__ = ["Blend", "blend_noise", "time_weighted"]

DECAY = 0.9
End = Literal["first", "last"]


def time_weighted(latents: Tensor, decay: float = DECAY, nearest: End = "last") -> Tensor:
    """z̃: the weighted mean of a segment's latent frames, [B, C, N, h, w] → [B, C, 1, h, w] (Eq. 1 and 2).

    Args:
        decay: weight of a frame over that of its neighbour nearer to the joint.
        nearest: the end at which the joint lies: the last frame counts most, or the first.
    """
    count = latents.shape[2]
    age = torch.arange(count, device=latents.device, dtype=torch.float32)
    w = decay ** (count - 1 - age if nearest == "last" else age)
    return (latents.float() * (w / w.sum()).view(1, 1, -1, 1, 1)).sum(2, keepdim=True)


@dataclass(frozen=True)
class Blend:
    """Draws one end of a segment towards its neighbour (Eq. 3).

    Attributes:
        neighbour: latents of the neighbouring segment, [B, C, N, h, w], clean.
        gamma: γ in 0…0.5, one number or [B].
        end: ``first`` frame towards the segment before (the paper); ``last`` towards the one after.
        until: blend only while the noise level is at least this.
    """

    neighbour: Tensor
    gamma: float | Tensor
    end: End = "first"
    until: float = 0.0
    decay: float = DECAY

    def __post_init__(self) -> None:
        low, high = (float(f(torch.as_tensor(self.gamma))) for f in (torch.min, torch.max))
        if not 0 <= low <= high <= 0.5:
            raise InputError("gamma", "must lie in 0…0.5, so that 1 − 2γ is a weight", (low, high), "0.25 is a start")
        nearest: End = "last" if self.end == "first" else "first"
        edge = self.neighbour[:, :, -1:] if nearest == "last" else self.neighbour[:, :, :1]
        pulled = self._gamma(self.neighbour) * (edge.float() + time_weighted(self.neighbour, self.decay, nearest))
        object.__setattr__(self, "_pulled", pulled)

    @property
    def idle(self) -> bool:
        """Whether γ is 0 everywhere, so that nothing changes."""
        return float(torch.as_tensor(self.gamma).max()) == 0

    def __call__(self, x0: Tensor, t: float = 1.0) -> Tensor:
        """Blend clean latents [B, C, F, h, w] predicted at noise level t; a new tensor, other frames as they are."""
        if self.idle or t < self.until:
            return x0
        at = 0 if self.end == "first" else x0.shape[2] - 1
        x0 = x0.clone()
        pulled: Tensor = self._pulled  # type: ignore[attr-defined]
        x0[:, :, at : at + 1] = pulled.to(x0) + (1 - 2 * self._gamma(x0)) * x0[:, :, at : at + 1]
        return x0

    def _gamma(self, like: Tensor) -> Tensor:
        return torch.as_tensor(self.gamma, device=like.device, dtype=torch.float32).reshape(-1, 1, 1, 1, 1)


def blend_noise(noise: Tensor, blend: Blend) -> Tensor:
    """The initialisation of §3.2: the assignment on the noise that a segment starts from.

    The blended frame then has a smaller variance than noise, as in the paper; sampling with `Blend` at every step does
    not change the noise.
    """
    return blend(noise, 1.0)
