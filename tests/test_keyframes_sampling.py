"""Captain Cinema's sampling loop: pinning of context, cache, windows, joint mode, independence of rows."""

import pytest
import torch
from test_flux import CONFIG, CaptainFlux, strong_, worst

from anchorshot.core.errors import InputError
from anchorshot.models.encoders.text import TextCond
from anchorshot.models.layouts.pairs import context_levels
from anchorshot.sampling.flow import flow_sigmas
from anchorshot.sampling.keyframes import ContextFrame, KeyframeSettings, sample_keyframes

SHAPE = (4, 6, 8)


@pytest.fixture(scope="module")
def model():
    return strong_(CaptainFlux(**CONFIG | {"guidance_embeds": False}))


def text(rows=1, seed=0, length=5) -> TextCond:
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randn(rows, length, 32, generator=g)
    return TextCond(tokens, torch.ones(rows, length, dtype=torch.bool), torch.randn(rows, 24, generator=g))


def frame(seed, shape=SHAPE, rows=1) -> ContextFrame:
    g = torch.Generator().manual_seed(100 + seed)
    return ContextFrame(torch.randn(rows, *shape, generator=g), text(rows, seed))


def generate(model, context=(), prompts=None, seed=0, **settings):
    g = torch.Generator().manual_seed(seed)
    return sample_keyframes(model, prompts or [text(seed=50)], SHAPE, context, KeyframeSettings(steps=3, **settings), g)


def test_cache_changes_nothing(model):
    context = [frame(0), frame(1, (4, 4, 4)), frame(2, (4, 2, 2))]
    assert worst(generate(model, context), generate(model, context, cache=False)) < 1e-4


def test_context_matters_and_so_does_its_noise(model):
    alone, told = generate(model), generate(model, [frame(0)])
    assert worst(alone, told) > 1e-3
    assert worst(told, generate(model, [frame(0)], context_noise=0.6)) > 1e-3


def test_same_seed_same_frames(model):
    assert worst(generate(model, [frame(0)]), generate(model, [frame(0)])) == 0
    assert worst(generate(model, [frame(0)]), generate(model, [frame(0)], seed=1)) > 1e-3


def test_a_window_is_generated_together(model):
    prompts = [text(seed=50), text(seed=51)]
    together = generate(model, [frame(0)], prompts)
    assert len(together) == 2 and together[0].shape == (1, *SHAPE)
    swapped = generate(model, [frame(0)], [prompts[0], text(seed=52)])
    assert worst(together[:1], swapped[:1]) == 0, "causal: a frame must not see the one after it"
    assert worst(together[1:], swapped[1:]) > 1e-3


def test_joint_frames_see_each_other(model):
    a = generate(model, (), [text(seed=50), text(seed=51)], mode="full")
    b = generate(model, (), [text(seed=50), text(seed=52)], mode="full")
    assert worst(a[:1], b[:1]) > 1e-3


def test_rows_do_not_depend_on_their_batch(model):
    """With a generator per row and ragged captions, a batch gives what each row gives alone."""
    short, long = text(seed=7, length=3), text(seed=8, length=5)
    pad = torch.zeros(1, 2, 32)
    tokens = torch.cat([torch.cat([short.tokens, pad], 1), long.tokens])
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    both = TextCond(tokens, mask, torch.cat([short.pooled, long.pooled]))
    first, second = frame(0), frame(1)
    context = ContextFrame(
        torch.cat([first.latent, second.latent]),
        TextCond(
            torch.cat([first.text.tokens, second.text.tokens]),
            torch.cat([first.text.mask, second.text.mask]),
            torch.cat([first.text.pooled, second.text.pooled]),
        ),
    )
    seeds = lambda: [torch.Generator().manual_seed(s) for s in (3, 4)]  # noqa: E731
    settings = KeyframeSettings(steps=3)
    batch = sample_keyframes(model, [both], SHAPE, [context], settings, seeds())[0]
    alone = [
        sample_keyframes(model, [t], SHAPE, [c], settings, [g])[0]
        for t, c, g in zip((short, long), (first, second), seeds(), strict=True)
    ]
    assert worst([batch], [torch.cat(alone)]) < 1e-4


