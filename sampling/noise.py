"""Noise and where it comes from: generators, on the CPU wherever the numbers shall be the same for every device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["Generators", "copy_generators", "noise_like", "noise_source", "seeded", "seeds_of"]

Generators = torch.Generator | list[torch.Generator] | None
"""One generator for a batch, or one per row, so that rows do not depend on their batch; None is torch's own."""


def seeded(seed: int) -> torch.Generator:
    """A generator with a seed, 0…2**64 − 1."""
    return torch.Generator("cpu").manual_seed(seed)


def noise_source(*numbers: int) -> torch.Generator:
    """A generator that depends on all of these numbers, each at least 0; zeros at the end do not count."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return seeded(int(state >> np.uint64(1)))


def noise_like(shape: Sequence[int], generator: Generators) -> Tensor:
    """Gaussian noise where its generator is; with a list of generators row b comes from generator b alone."""
    if isinstance(generator, list):
        return torch.cat([noise_like((1, *shape[1:]), g) for g in generator])
    return torch.randn(*shape, generator=generator, device=None if generator is None else generator.device)


def seeds_of(generator: Generators, batch: int) -> list[int]:
    """The seed of every row; without a generator one of torch's own for all."""
    if generator is None:
        return [int(torch.randint(2**62, (1,)))] * batch
    if isinstance(generator, torch.Generator):
        return [generator.initial_seed()] * batch
    return [g.initial_seed() for g in generator]


def copy_generators(generator: Generators) -> Generators:
    """Generators that will draw what these would draw now."""
    if generator is None:
        return None
    if isinstance(generator, torch.Generator):
        copy = torch.Generator(generator.device)
        copy.set_state(generator.get_state())
        return copy
    return [torch.Generator(one.device).set_state(one.get_state()) for one in generator]
