"""What a suite of the benchmarks is: one object that names its options and runs. Nothing heavy is imported."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from ..core.errors import InputError
from ..evaluation.options import Options
from .table import Row

if TYPE_CHECKING:
    import torch

    from ..models.studio import Studio

__all__ = ["Benchmark"]

O = TypeVar("O", bound=Options)  # noqa: E741


class Benchmark(ABC, Generic[O]):
    """One suite. Its methods import what is heavy when they are called.

    Attributes:
        name: what the user calls it.
        options: its options.
        needs_studio: whether the studio must be able to do what is compared; else random models stand in.
    """

    name: ClassVar[str]
    needs_studio: ClassVar[bool] = True
    options: type[O]

    @abstractmethod
    def run(self, studio: Studio | None, options: O) -> list[Row]:
        """Compare a studio's models with stock code; None takes random ones of the pocket studio's architecture."""

    def full_size(self, device: torch.device) -> list[Row]:
        """Time the public models' architectures on a GPU, with random weights.

        Raises:
            InputError: the suite has no full size, or the device is no GPU.
        """
        raise InputError("suite", "has no full size", self.name, "use keyframes or video, or leave --full-size out")
