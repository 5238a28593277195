"""What the suites measure: metrics with known values."""

from __future__ import annotations

import math

import pytest
import torch

from anchorshot.core.errors import InputError
from anchorshot.evaluation.metrics.classifier import FORGOTTEN, Scores, Sharpest, StoryTruth, retrieval_recall
from anchorshot.evaluation.metrics.pixels import boundary_jump, diversity, frame_change, same_picture
from anchorshot.media.frames import PSNR_CAP, psnr
from anchorshot.memory.golden_mem import GoldenMem
from anchorshot.memory.retrieval import rank_memory
from anchorshot.pocket.world import Actor, Layout, Look, ShotSpec

MIRA, PIP = Look(0, 1, 2), Look(3, 2, 1)
DESERT, TOWN = Layout(0, 1, 2, 0), Layout(1, 3, 0, 1)
# Mira is told in shot 0 and Pip in shot 1; the desert is shown again in shot 1, the town only once.
SHOTS = (
    ShotSpec(DESERT, (Actor("Mira", MIRA, 0, 1),), 0, 0, ("Mira",)),
    ShotSpec(DESERT, (Actor("Pip", PIP, 0, 2), Actor("Mira", MIRA, 1, 0)), 1, 0, ("Pip",)),
    ShotSpec(TOWN, (Actor("Pip", PIP, 0, 4),), 2, 0),
)
LONER = (SHOTS[0],) * 3  # told every time, but the desert comes back


def perfect(truth: StoryTruth) -> dict[str, torch.Tensor]:
    return {head: values.clone() for head, values in truth.labels.items()}


def test_only_what_the_caption_does_not_tell_counts_as_remembered() -> None:
    truth = StoryTruth.of([SHOTS])
    assert truth.introduced.tolist() == [[[True, False], [True, False], [False, False]]]
    assert truth.returning.tolist() == [[[False, False], [False, True], [True, False]]]
    assert truth.revisited.tolist() == [[False, True, False]]
    assert Scores(perfect(truth), truth).all() == dict.fromkeys(Scores.NAMES, 1.0)

    reading = perfect(truth)
    reading["colour"][0, 0, 1] = 5  # nobody stands there
    reading["first"][0, 2] = 2  # the town's only time
    assert Scores(reading, truth).all() == dict.fromkeys(Scores.NAMES, 1.0)

    reading["colour"][0, 1, 1] = 7  # Mira returns in the wrong colour: 1 of 6 readings, 1 of 2 characters
    reading["sky"][0, 1] = 0  # 1 of the 3 slots
    reading["place"][0, 2] = 5  # 1 of 3 shots
    reading["present"][0, 2, 1] = 1  # 1 of 6 sides + 4 actions + 3 scales
    assert Scores(reading, truth).all() == pytest.approx(
        {
            "identity": 5 / 6,
            "identity_exact": 1 / 2,
            "introduced": 1.0,
            "consistency": 5 / 6,
            "place": 2 / 3,
            "layout": 2 / 3,
            "side": 5 / 6,
            "action": 1.0,
            "alignment": 12 / 13,
        }
    )


def test_what_was_drawn_wrong_first_and_remembered_well() -> None:
    truth = StoryTruth.of([SHOTS])
    reading = perfect(truth)
    reading["shape"][0, 0, 0] = reading["shape"][0, 1, 1] = 3  # Mira, on the left and then on the right
    for head in ("sky", "first", "second"):
        reading[head][0, :2] = 1  # a layout of the sampler's own, the same in both shots of the desert
    scores = Scores(reading, truth).all()
    assert scores["introduced"] == scores["identity"] == pytest.approx(5 / 6)
    assert scores["consistency"] == scores["layout"] == 1.0


def test_scores_are_none_where_nothing_can_be_read() -> None:
    truth = StoryTruth.of([SHOTS[:1]])
    scores = Scores(perfect(truth), truth)
    found = scores.all()
    assert found["identity"] is found["identity_exact"] is found["layout"] is found["consistency"] is None
    assert found["place"] == found["introduced"] == 1.0
    assert scores.standard_error("identity") is None


def test_spread_over_stories_and_drift_along_them() -> None:
    truth = StoryTruth.of([SHOTS, SHOTS, LONER])  # nobody returns in the third: it has no say in identity
    reading = perfect(truth)
    for head in ("colour", "shape", "accessory"):
        reading[head][1, 2, 0] += 1  # Pip in the second story's last shot
    scores = Scores(reading, truth)
    assert scores("identity") == pytest.approx(9 / 12)
    assert scores.standard_error("identity") == pytest.approx(0.25)  # of 1 and 0.5
    assert scores.by_shot("identity") == [None, 1.0, 0.5]
    assert scores.by_shot("layout") == [None, 1.0, 1.0]


