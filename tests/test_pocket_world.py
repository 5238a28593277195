"""The pocket world: reproducible, consistent with its captions, unknowable layouts, ground truth that
matches pixels.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anchorshot.pocket.bank import to_tensor
from anchorshot.pocket.recogniser import Recogniser, labels
from anchorshot.pocket.render import BODY, render, render_clip
from anchorshot.pocket.tokenizer import build_tokenizer
from anchorshot.pocket.world import COLOURS, NAMES, Actor, Layout, Look, ShotSpec, make_story


@given(st.integers(0, 10**6), st.integers(1, 12))
def test_stories_are_consistent(seed, shots):
    story = make_story(seed, shots)
    assert story == make_story(seed, shots)
    assert len(set(story.cast.values())) == len(story.cast), "two characters must not look alike"
    told = set()
    for shot in story.shots:
        assert shot.layout in story.layouts
        assert len({a.side for a in shot.actors}) == len(shot.actors)
        assert set(shot.described) == {a.name for a in shot.actors} - told
        told |= set(shot.described)
        for a in shot.actors:
            assert a.look == story.cast[a.name]
            assert (a.look.describe() in shot.prompt) == (a.name in shot.described)
            assert a.look.describe() in shot.query and a.name not in shot.query


def test_splits_do_not_meet():
    train = {str(make_story(s, 4, "train").shots) for s in range(200)}
    assert not train & {str(make_story(s, 4, "test").shots) for s in range(200)}


def test_layouts_are_not_in_captions():
    """The same caption must go with different layouts, or memory would not be needed."""
    seen: dict[str, set] = {}
    for seed in range(400):
        for shot in make_story(seed, 3).shots:
            if len(shot.actors) == 1 and not shot.described:
                key = shot.prompt.split("<")[0]
                seen.setdefault(key, set()).add(shot.layout)
    assert max(len(v) for v in seen.values()) > 1


@pytest.mark.parametrize("colour", range(len(COLOURS)))
def test_pixels_show_the_colour(colour):
    shot = ShotSpec(Layout(0, 0, 0, 1), (Actor("Mira", Look(colour, 0, 1), 0, 0),), 0, 0)
    picture, mask = render(shot)
    assert picture.shape == (80, 160, 3) and mask.shape == (80, 160)
    body = (np.abs(picture.astype(int) - BODY[colour]).sum(-1) < 12) & (mask > 128)
    assert body.sum() > 100
    assert not (mask[:, 80:] > 0).any(), "the character stands on the left"


def test_clips_move_and_start_with_the_picture():
    shot = make_story(3, 1).shots[0]
    frames, masks = render_clip(shot, 9)
    assert np.array_equal(frames[0], render(shot)[0]) and masks.shape == (9, 80, 160)
    waving = ShotSpec(shot.layout, (Actor("Mira", Look(0, 0, 0), 0, 1),), 0, 0)
    moving, _ = render_clip(waving, 9)
    assert any((moving[k] != moving[k + 1]).any() for k in range(8))


@pytest.mark.parametrize("scale", [2, 4])
def test_larger_pictures_are_the_same_drawing(scale):
    shot = make_story(3, 1).shots[0]
    small, large = render(shot, 0.5), render(shot, 0.5, scale)
    for a, b in zip(small, large, strict=True):
        assert b.shape == (80 * scale, 160 * scale, *a.shape[2:])
        mean = b.reshape(80, scale, 160, scale, *a.shape[2:]).mean((1, 3))
        assert np.abs(mean - a).max() <= 1, "each pixel is the mean of its square, rounded twice"
    assert np.array_equal(render_clip(shot, 3, start=0.25, scale=scale)[0][2], render(shot, 0.5, scale)[0])


def test_tokenizer_keeps_names_whole_and_captions_known():
    tokenizer = build_tokenizer()
    for seed in range(20):
        for shot in make_story(seed, 4).shots:
            tokens = tokenizer.encode(shot.prompt).tokens
            assert "<unk>" not in tokens and len(tokens) <= 40
            assert all(f"▁<{a.name.lower()}>" in tokens for a in shot.actors)
    assert len(set(NAMES)) == len(NAMES)


def test_recogniser_heads_match_labels():
    shot = make_story(0, 1).shots[0]
    truth = labels(shot)
    out = Recogniser(width=8)(to_tensor(render(shot)[0][None]))
    for head, values in truth.items():
        assert out[head].flatten(0, -2).shape[0] == len(values)
        assert all(v < out[head].shape[-1] for v in values)


def test_side_heads_read_their_own_half_only():
    model = Recogniser(width=8).eval()
    with torch.no_grad():
        picture = torch.rand(1, 3, 80, 160)
        features = model.features(picture)
        changed = features.clone()
        changed[..., 5:] += 1
        halves = [torch.stack([x[..., :5], x[..., 5:]], 1).flatten(2) for x in (features, changed)]
        a, b = (model.side(h) for h in halves)
    assert torch.equal(a[:, 0], b[:, 0]) and not torch.equal(a[:, 1], b[:, 1])