def test_a_range_of_noise_gives_every_frame_its_own_level():
    levels = context_levels((0.001, 0.25), 12, [7, 8])
    assert levels.shape == (2, 12) and levels.min() >= 0.001 and levels.max() <= 0.25
    assert len(set(levels.flatten().tolist())) == 24
    assert torch.equal(context_levels((0.001, 0.25), 5, [7]), levels[:1, :5]), "a level must not depend on the others"
    assert torch.equal(context_levels((0.0, 1.0), 12, [7])[0] * 0.249 + 0.001, levels[0])
    assert context_levels((0.2, 0.2), 3, [1]).tolist() == context_levels(0.2, 3, [1]).tolist() == [[0.2] * 3]
    assert 0.4 < context_levels((0.0, 1.0), 1, range(200)).mean() < 0.6  # 5 standard errors


def test_the_cache_holds_with_a_level_for_every_frame(model):
    context = [frame(0), frame(1, (4, 4, 4)), frame(2, (4, 2, 2))]
    drawn = generate(model, context, context_noise=(0.0, 0.5))
    assert worst(drawn, generate(model, context, context_noise=(0.0, 0.5), cache=False)) < 1e-4
    assert worst(drawn, generate(model, context, context_noise=0.25)) > 1e-3
    assert worst(generate(model, context, context_noise=(0.3, 0.3)), generate(model, context, context_noise=0.3)) == 0


def test_guidance_pushes_away_from_the_negative_not_from_what_is_remembered(model):
    context, prompt, negative = [frame(0)], text(seed=50), text(seed=9, length=3)
    guide = {"steps": 1, "cfg": 3.0}

    def one(prompts, against=None, **settings):
        chosen = KeyframeSettings(**guide | settings)
        return sample_keyframes(model, prompts, SHAPE, context, chosen, torch.Generator().manual_seed(0), None, against)

    plain, against = one([prompt], cfg=1.0), one([negative], cfg=1.0)
    # one Euler step from t = 1 to 0 is linear in the velocity
    assert worst(one([prompt], negative), [against[0] + 3 * (plain[0] - against[0])]) < 1e-4
    zeros = TextCond(torch.zeros_like(prompt.tokens), prompt.mask, torch.zeros_like(prompt.pooled))
    assert worst(one([prompt]), one([prompt], zeros)) == 0
    assert worst(one([prompt], negative), one([prompt], negative, cache=False)) < 1e-3  # three times the cache's
    rows = TextCond(*(torch.cat([x, x]) for x in (negative.tokens, negative.mask, negative.pooled)))
    with pytest.raises(InputError, match="negative: must have 1 or 1 rows"):
        one([prompt], rows)


def test_solvers_and_schedules_are_settings(model):
    fine = generate(model, [frame(0)], sigmas=tuple(1 - i / 64 for i in range(65)))
    near = {name: worst(generate(model, [frame(0)], sampler=name), fine) for name in ("euler", "heun", "dpmpp_2m")}
    assert 0 < near["heun"] < near["euler"] and 0 < near["dpmpp_2m"] and near["dpmpp_2m"] != near["euler"]
    own = generate(model, [frame(0)], sigmas=tuple(flow_sigmas(3, 2.0).tolist()))
    assert worst(own, generate(model, [frame(0)], shift=2.0)) < 1e-5


def test_callback_sees_steps_and_can_cancel(model):
    seen = []

    def watch(step):
        seen.append((step.index, step.x.shape))
        if step.index == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_keyframes(model, [text()], SHAPE, settings=KeyframeSettings(steps=3), callback=watch)
    assert seen == [(0, (1, 12, 16)), (1, (1, 12, 16))]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"prompts": []}, "prompts"),
        ({"shape": (4, 5, 8)}, "even"),
        ({"settings": KeyframeSettings(context_noise=1.5)}, "context_noise"),
        ({"settings": KeyframeSettings(context_noise=(0.5, 0.1))}, "context_noise"),
        ({"settings": KeyframeSettings(context_noise=(0.1, float("nan")))}, "context_noise"),
        ({"settings": KeyframeSettings(sampler="ddim")}, "sampler: must be one of euler, heun, dpmpp_2m"),
        ({"settings": KeyframeSettings(sigmas=(1.0, 0.5))}, "sigmas"),
    ],
)
def test_bad_input_is_named(model, change, match):
    arguments = {"prompts": [text()], "shape": SHAPE} | change
    with pytest.raises(InputError, match=match):
        sample_keyframes(model, **arguments)
