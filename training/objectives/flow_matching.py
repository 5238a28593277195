"""Flow matching on straight lines from data to noise (Lipman et al. 2023; rectified flow, Liu et al. 2023).

x_t = (1 − t) · data + t · noise, and the model predicts the velocity noise − data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from .objective import Ratio, mean_of

__all__ = ["FlowInputs", "FlowMatching", "flow_error", "interpolate", "velocity"]


class FlowInputs(NamedTuple):
    """Inputs of a flow matching step.

    Attributes:
        clean: data [N, …].
        noise: of the same shape.
        t: times in 0…1, in a shape that broadcasts to `clean`; 0 keeps an element clean.
        weight: weight of each element's error, in a shape that broadcasts to `clean`; 0 where nothing is to be learned.
        conditions: whatever else the model wants.
    """

    clean: Tensor
    noise: Tensor
    t: Tensor
    weight: Tensor
    conditions: Any = None


def interpolate(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 − t) · clean + t · noise; `t` broadcasts."""
    return (1 - t) * clean + t * noise


def velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """What the model should predict at any x_t: dx_t / dt = noise − clean."""
    return noise - clean


def flow_error(prediction: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Ratio]:
    """Squared error of every element in fp32, and its mean weighted by `weight`, which broadcasts to it."""
    error = (prediction.float() - target).square()
    return error, Ratio((error * weight).sum(), weight.sum() * (error.numel() // weight.numel()))


class FlowMatching:
    """Weighted flow matching (an `Objective` of `FlowInputs`).

    Args:
        predict: (model, x_t, inputs) → velocity of the shape of x_t.
    """

    def __init__(self, predict: Callable[[Any, Tensor, FlowInputs], Tensor]) -> None:
        self.predict = predict

    def sums(self, model: Any, inputs: FlowInputs) -> dict[str, Ratio]:
        """``flow``: the weighted error; ``plain``: the error of what is to be learned, each element weighing 1."""
        noisy = interpolate(inputs.clean, inputs.noise, inputs.t)
        prediction = self.predict(model, noisy, inputs)
        error, weighted = flow_error(prediction, velocity(inputs.clean, inputs.noise), inputs.weight)
        return {"flow": weighted, "plain": mean_of((error * (inputs.weight > 0)).detach())}

    def loss(self, means: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted error; logs the plain one."""
        return means["flow"], {"plain": means["plain"]}
