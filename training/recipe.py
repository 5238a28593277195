"""What a training recipe gives to the loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch

from .objectives import Objective
from .processes import Share

__all__ = ["Dataset", "Recipe"]

Batch = TypeVar("Batch")
Batch_co = TypeVar("Batch_co", covariant=True)
Inputs = TypeVar("Inputs")


class Dataset(Protocol[Batch_co]):
    """What a recipe draws its batches from."""

    def __len__(self) -> int:
        """How many samples there are to draw from (stories, clips, images)."""
        ...

    def draw(self, step: int) -> Batch_co:
        """The whole batch of a step: a pure function of (dataset, step), best a few indices into prepared data."""
        ...


class Recipe(ABC, Generic[Batch, Inputs]):
    """One model's training: data, module and objective.

    A step goes batch → inputs → share → objective. A batch depends on the seed and the step alone. Noise is drawn by
    `inputs` for the whole batch, which `share` then cuts among the processes; so the objective sees nothing but
    tensors, a GPU can replay it as one graph, and any number of processes takes the same steps.

    Attributes:
        name: names the checkpoint, its log and the loss curve.
        data: draws the batches.
        objective: what is minimised.
        edges: parts of the names of first, last and modulation layers, which Muon leaves to AdamW.
        units: names of the classes of modules that FSDP2 gathers one at a time, such as transformer blocks; everything
            else is gathered for the whole step. A unit must be left only through the outputs of its forward pass: a
            block whose keys and values go into a cache on the side does not qualify.
        keeps_frozen: whether checkpoints hold weights that are not trained, too. Without them they are small, where a
            model has adapters; `build` must then give the same frozen weights each time.
    """

    name: str
    data: Dataset[Batch]
    objective: Objective[Inputs]
    edges: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    keeps_frozen: bool = True

    @abstractmethod
    def build(self) -> torch.nn.Module:
        """The module whose parameters are trained (freshly initialised or warm-started)."""

    def prepare(self, device: torch.device) -> None:  # noqa: B027 (few need it)
        """Called once before the first step: bring the data that `inputs` reads to the device."""

    def saved(self, checkpoint: Path, step: int) -> None:  # noqa: B027 (few need it)
        """Called in the main process when a checkpoint has been written, for files that can be made from it alone."""

    @abstractmethod
    def inputs(self, batch: Batch, step: int) -> Inputs:
        """What the objective needs of the whole batch, on the device: nested tuples, lists and dicts of tensors and
        plain values.
        """

    @abstractmethod
    def share(self, inputs: Inputs, share: Share) -> Inputs:
        """The part of a batch's inputs that one process computes; with one process all of them."""
