"""Memories as the studio draws them: they show the same shot, differ from the truth, and only context takes them."""

from dataclasses import replace

import pytest
import torch

from anchorshot.models.studio import load_studio
from anchorshot.pocket.dataset import encode_stories
from anchorshot.pocket.recipes.imperfect import remade
from anchorshot.pocket.recipes.keyframes import KeyframeRecipe, Stage
from anchorshot.pocket.recipes.story_frames import StoryFrames


@pytest.fixture(scope="module")
def pocket():
    return load_studio("pocket")


@pytest.fixture(scope="module")
def data(pocket):
    return encode_stories(pocket.video_vae.model, 3, 4, codec=pocket.video_vae)


def test_a_studio_redraws_its_stories(pocket, data, tmp_path):
    made = remade(pocket, data, 2, tmp_path / "copies.safetensors", steps=4)
    assert [tier.shape for tier in made.tiers] == [torch.Size([2, *tier.shape[1:]]) for tier in data.tiers]
    true = data.tiers[0][:2]
    error = (made.tiers[0] - true).square().mean()
    other = (made.tiers[0] - true.flip(0)).square().mean()
    assert 1e-3 < float(error) < 0.5 * float(other), "another picture of the same shot"
    again = remade(pocket, data, 2, tmp_path / "copies.safetensors")
    assert again.stories == made.stories == data.stories[:2]
    for kept, tier in zip(again.tiers, made.tiers, strict=True):
        assert torch.allclose(kept, tier, atol=2e-3 * float(tier.abs().max()))  # kept as halves


def test_only_memories_are_copies(data):
    copies = replace(data, tiers=[tier[:2] + 5 for tier in data.tiers], stories=data.stories[:2])
    frames = StoryFrames(data, lambda texts: torch.zeros(len(texts), 32), copies=copies)
    recipe = KeyframeRecipe(frames, (Stage(9, 2, 3, 1),), joint=0.0, imperfect=1.0)
    seen = set()
    for step in range(12):
        batch = recipe.data.draw(step)
        inputs = recipe.inputs(batch, step)
        for row, (n, p, _, _) in enumerate(batch.new.tolist()):
            assert torch.equal(inputs.new.latent[row], data.tiers[0][n % 3, p])
        for rank, context in enumerate(inputs.context):
            tier = batch.tiers[rank]
            for row, (n, p, _, _) in enumerate(batch.context[rank].tolist()):
                copied = n % 3 < 2
                seen.add(copied)
                assert torch.equal(context.frames.latent[row], data.tiers[tier][n % 3, p] + 5 * copied)
    assert seen == {True, False}
