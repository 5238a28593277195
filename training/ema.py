"""The exponential moving average of the weights, over whole parameters or the parts of them that a process keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["Average"]

_POWER = 0.75


class Average:
    """Averages that forget quickly at first: the decay of step n is 1 − n^(−3/4), at most `decay`.

    (The warm-up of diffusers' EMAModel, whose import would take longer than many a test.)

    Args:
        parameters: what is averaged, as it is now.
        decay: in the long run.

    Attributes:
        values: the averages, in the order of the parameters.
        steps: how many were taken.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self.values = [p.clone().detach() for p in parameters]
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def step(self, parameters: Sequence[Tensor]) -> None:
        """Take in the parameters as one more step has left them."""
        self.steps += 1
        decay = min(1 - self.steps**-_POWER, self.decay)
        if self.values[0].device.type == "cpu":
            for value, p in zip(self.values, parameters, strict=True):
                value.sub_((1 - decay) * (value - p))
        else:
            torch._foreach_sub_(self.values, torch._foreach_sub(self.values, list(parameters)), alpha=1 - decay)

    @torch.no_grad()
    def copy_to(self, parameters: Sequence[Tensor]) -> None:
        """Write the averages over the parameters."""
        for value, p in zip(self.values, parameters, strict=True):
            p.copy_(value)

    @contextmanager
    def applied(self, parameters: Sequence[Tensor]) -> Iterator[None]:
        """Within the `with` block, the parameters are their averages."""
        own = [p.detach().cpu().clone() for p in parameters]
        self.copy_to(parameters)
        try:
            yield
        finally:
            with torch.no_grad():
                for p, value in zip(parameters, own, strict=True):
                    p.copy_(value)
