"""Consistency, transition vectors and paired differences, with known values."""

from __future__ import annotations

import math

import pytest
import torch

from anchorshot.evaluation.metrics.consistency import (
    consistency,
    mean_similarity,
    shot_features,
    track_consistency,
)
from anchorshot.evaluation.metrics.paired import mean_of, paired_difference
from anchorshot.evaluation.metrics.transition import transitions, tvs_gt, tvs_text


def at(*degrees: float) -> torch.Tensor:
    """Features on a circle, of different lengths."""
    turns = [math.radians(d) for d in degrees]
    return torch.tensor([[(i + 1) * math.cos(a), (i + 1) * math.sin(a)] for i, a in enumerate(turns)])


def test_consistency_is_the_mean_of_first_and_previous() -> None:
    cos = lambda d: math.cos(math.radians(d))  # noqa: E731
    expected = ((cos(30) + cos(30)) / 2 + (cos(60) + cos(30)) / 2) / 2
    assert float(consistency(at(0, 30, 60))) == pytest.approx(expected, abs=1e-6)
    assert float(consistency(at(0, 40))) == pytest.approx(cos(40), abs=1e-6)
    # what points away counts as unlike, no worse
    assert float(consistency(at(0, 180))) == 0
    batch = torch.stack([at(0, 30, 60), at(0, 0, 0)])
    assert consistency(batch).tolist() == pytest.approx([expected, 1.0], abs=1e-6)
    with pytest.raises(ValueError, match="two frames"):
        consistency(at(0))


def test_a_shot_is_the_mean_of_its_frames_whatever_their_length() -> None:
    shot = shot_features(at(0, 90))
    assert shot.tolist() == pytest.approx([0.5, 0.5], abs=1e-6)
    assert float(mean_similarity(at(0, 60, 120))) == pytest.approx((0.5 + 0.5 - 0.5) / 3, abs=1e-6)
    with pytest.raises(ValueError, match="needs two"):
        mean_similarity(at(0))


def test_tracks_are_compared_with_themselves_only() -> None:
    features = list(at(0, 90, 0, 90, 30))
    assert track_consistency(features, ["Mira", "Pip", "Mira", "Pip", "Zoe"]) == pytest.approx(1.0, abs=1e-6)
    # Mira comes back twice (1 and ½(cos 30 + cos 30)), Pip once (0): weighed by how often
    found = track_consistency(list(at(0, 0, 30, 0, 90)), ["Mira", "Mira", "Mira", "Pip", "Pip"])
    assert found == pytest.approx((2 * (1 + math.cos(math.radians(30))) / 2 + 0) / 3, abs=1e-6)
    assert track_consistency(features, list("abcde")) is None


def test_transition_vectors_lead_from_an_end_to_the_next_start() -> None:
    starts, ends = (
        torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 3.0]]),
        torch.tensor([[0.0, 0.0], [0.0, 1.0], [5.0, 5.0]]),
    )
    cuts = transitions(starts, ends)
    assert cuts.tolist() == [[1.0, 0.0], [0.0, 2.0]]  # the first start and the last end belong to no cut
    assert float(tvs_gt(cuts, cuts * torch.tensor([[2.0], [7.0]]))) == pytest.approx(1.0)
    assert float(tvs_gt(cuts, -cuts)) == pytest.approx(-1.0)
    texts = torch.tensor([[0.0, 0.0], [4.0, 0.0], [5.0, 1.0]])  # changes: along x, then diagonal
    assert float(tvs_text(cuts, texts)) == pytest.approx((1 + math.sqrt(0.5)) / 2, abs=1e-6)
    assert tvs_text(cuts.expand(3, 2, 2), texts.expand(3, 3, 2)).shape == (3,)


def test_differences_are_taken_story_by_story() -> None:
    hard_and_easy = [0.1, 0.9, 0.5, None]
    better = [0.2, 1.0, 0.6, 0.7]
    alone = mean_of(hard_and_easy)
    assert alone.value == pytest.approx(0.5) and alone.error == pytest.approx(0.4 / math.sqrt(3))
    found = paired_difference(better, hard_and_easy)
    assert found is not None and found.stories == 3
    assert found.value == pytest.approx(0.1) and found.error == pytest.approx(0, abs=1e-9) and found.clear
    noisy = paired_difference([0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.1, 0.9])
    assert noisy is not None and not noisy.clear
    assert paired_difference([1.0, None], [None, 1.0]) is None
    assert mean_of([None]) == (None, None) and mean_of([0.25]) == (0.25, None)
