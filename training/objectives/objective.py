"""The protocol of an objective: sums over the share of a batch that one process holds, and the loss of their means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor, nn

__all__ = ["Objective", "Ratio", "mean_of"]

Inputs_contra = TypeVar("Inputs_contra", contravariant=True)


class Ratio(NamedTuple):
    """A weighted mean in two parts, so that it can be taken over several processes.

    Attributes:
        total: weighted sum, a scalar tensor.
        weight: sum of the weights, a scalar that carries no gradient. Where it is 0 the mean counts as 0.
    """

    total: Tensor
    weight: Tensor | float


class Objective(Protocol[Inputs_contra]):
    """What a step minimises.

    `sums` runs inside the forward pass that DistributedDataParallel or FSDP2 wraps, so it may call `model` as often as
    it likes and in any way: twice for a preference pair, once more with its adapters switched off for a reference.

    `loss` turns the means of those sums into the loss. The sums are divided by the weights of the whole batch, and the
    processes' losses add up; so the loss has to be linear in every mean that carries a gradient. Means without a
    gradient are those of the whole batch and may be used in any way.
    """

    def sums(self, model: Any, inputs: Inputs_contra) -> dict[str, Ratio]:
        """Every mean that the loss or the log needs, over these inputs. The keys depend on the kind of inputs only."""
        ...

    def loss(self, means: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss and scalar tensors to log (as numbers they would make a GPU wait at every step)."""
        ...


class TrainingStep(nn.Module):
    """A model and its objective as one module, whose forward pass is what several processes wrap.

    Without it the hooks of a wrapper would not run: objectives call methods of the model, not the wrapper.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, inputs: Any) -> dict[str, Ratio]:
        """The objective's sums over `inputs`."""
        return self.objective.sums(self.model, inputs)


def mean_of(x: Tensor) -> Ratio:
    """The plain mean of a tensor."""
    return Ratio(x.sum(), float(x.numel()))