def test_recall_counts_returning_characters_and_places() -> None:
    assert retrieval_recall([SHOTS], [[[], [0], [1]]]) == 1.0
    assert retrieval_recall([SHOTS], [[[], [], []]]) == 0.0
    assert retrieval_recall([SHOTS], [[[], [0], [0]]]) == pytest.approx(2 / 3)  # Mira, the desert; not Pip
    assert retrieval_recall([SHOTS[:1]], [[[]]]) is None


def test_the_sharpest_frame_that_shows_somebody() -> None:
    slots = [GoldenMem(groups=2, images=1).plan(shot, (5, 10)) for shot in range(3)]
    by_time, by_place = ([[[], [0], list(order)]] for order in ((1, 0), (0, 1)))
    found = Sharpest.of([SHOTS], by_time, slots)
    # Pip is met in shot 1, which stands on tier 1, and nobody else is seen in the last shot; the town is new.
    assert found.characters.tolist() == [[[FORGOTTEN, FORGOTTEN], [FORGOTTEN, 1], [1, FORGOTTEN]]]
    assert found.places.tolist() == [[FORGOTTEN, 1, FORGOTTEN]]
    assert found.captioned.tolist() == [[[False, False], [False, True], [True, False]]]
    assert Sharpest.of([SHOTS], by_place, slots).characters[0, 2, 0] == 2
    two = Sharpest.of([SHOTS], [[[], [], [0]]], [[], [], slots[1]])  # what shot 1 showed and told is gone
    assert (two.characters == FORGOTTEN).all() and not two.captioned.any()

    truth = StoryTruth.of([SHOTS])
    reading = perfect(truth)
    reading["colour"][0, 2, 0] += 1  # Pip in the last shot
    reading["sky"][0, 1] = 0
    scores = Scores(reading, truth)
    assert scores.identity_of(found.characters == 1) == {"share": pytest.approx(5 / 6), "count": 2}
    assert scores.identity_of(found.characters == 2) == {"share": None, "count": 0}
    assert scores.layout_of(found.places == 1) == {"share": pytest.approx(2 / 3), "count": 1}


def test_pixel_measures_have_known_values() -> None:
    grey = torch.tensor([0.0, 0.5, 1.0])[None, :, None, None, None].expand(2, 3, 3, 4, 5)
    assert diversity(grey) == pytest.approx(2 / 3)
    assert diversity(grey[:, :1]) is None
    assert diversity(grey[:, :1].expand(2, 4, 3, 4, 5)) == 0.0
    picture = torch.full((2, 3, 4, 4), 0.3)
    assert psnr(picture + 0.1, picture).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)
    assert psnr(picture, picture).tolist() == [PSNR_CAP, PSNR_CAP]
    assert psnr(picture + torch.tensor([0.0, 0.2]).view(2, 1, 1, 1), picture, dims=4).item() == pytest.approx(
        -10 * math.log10(0.04 / 2), abs=1e-4
    )
    spot = picture.clone()
    spot[1, 0, 2, 3] += 0.004
    assert same_picture(spot, picture).tolist() == [True, False]


def clip_with(steps: list[float]) -> torch.Tensor:
    """A clip of grey frames that brightens by these steps."""
    levels = torch.cat([torch.zeros(1), torch.tensor(steps).cumsum(0)])
    return levels[:, None, None, None].expand(-1, 3, 4, 4)


def test_boundary_jump_has_known_values() -> None:
    steady = clip_with([0.01, 0.01, 0.01, 0.03, 0.01, 0.05])  # frames 0…6
    changes = frame_change(steady)
    assert changes.tolist() == pytest.approx([0.01, 0.01, 0.01, 0.03, 0.01, 0.05])
    assert boundary_jump([changes], [[0, 4]]) == pytest.approx(3.0)  # into frame 4, over the median 0.01
    assert boundary_jump([changes], [[0, 4, 6]]) == pytest.approx(4.0)
    assert boundary_jump([changes], [[0, 2]]) == pytest.approx(1.0)
    still = frame_change(clip_with([0.0, 0.01, 0.0, 0.0]))
    assert boundary_jump([still], [[0, 2]]) is None  # inside nothing moves: no ratio
    assert boundary_jump([changes, still], [[0, 4], [0, 2]]) == pytest.approx((0.03 + 0.01) / (0.01 + 0.0))
    assert boundary_jump([changes], [[0]]) is None


def test_memory_is_ranked_as_asked() -> None:
    keys = torch.eye(3)
    query = torch.tensor([0.2, 0.9, 0.1])
    assert rank_memory("recency", 3) == [2, 1, 0]
    assert rank_memory("clip", 3, query, keys) == rank_memory("text", 3, query, keys) == [1, 0, 2]
    assert rank_memory("clip", 0) == []
    for wrong in (lambda: rank_memory("clip", 3, query, keys[:2]), lambda: rank_memory("dice", 3)):  # type: ignore[arg-type]
        with pytest.raises(InputError):
            wrong()
