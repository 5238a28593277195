"""SAR: γ' of its readings, on hand-made vectors and on the text encoders of the tiny studio."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anchorshot.core.errors import InputError
from anchorshot.models.studio import Studio, load_studio
from anchorshot.pipelines.story_stage import sar_encoder
from anchorshot.sampling.text2story.action_similarity import SAR, Encoder, Pair, semantic_gamma, similarity
from anchorshot.sampling.text2story.blending import Blend
from anchorshot.sampling.text2story.segments import PromptPair, StorySampler, StorySettings

READINGS = [SAR(*choice) for choice in product(get_args(Encoder), get_args(Pair), (False, True))]
STORY = [
    PromptPair(["in the desert. a red square stands on the left."], ["a red square waves on the left."]),
    PromptPair(["in the town. a red square stands on the left."], ["a red square dances on the left."]),
    PromptPair(["in the town. a blue star stands on the right."], ["a blue star jumps on the right."]),
]


@pytest.fixture(scope="module")
def studio(tiny_studio: Path) -> Studio:
    return load_studio(tiny_studio)


def sampler(studio: Studio, sar: SAR, gamma: float = 0.25) -> StorySampler:
    settings = StorySettings(dipw=None, gamma=gamma, sar=sar)
    return StorySampler(None, settings, embed_actions=sar_encoder(studio, settings))  # type: ignore[arg-type]


@given(st.floats(0, 0.5), st.floats(-1, 1))
def test_gamma_is_equation_7_and_always_a_weight(gamma: float, s: float) -> None:
    """Opposite texts blend more than γ says, never more than one half; bounded, never more than γ."""
    free, bounded = semantic_gamma(gamma, s), semantic_gamma(gamma, s, bounded=True)
    assert free == pytest.approx(min(0.5, gamma * (1 - s))) and 1 - 2 * free >= 0
    assert bounded == pytest.approx(gamma * (1 - max(0.0, s))) and bounded <= gamma
    rows = semantic_gamma(torch.full((2,), gamma), torch.tensor([s, s]))
    assert isinstance(rows, torch.Tensor) and rows.tolist() == pytest.approx([free, free], abs=1e-6)
    Blend(torch.zeros(2, 1, 1, 1, 1), rows)  # takes it


def test_the_centre_is_taken_off_and_equal_texts_are_one() -> None:
    g = torch.Generator().manual_seed(0)
    shared = 5 * torch.ones(8)  # what all texts have in common
    texts = shared + torch.randn(5, 8, generator=g)
    centre = texts.mean(0)
    plain, centred = similarity(texts[0], texts[1:]), similarity(texts[0], texts[1:], centre)
    assert (plain > 0.8).all() and (centred < 0.8).all()
    assert similarity(centre, centre, centre) == 1  # no direction is left of it
    assert similarity(texts[0], texts[0], centre) == pytest.approx(1)
    pair = texts[:2]
    assert similarity(pair[0], pair[1], pair.mean(0)) == pytest.approx(-1, abs=1e-5)


@pytest.mark.parametrize("sar", READINGS, ids=str)
def test_a_reading_compares_what_it_says(studio: Studio, sar: SAR) -> None:
    """γ' follows from the encoder's cosine of the texts that are named, and no others change it."""
    told = sampler(studio, sar)
    centre = told.centre(STORY)
    assert (centre is not None) == sar.centred
    embed = sar_encoder(studio, told.settings)
    parts = {
        "actions": [STORY[0].action, STORY[1].action],
        "within": [STORY[1].scene, STORY[1].action],
        "adjacent": [STORY[0].plain, STORY[1].plain],
    }[sar.pair]
    a, b = (embed(list(texts)) for texts in parts)
    expected = semantic_gamma(0.25, float(similarity(a, b, centre)))
    assert float(told.gamma(STORY[0], STORY[1], centre)) == pytest.approx(expected, abs=1e-5)
    other = PromptPair(["in the snow. a star."], STORY[0].action)
    changes = float((told.gamma(other, STORY[1], centre) - told.gamma(STORY[0], STORY[1], centre)).abs())
    assert (changes > 1e-6) == (sar.pair == "adjacent")
    assert float(sampler(studio, sar, 0.0).gamma(STORY[0], STORY[1], centre)) == 0
    if sar.pair != "within":  # the same texts again leave nothing of γ
        assert float(told.gamma(STORY[1], STORY[1], centre)) == pytest.approx(0, abs=1e-5)


def test_names_are_the_same_in_both_texts(studio: Studio) -> None:
    """Queries say looks; without them the model's own names are compared."""
    pair = PromptPair(["<Zork> in the town."], ["<Zork> waves."], ["a star in the town."], ["a star waves."])
    told, seen = sampler(studio, SAR()), list[list[str]]()
    embed = told.embed_actions
    assert embed is not None
    told.embed_actions = lambda texts: (seen.append(list(texts)), embed(texts))[1]
    told.gamma(pair, pair)
    assert seen == [["a star waves.", "a star waves."]]
    assert pair.query("whole") == ["a star in the town. a star waves."] and pair.plain == [
        "<Zork> in the town. <Zork> waves."
    ]


def test_what_cannot_be_is_refused(studio: Studio) -> None:
    with pytest.raises(InputError, match="^sar_encoder: must be one of text, clip"):
        SAR("bert")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="^sar_pair: must be one of actions, within, adjacent"):
        SAR(pair="scenes")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="^centre: must be the story's"):
        sampler(studio, SAR(centred=True)).gamma(STORY[0], STORY[1])
