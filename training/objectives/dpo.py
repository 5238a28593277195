"""Direct preference optimisation of a flow model (STAGE §4.2, Eq. 5–6; Diffusion-DPO, Wallace et al. 2024).

The policy should beat a frozen reference at telling a winner from a loser that share their conditions:

    L = −log σ(β · (D_policy − D_reference)),   D = err(loser) − err(winner),   err = mean (v(x_t) − (noise − data))²

STAGE's t runs from noise to data and its velocity is data − noise. That turns the sign of prediction and target alike,
so the squared errors, and with them L, are the same as with our x_t = (1 − t) · data + t · noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .flow_matching import FlowInputs, interpolate, velocity
from .objective import Ratio, mean_of

__all__ = ["FlowDPO", "PreferenceInputs"]


class PreferenceInputs(NamedTuple):
    """Inputs of a step on N preference pairs; row n of everything belongs to pair n.

    Attributes:
        winner: preferred data [N, …].
        loser: the other data, of the same shape.
        noise: of the winner, of the same shape.
        t: times in 0…1 of the winner, in a shape that broadcasts to it.
        conditions: whatever else the model wants; the same for winner and loser.
        loser_noise, loser_t: of the loser; None (sharing them lowers the variance of the loss): the winner's.
        weight: [N, …] weight of each element's error, in a shape that broadcasts to the data; None: all weigh the same.
    """

    winner: Tensor
    loser: Tensor
    noise: Tensor
    t: Tensor
    conditions: Any = None
    loser_noise: Tensor | None = None
    loser_t: Tensor | None = None
    weight: Tensor | None = None


class _Side(NamedTuple):
    """A model's velocity [N, …] and error [N] on the winners or the losers."""

    velocity: Tensor
    error: Tensor


class FlowDPO:
    """DPO for flow matching (an `Objective` of `PreferenceInputs`).

    The log-sigmoid is taken for each pair before anything is averaged, so processes' shares add up to the whole batch.

    Args:
        predict: (model, x_t, flow inputs) → velocity of the shape of x_t, as for `FlowMatching`. It is called four
            times in a step: for winners and losers, by policy and reference.
        reference: model → context manager in which the model is the reference, for instance with its adapters switched
            off. The reference has to be what training starts from: adapters of an earlier stage belong into the weights
            before new ones are added.
        beta: how far the policy may move away from the reference; errors are means over elements.
        encode: (model, conditions) → conditions for `predict`, called once for the policy and once for the reference:
            a trained text encoder then does not run for winner and loser alike.

    Raises:
        ValueError: `beta` is not positive.
    """

    def __init__(
        self,
        predict: Callable[[Any, Tensor, FlowInputs], Tensor],
        reference: Callable[[Any], AbstractContextManager[Any]],
        beta: float = 2000.0,
        encode: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        if not beta > 0:
            raise ValueError(f"beta must be positive, not {beta}")
        self.predict, self.reference, self.beta, self.encode = predict, reference, beta, encode

    def sums(self, model: Any, inputs: PreferenceInputs) -> dict[str, Ratio]:
        """``preference``: the loss. Without gradient: ``accuracy``, the share of pairs that the policy tells apart
        better than the reference (ties count half); ``margin``, β · (D_policy − D_reference); ``drift``, the mean
        square of how far the winners' velocities are from the reference's; ``winner`` and ``loser``, by how much their
        errors have grown.
        """
        # The policy comes first: autocast keeps the weights that it casts, and without gradient they would have none.
        won, lost = self._both(model, inputs)
        with torch.no_grad(), self.reference(model):
            won_before, lost_before = self._both(model, inputs)
        gap = (lost.error - won.error) - (lost_before.error - won_before.error)
        margin = self.beta * gap
        told = margin.detach()
        return {
            "preference": mean_of(-F.logsigmoid(margin)),
            "accuracy": mean_of((told > 0).float() + 0.5 * (told == 0).float()),
            "margin": mean_of(told),
            "drift": mean_of((won.velocity.detach() - won_before.velocity).square()),
            "winner": mean_of(won.error.detach() - won_before.error),
            "loser": mean_of(lost.error.detach() - lost_before.error),
        }

    def loss(self, means: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The preference loss, ln 2 while policy and reference are the same; logs the other means."""
        return means["preference"], {name: mean for name, mean in means.items() if name != "preference"}

    def _both(self, model: Any, inputs: PreferenceInputs) -> tuple[_Side, _Side]:
        conditions = inputs.conditions if self.encode is None else self.encode(model, inputs.conditions)
        noise = inputs.noise if inputs.loser_noise is None else inputs.loser_noise
        t = inputs.t if inputs.loser_t is None else inputs.loser_t
        weight = inputs.winner.new_ones((len(inputs.winner),) + (1,) * (inputs.winner.ndim - 1))
        if inputs.weight is not None:
            weight = inputs.weight
        winners = FlowInputs(inputs.winner, inputs.noise, inputs.t, weight, conditions)
        losers = FlowInputs(inputs.loser, noise, t, weight, conditions)
        return self._side(model, winners), self._side(model, losers)

    def _side(self, model: Any, inputs: FlowInputs) -> _Side:
        predicted = self.predict(model, interpolate(inputs.clean, inputs.noise, inputs.t), inputs).float()
        error = (predicted - velocity(inputs.clean, inputs.noise).float()).square()
        weight = inputs.weight.float().expand_as(error)
        return _Side(predicted, (error * weight).flatten(1).sum(1) / weight.flatten(1).sum(1))
