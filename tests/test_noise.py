"""Noise: the same for a seed, row by row, and drawn again from copies."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from anchorshot.sampling.noise import copy_generators, noise_like, noise_source, seeded, seeds_of


def test_a_rows_noise_does_not_depend_on_its_batch() -> None:
    both = noise_like((2, 3, 4), [seeded(1), seeded(2)])
    assert_close(both[1:], noise_like((1, 3, 4), [seeded(2)]))
    assert_close(both[:1], noise_like((1, 3, 4), seeded(1)))
    assert not torch.equal(both[0], both[1])


def test_sources_differ_in_every_number() -> None:
    draws = [noise_like((4,), noise_source(*numbers)) for numbers in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert_close(draws[1], noise_like((4,), noise_source(0, 1)))
    assert len({tuple(draw.tolist()) for draw in draws}) == len(draws)


def test_a_copy_draws_what_the_original_would_and_leaves_it_alone() -> None:
    for generator in (seeded(5), [seeded(5), seeded(6)]):
        shape = (2, 3)
        noise_like(shape, generator)
        copy = copy_generators(generator)
        assert_close(noise_like(shape, copy), noise_like(shape, generator))
    assert copy_generators(None) is None


def test_seeds_are_the_generators_own() -> None:
    assert seeds_of(seeded(7), 2) == [7, 7] and seeds_of([seeded(7), seeded(8)], 2) == [7, 8]
    assert len(set(seeds_of(None, 3))) == 1
