"""What a training recipe gives to the loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch


class Recipe(ABC):
    """One model's training: data, module and loss.

    A step goes batch → inputs → loss. A batch depends on the seed and the step alone; drawing noise belongs to
    `inputs`, so that `loss` is nothing but tensors and a GPU can replay it as one graph.
    """

    name: str
    #: parts of the names of first, last and modulation layers, which Muon leaves to AdamW
    edges: tuple[str, ...] = ()

    @abstractmethod
    def build(self) -> torch.nn.Module:
        """The module whose parameters are trained (freshly initialised or warm-started)."""

    def prepare(self, device: torch.device) -> None:  # noqa: B027 (few need it)
        """Called once before the first step: bring the data that `inputs` reads to the device."""

    @abstractmethod
    def batch(self, step: int) -> Any:
        """The batch of a step: a pure function of (recipe, step), best a few indices into the prepared data."""

    def inputs(self, batch: Any, step: int) -> Any:
        """What `loss` needs, on the device: nested dicts, lists and tuples of tensors and plain values."""
        return batch

    @abstractmethod
    def loss(self, model: Any, inputs: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Scalar loss and scalar tensors to log (as numbers they would make a GPU wait at every step)."""
