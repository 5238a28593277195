"""Flow matching: the noise schedule and the solvers that samplers here use.

z_t = (1 − t)·data + t·noise and v = noise − data (SmartDirector §3.1), with t falling from 1 to 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import InputError

__all__ = [
    "SOLVERS",
    "Callback",
    "Solver",
    "SolverName",
    "Step",
    "Velocity",
    "X0Transform",
    "check_sigmas",
    "dpmpp_2m",
    "dynamic_shift",
    "euler",
    "flow_sigmas",
    "guided",
    "heun",
    "with_x0_transform",
]

Velocity = Callable[[Tensor, float], Tensor]
"""A function (x, t) → v: `x` any shape, t in 0…1, v of x's shape."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a callback sees after a solver step."""

    index: int
    """Number of this step, 0 … steps − 1."""
    steps: int
    """How many steps there are."""
    t: float
    """Noise level at which the model was asked, 1 … 0."""
    x: Tensor
    """State after this step."""
    x0: Tensor
    """The denoised data that the model predicts here, x_t − t·v: good for a preview."""


X0Transform = Callable[[Tensor, float], Tensor]
"""A function (x0, t) → x0 that changes the predicted data; it returns the same tensor to leave it alone."""

Callback = Callable[[Step], None]
"""Called after every step. To cancel, raise: no solver keeps state of its own, so nothing is left half done."""


def flow_sigmas(steps: int, shift: float = 1.0) -> Tensor:
    """Noise levels t_0 = 1 … t_steps = 0, `[steps + 1]` fp32 on the CPU.

    `shift` s bends the even grid towards high noise: t ← s·t / (1 + (s − 1)·t). 1 leaves it even; video models
    use 3 (480p) to 5 (720p), image models `dynamic_shift`.

    Raises:
        InputError: `steps` is below 1, or `shift` is not a positive number.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError("steps", "must be a whole number of at least 1", steps, "use 20 to 50")
    if not (math.isfinite(shift) and shift > 0):
        raise InputError("shift", "must be a positive number", shift, "use 1 (even steps) to 12")
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return (shift * t / (1 + (shift - 1) * t)).float()


def check_sigmas(sigmas: Sequence[float], field: str = "sigmas") -> Tensor:
    """A schedule of one's own as `[steps + 1]` fp32 on the CPU.

    Raises:
        InputError: it does not fall from 1 to 0, every level below the one before.
    """
    levels = list(sigmas)
    numbers = all(isinstance(t, int | float) and not isinstance(t, bool) and math.isfinite(t) for t in levels)
    if not numbers or len(levels) < 2 or levels[0] != 1 or levels[-1] != 0 or any(b >= a for a, b in pairwise(levels)):
        raise InputError(field, "must fall from 1 to 0, one number a level", levels, "write e.g. [1, 0.9, 0.6, 0]")
    return torch.tensor(levels, dtype=torch.float64).float()


def dynamic_shift(
    tokens: int, *, base_tokens: int = 256, max_tokens: int = 4096, base_mu: float = 0.5, max_mu: float = 1.15
) -> float:
    """The usual shift for ONE image of `tokens` latent tokens: exp(μ), μ linear in the token count.

    Count the tokens of a single frame, never of a packed sequence of frames: the shift answers to how much
    detail one image has, and a long context must not push its frames towards high noise.
    """
    slope = (max_mu - base_mu) / (max_tokens - base_tokens)
    return math.exp(base_mu + slope * (tokens - base_tokens))


def with_x0_transform(velocity: Velocity, transform: X0Transform | None) -> Velocity:
    """The velocity that leads to the transformed x0: v + (x0 − f(x0)) / t. Where x0 stays, v keeps every bit."""
    if transform is None:
        return velocity

    def transformed(x: Tensor, t: float) -> Tensor:
        v = velocity(x, t)
        x0 = x - t * v
        wanted = transform(x0, t)
        return v if wanted is x0 else v + (x0 - wanted) / t

    return transformed


def guided(velocity: Velocity, against: Velocity, scale: float) -> Velocity:
    """Classifier-free guidance: v∅ + scale·(v − v∅), v∅ from `against`; 1 never asks it."""
    if scale == 1:
        return velocity

    def away(x: Tensor, t: float) -> Tensor:
        empty = against(x, t)
        return empty + scale * (velocity(x, t) - empty)

    return away


def euler(velocity: Velocity, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """Follow dx/dt = v(x, t) along `sigmas` with Euler steps; deterministic.

    `x` stays in the dtype it comes in: give fp32, or bf16 rounding eats the small last steps. Wherever the velocity is
    exactly 0, x keeps its value to the last bit; keyframes are pinned that way.
    """
    levels = sigmas.tolist()
    for i, (t, t_next) in enumerate(pairwise(levels)):
        v = velocity(x, t)
        x, x0 = x + (t_next - t) * v, x - t * v
        if callback is not None:
            callback(Step(i, len(levels) - 1, t, x, x0))
    return x


def heun(velocity: Velocity, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """The same with Heun's steps: the mean of the velocity here and at the end of an Euler step (Karras et al. 2022).

    Second order; every step but the last asks the model twice. The callback sees the first answer.
    """
    levels = sigmas.tolist()
    for i, (t, t_next) in enumerate(pairwise(levels)):
        v = velocity(x, t)
        x0, mean = x - t * v, v
        if t_next > 0:
            mean = (v + velocity(x + (t_next - t) * v, t_next)) / 2
        x = x + (t_next - t) * mean
        if callback is not None:
            callback(Step(i, len(levels) - 1, t, x, x0))
    return x


def dpmpp_2m(velocity: Velocity, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """The same with DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2): x0 extrapolated from the last two answers.

    Second order at one answer a step. Time is −log t, as in ComfyUI's `dpmpp_2m`; the first and the last step are
    Euler's.
    """
    levels = sigmas.tolist()
    last: tuple[float, Tensor] | None = None
    for i, (t, t_next) in enumerate(pairwise(levels)):
        x0 = x - t * velocity(x, t)
        ahead = x0
        if last is not None and t_next > 0:
            half = math.log(t / t_next) / math.log(last[0] / t) / 2
            ahead = (1 + half) * x0 - half * last[1]
        x, last = (t_next / t) * x + (1 - t_next / t) * ahead, (t, x0)
        if callback is not None:
            callback(Step(i, len(levels) - 1, t, x, x0))
    return x


Solver = Callable[[Velocity, Tensor, Tensor, Callback | None], Tensor]
SolverName = Literal["euler", "heun", "dpmpp_2m"]
SOLVERS: Mapping[SolverName, Solver] = MappingProxyType({"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m})
"""Solvers by the names that ComfyUI gives them, too."""
