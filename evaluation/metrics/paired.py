"""Figures of stories: their mean with its standard error, and what two variants differ by on the same stories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

__all__ = ["Difference", "Mean", "mean_of", "paired_difference"]

Values = Sequence[float | None]
"""One figure for each story; None where a story has nothing to measure."""


class Mean(NamedTuple):
    """A mean over stories; None where there is nothing to say it of.

    Attributes:
        value: the mean.
        error: its standard error; needs two stories.
    """

    value: float | None
    error: float | None


class Difference(NamedTuple):
    """What a variant's figures are above a reference's, story by story.

    Attributes:
        value: mean difference.
        error: its standard error.
        stories: how many stories both have a figure of.
    """

    value: float
    error: float
    stories: int

    @property
    def clear(self) -> bool:
        """Whether it is more than two standard errors."""
        return abs(self.value) > 2 * self.error


def mean_of(values: Values) -> Mean:
    """The mean of the stories that have a figure."""
    found = torch.tensor([value for value in values if value is not None], dtype=torch.float64)
    if not len(found):
        return Mean(None, None)
    return Mean(float(found.mean()), float(found.std() / math.sqrt(len(found))) if len(found) > 1 else None)


def paired_difference(values: Values, reference: Values) -> Difference | None:
    """`values` less `reference`, over the stories that have both; None with fewer than two.

    The same stories and the same noise are behind both, so what makes one story harder than another falls out: the
    error is smaller than that of two means.
    """
    both = [a - b for a, b in zip(values, reference, strict=True) if a is not None and b is not None]
    if len(both) < 2:
        return None
    found = torch.tensor(both, dtype=torch.float64)
    return Difference(float(found.mean()), float(found.std() / math.sqrt(len(found))), len(found))
