"""Text2Story's mechanisms: weights, blending and the story sampler, on the real classes of the tiny studio."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anchorshot.core.errors import InputError
from anchorshot.evaluation.suites.text2story.pocket_prompts import prompt_pair, prompt_stories
from anchorshot.models.backbones.wan.spec import WAN_2
from anchorshot.models.encoders.latent_rgb import LatentRGB, fit_latent_rgb, positions
from anchorshot.models.encoders.text import TextCond
from anchorshot.models.layouts.chunks import VideoSettings
from anchorshot.models.studio import load_studio
from anchorshot.pocket.world import ACTIONS, PLACES
from anchorshot.sampling.flow import flow_sigmas
from anchorshot.sampling.text2story.blending import Blend, time_weighted
from anchorshot.sampling.text2story.preview import decoded_frames, decoded_video
from anchorshot.sampling.text2story.prompt_mixing import DIPW, PromptMixer, align, mix
from anchorshot.sampling.text2story.segments import PromptPair, StorySampler, StorySettings
from anchorshot.sampling.text2story.text_to_video import TextToVideoModel

ROWS, TOKENS, WIDTH = 2, 5, 8
PAPER: dict[str, Any] = {"prior_clock": "steps", "prior_shift": 1.0}


def cond(seed: int, tokens: int = TOKENS) -> TextCond:
    g = torch.Generator().manual_seed(seed)
    return TextCond(torch.randn(ROWS, tokens, WIDTH, generator=g), torch.ones(ROWS, tokens, dtype=torch.bool))


def levels(steps: int = 8) -> list[float]:
    return flow_sigmas(steps, 3.0).tolist()


@given(
    st.integers(1, 40),
    st.tuples(*[st.floats(0, 2) for _ in range(3)]),
    st.floats(0.1, 3),
    st.lists(st.floats(-1, 1), min_size=2, max_size=2),
)
def test_weights_sum_to_one_and_the_prior_moves_to_the_action(steps, lambdas, tau, similarity) -> None:
    scorer = lambda x0: torch.tensor([similarity] * ROWS)  # noqa: E731
    mixer = PromptMixer(cond(1), cond(2), levels(steps), scorer, DIPW(lambdas, tau, every=1, **PAPER))
    for t in levels(steps)[:-1]:
        mixer.text(t)
        mixer.observe(torch.zeros(ROWS, 1, 1, 1, 1))
    assert [entry.step for entry in mixer.record] == list(range(1, steps + 1))
    for entry in mixer.record:
        assert torch.allclose(entry.weights.sum(1), torch.ones(ROWS))
        assert entry.prior == pytest.approx((1 - entry.step / steps, entry.step / steps))
    assert mixer.record[-1].prior == (0.0, 1.0)


@given(st.floats(0.05, 20), st.integers(1, 40), st.floats(1, 12))
def test_the_prior_can_run_sooner_or_later(s: float, steps: int, shift: float) -> None:
    told = [DIPW(prior_shift=s).prior(i / steps) for i in range(steps + 1)]
    assert told[0] == (1.0, 0.0) and told[-1] == (0.0, 1.0)
    actions = [action for _, action in told]
    assert actions == sorted(actions) and all(sum(pair) == pytest.approx(1) for pair in told)
    plain = [DIPW(**PAPER).prior(i / steps)[1] for i in range(steps + 1)]
    assert plain == pytest.approx([i / steps for i in range(steps + 1)])
    later = [b - a for a, b in zip(plain, actions, strict=True)]
    assert all(x >= -1e-12 for x in later) if s >= 1 else all(x <= 1e-12 for x in later)
    by_noise = [DIPW(prior_shift=1 / shift).prior(i / steps)[1] for i in range(steps + 1)]
    assert by_noise == pytest.approx([1 - t for t in flow_sigmas(steps, shift).tolist()], abs=1e-6)


@given(st.floats(0.05, 300), st.integers(1, 30), st.floats(1, 12))
def test_by_noise_the_prior_is_the_same_at_a_level_of_any_schedule(s: float, steps: int, shift: float) -> None:
    """With two samplers that share a schedule, too; and at the end all is the action's."""
    settings = DIPW(prior_clock="noise", prior_shift=s)
    sigmas = flow_sigmas(steps, shift).tolist()

    def priors(part: list[float]) -> list[float]:
        mixer = PromptMixer(cond(1), cond(2), part, None, settings)
        for t in part[:-1]:
            mixer.text(t)
        return [entry.prior[1] for entry in mixer.record]

    odds = [s * (1 - t) / t if t else math.inf for t in sigmas[1:]]
    assert priors(sigmas) == pytest.approx([1 - 1 / (1 + odd) for odd in odds], abs=1e-9)
    half = max(1, steps // 2)
    if steps > 1:
        assert priors(sigmas[: half + 1]) + priors(sigmas[half:]) == priors(sigmas)
    # A level that is no share of noise is told as one: x = x0 + σ·noise with σ = t / (1 − t).
    old = [t / (1 - t) if t < 1 else 1e9 for t in sigmas]
    mixer = PromptMixer(cond(1), cond(2), old, None, settings, noise=lambda level: level / (1 + level))
    assert [mixer.progress(i + 1) for i in range(steps)] == pytest.approx([1 - t for t in sigmas[1:]], abs=1e-6)


def test_weights_are_the_papers_formula() -> None:
    seen = torch.tensor([[0.3, 0.1], [0.2, 0.6]])
    mixer = PromptMixer(cond(1), cond(2), levels(4), lambda x0: seen, DIPW(every=1, **PAPER))
    first = mixer.text(1.0)
    mixer.observe(torch.zeros(ROWS, 1, 1, 1, 1))
    mixer.text(levels(4)[1])
    used = first.tokens.flatten(1)
    scores = [
        [
            float(seen[row, k])
            + float(torch.cosine_similarity(cond(k + 1).tokens.flatten(1)[row], used[row], dim=0))
            + (0.5, 0.5)[k]
            for k in (0, 1)
        ]
        for row in range(ROWS)
    ]
    expected = torch.tensor([[math.exp(s / 0.5) for s in row] for row in scores])
    assert torch.allclose(mixer.record[1].weights, expected / expected.sum(1, keepdim=True), atol=1e-6)


def test_steps_are_found_by_noise_level_whatever_the_number_of_calls() -> None:
    """Heun asks twice at every level but the first; a call between two levels belongs to the step it lies in."""
    once = PromptMixer(cond(1), cond(2), levels(), None)
    heun = PromptMixer(cond(1), cond(2), levels(), None)
    for i, t in enumerate(levels()[:-1]):
        text = once.text(t)
        for _ in range(2 if i else 1):
            assert torch.equal(heun.text(t).tokens, text.tokens)
        between = (t + levels()[i + 1]) / 2
        assert once.step_at(between) == i + 1
    assert len(once.record) == len(heun.record) == 8


def test_a_sampler_that_looks_ahead_and_comes_back_sees_the_same_texts() -> None:
    """As heunpp2 does; what is recorded and decided is what a sampler that only goes forward has."""
    forward = PromptMixer(cond(1), cond(2), levels(), None)
    texts = [forward.text(t) for t in levels()[:-1]]
    ahead = PromptMixer(cond(1), cond(2), levels(), None)
    for i in (0, 1, 2, 1, 2, 3, 2, 3, 4, 5, 4, 6, 7, 0):
        text = ahead.text(levels()[i])
        assert torch.equal(text.tokens, texts[i].tokens) and torch.equal(text.mask, texts[i].mask)
    assert [entry.step for entry in ahead.record] == list(range(1, 9))
    pairs = zip(ahead.record, forward.record, strict=True)
    assert all(torch.equal(a.weights, b.weights) and torch.equal(a.previous, b.previous) for a, b in pairs)


def test_pictures_are_scored_every_so_many_steps_between_the_bounds() -> None:
    calls: list[int] = []

    def scorer(x0: torch.Tensor) -> torch.Tensor:
        calls.append(len(mixer.record) + 1)
        return torch.zeros(ROWS, 2)

    mixer = PromptMixer(cond(1), cond(2), levels(12), scorer, DIPW(every=4, end=levels(12)[9]))
    for t in levels(12)[:-1]:
        mixer.text(t)
        mixer.observe(torch.zeros(ROWS, 1, 1, 1, 1))
    assert calls == [2, 6, 10]


def test_equal_prompts_stay_bit_equal_and_the_dominant_mask_is_taken() -> None:
    a, longer = cond(1), cond(2, TOKENS + 3)
    weights = torch.tensor([[0.3, 0.7], [0.9, 0.1]])
    assert torch.equal(mix(a, cond(1), weights).tokens, a.tokens)
    mixer = PromptMixer(a, longer, levels(), None)
    mixed = mix(mixer.scene, mixer.action, weights)
    assert mixed.mask.sum(1).tolist() == [TOKENS + 3, TOKENS]  # no padding of the shorter prompt becomes live


def test_time_weighted_mean_is_equation_2() -> None:
    z = torch.randn(1, 3, 4, 2, 2)
    w = torch.tensor([0.9**3, 0.9**2, 0.9, 1.0])
    expected = (z * (w / w.sum()).view(1, 1, 4, 1, 1)).sum(2, keepdim=True)
    assert torch.allclose(time_weighted(z), expected, atol=1e-6)
    assert torch.allclose(time_weighted(z.flip(2), nearest="first"), expected, atol=1e-6)
    assert torch.allclose(time_weighted(torch.ones(1, 1, 7, 1, 1)), torch.ones(1))


@given(st.floats(0, 0.5), st.integers(1, 5))
def test_blend_is_equation_3_and_touches_one_frame(gamma: float, frames: int) -> None:
    before, x0 = torch.randn(2, 3, 4, 2, 2), torch.randn(2, 3, frames, 2, 2)
    kept = x0.clone()
    out = Blend(before, gamma)(x0, 0.5)
    first = gamma * before[:, :, -1] + gamma * time_weighted(before)[:, :, 0] + (1 - 2 * gamma) * x0[:, :, 0]
    assert torch.allclose(out[:, :, 0], first, atol=1e-5)
    assert torch.equal(out[:, :, 1:], x0[:, :, 1:]) and torch.equal(x0, kept)
    if gamma == 0:
        assert out is x0


def test_blend_bounds() -> None:
    z = torch.randn(1, 3, 2, 2, 2)
    assert Blend(z, 0.3, until=0.4)(z, 0.3) is z
    with pytest.raises(InputError, match="gamma"):
        Blend(z, 0.6)


def test_positions_and_fitted_previews() -> None:
    assert positions(5, 1) == [2] and positions(1, 3) == [0, 0, 0] and positions(6, 2) == [1, 4]
    g = torch.Generator().manual_seed(0)
    z = torch.rand(4, 6, 5, 7, generator=g) * 0.3
    truth = LatentRGB(torch.rand(6, 3, generator=g), torch.full((3,), 0.05))
    pictures = truth(z[:, :, None])[:, 0]
    fitted = fit_latent_rgb(z, pictures)
    assert torch.allclose(fitted(z[:, :, None]), truth(z[:, :, None]), atol=1e-4)


class WithoutFloat64(torch.Tensor):
    """A tensor on a device that has no float64, as Apple's: only what is moved to the CPU becomes one."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.cpu:
            return args[0].as_subclass(torch.Tensor)
        wanted = (*args, *(kwargs or {}).values())
        if func is torch.Tensor.double or any(value is torch.float64 for value in wanted):
            raise TypeError("this device has no float64")
        return super().__torch_function__(func, types, args, kwargs or {})


def test_previews_are_fitted_where_there_is_no_float64() -> None:
    z, pictures = torch.rand(4, 6, 5, 7), torch.rand(4, 3, 10, 14)
    there = fit_latent_rgb(z.as_subclass(WithoutFloat64), pictures.as_subclass(WithoutFloat64))
    here = fit_latent_rgb(z, pictures)
    assert torch.equal(there.factors, here.factors) and torch.equal(there.bias, here.bias)


def story_of(path: Path, **settings: object) -> tuple[TextToVideoModel, StorySampler]:
    studio = load_studio(path)
    how = VideoSettings(steps=3, shift=3.0, text_length=32)
    model = TextToVideoModel(WAN_2, studio.video, studio.video_vae, studio.video_text, 5, (32, 48), how)
    pictures = decoded_frames(studio.video_vae.decode_image)
    clip = studio.clip
    sampler = StorySampler(model, StorySettings(**settings), clip.embed_texts, clip.embed_images, pictures)  # type: ignore[arg-type]
    return model, sampler


def seed(n: int) -> torch.Generator:
    return torch.Generator().manual_seed(n)


PAIRS = (
    PromptPair(["in the desert. <Mira> stands on the left."], ["<Mira> waves on the left."]),
    PromptPair(["in the town. <Mira> stands on the left."], ["<Mira> dances on the left."]),
)


def test_equal_prompts_without_blending_are_the_plain_sampler_bit_for_bit(tiny_studio: Path) -> None:
    same = PromptPair(PAIRS[0].scene, PAIRS[0].scene)
    _, mixed = story_of(tiny_studio, gamma=0.0)
    _, plain = story_of(tiny_studio, gamma=0.0, dipw=None)
    assert torch.equal(mixed.segment(same, generator=seed(1)).latents, plain.segment(same, generator=seed(1)).latents)


def test_a_story_blends_by_gamma_and_its_parts_can_be_resumed(tiny_studio: Path) -> None:
    _, sampler = story_of(tiny_studio, gamma=0.4, semantic=False)
    _, apart = story_of(tiny_studio, gamma=0.0)
    whole = sampler.story(PAIRS, [seed(1), seed(2)])
    assert whole[1].gamma.tolist() == pytest.approx([0.4]) and len(whole[1].record) == 3
    resumed = sampler.segment(PAIRS[1], (PAIRS[0], whole[0].latents), seed(2))
    assert torch.equal(resumed.latents, whole[1].latents)
    alone = apart.segment(PAIRS[1], (PAIRS[0], whole[0].latents), seed(2)).latents
    last = whole[0].latents[:, :, -1]
    assert (whole[1].latents[:, :, 0] - last).norm() < 0.5 * (alone[:, :, 0] - last).norm()


def test_semantic_gamma_shrinks_where_actions_are_alike(tiny_studio: Path) -> None:
    _, sampler = story_of(tiny_studio, gamma=0.4)
    first = sampler.segment(PAIRS[0], generator=seed(1))
    again = sampler.segment(PAIRS[0], (PAIRS[0], first.latents), seed(2))
    assert again.gamma.tolist() == pytest.approx([0.0], abs=1e-5)


def test_given_latents_stay_and_the_backward_pass_draws_the_end_nearer(tiny_studio: Path) -> None:
    model, sampler = story_of(tiny_studio, gamma=0.4, semantic=False)
    given_latents = torch.randn(1, model.vae.latent_channels, 1, 4, 6)
    first = sampler.segment(PAIRS[0], generator=seed(1), clean_latents=given_latents)
    assert torch.equal(first.latents[:, :, :1], given_latents)
    second = sampler.segment(PAIRS[1], (PAIRS[0], first.latents), seed(2))
    _, back = story_of(tiny_studio, gamma=0.4, semantic=False, backward=0.45, backward_from=0.7)
    again = back.backward(PAIRS[0], first.latents, second.latents, seed(1), given_latents)
    target = second.latents[:, :, 0]
    assert (again[:, :, -1] - target).norm() < (first.latents[:, :, -1] - target).norm()
    assert torch.equal(again[:, :, :1], given_latents)


def test_a_story_s_backward_pass_is_that_of_its_segments(tiny_studio: Path) -> None:
    """Its noise depends on the seeds, and not on what was drawn before it."""
    _, sampler = story_of(tiny_studio, gamma=0.4, semantic=False, backward=0.4)
    one = sampler.story(PAIRS, [seed(1), seed(2)])
    rows = sampler.story(PAIRS, [[seed(1)], [seed(2)]])
    first = sampler.segment(PAIRS[0], generator=seed(1))
    second = sampler.segment(PAIRS[1], (PAIRS[0], first.latents), seed(2))
    again = sampler.backward(PAIRS[0], first.latents, second.latents, seed(1))
    for made in (one, rows):
        assert torch.equal(made[0].latents, again) and torch.equal(made[1].latents, second.latents)
    assert not torch.equal(again, first.latents)


def test_the_prior_of_a_backward_pass_goes_on_where_its_noise_level_stands(tiny_studio: Path) -> None:
    model, sampler = story_of(tiny_studio, gamma=0.0, backward_from=0.7, dipw=DIPW((0.0, 0.0, 1.0), **PAPER))
    latents = sampler.segment(PAIRS[0], generator=seed(1)).latents
    scene, action = align(model.encode(PAIRS[0].scene), model.encode(PAIRS[0].plain))

    def text(t: float) -> TextCond:
        prior = {0.7: torch.tensor([[1 / 3, 2 / 3]]), 0.6: torch.tensor([[0.0, 1.0]])}  # steps 2 and 3 of 3
        return mix(scene, action, torch.softmax(prior[round(t, 3)] / 0.5, 1))

    sigmas = torch.tensor([0.7, *model.sigmas[2:]])
    by_hand = model.denoise(text, 1, seed(1), sigmas=sigmas, start=lambda noise: 0.3 * latents + 0.7 * noise)
    seen: list[int] = []
    again = sampler.backward(PAIRS[0], latents, latents, seed(1), callback=lambda step: seen.append(step.index))
    torch.testing.assert_close(again, by_hand, atol=1e-5, rtol=0)
    assert seen == [0, 1]


def test_a_decoded_video_is_read_as_far_as_it_is_shown() -> None:
    parts = torch.rand(2, 25, 3, 4, 6).split([1, 6, 6, 6, 6], 1)
    whole = torch.cat(parts, 1)
    read: list[int] = []

    def decode(latents: torch.Tensor) -> Iterator[torch.Tensor]:
        for number, part in enumerate(parts):
            read.append(number)
            yield part

    z = torch.zeros(2, 12, 5, 4, 6)
    for frames, last in ((1, 2), (2, 3), (5, 4), (40, 4)):
        chosen = whole[:, positions(25, frames)]
        read.clear()
        assert torch.equal(decoded_video(decode, frames, grid=6)(z), chosen)
        assert read == list(range(last + 1))
        assert torch.equal(decoded_video(decode, frames)(z), chosen)
        assert torch.equal(decoded_video(lambda z: iter([whole]), frames)(z), chosen)


def test_full_decode_and_single_frame_show_pictures(tiny_studio: Path) -> None:
    model, _ = story_of(tiny_studio)
    z = torch.randn(2, model.vae.latent_channels, 2, 4, 6)
    assert decoded_video(model.decode)(z).shape == decoded_frames(model.vae.decode_image)(z).shape == (2, 1, 3, 32, 48)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(InputError, match="tau"):
        DIPW(tau=0)
    with pytest.raises(InputError, match="every"):
        DIPW(every=0)
    for wrong in (0, -1, math.nan, math.inf):
        with pytest.raises(InputError, match="^prior_shift: must be a positive"):
            DIPW(prior_shift=wrong)
    with pytest.raises(InputError, match="^prior_clock: must be one of steps, noise"):
        DIPW(prior_clock="time")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="sigmas"):
        PromptMixer(cond(1), cond(2), [0.0, 1.0])
    with pytest.raises(InputError, match="as many scenes"):
        PromptPair(["a"], [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma": 0.51},
        {"gamma": -0.1},
        {"gamma": math.nan},
        {"backward": 0.6},
        {"at": "step"},
        {"until": 1.5},
        {"until": math.nan},
        {"backward_from": 0.0},
        {"backward_from": 1.0},
        {"action_prompt": "both"},
    ],
)
def test_settings_out_of_their_range_are_refused(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(InputError, match=f"^{name}: must "):
        StorySettings(**wrong)  # type: ignore[arg-type]
    StorySettings(gamma=0.5, backward=0.5, at="start", until=1.0, backward_from=0.01)


def test_tellings_tell_the_truth_in_pairs() -> None:
    stories, longer = prompt_stories(3, 40, 4), prompt_stories(3, 40, 6)
    assert all(a.shots == b.shots[:4] for a, b in zip(stories, longer, strict=True))
    moved = [a.layout != b.layout for story in longer for a, b in zip(story.shots, story.shots[1:], strict=False)]
    assert 0.15 < sum(moved) / len(moved) < 0.45
    for story in stories:
        for i, shot in enumerate(story.shots):
            assert PLACES[shot.layout.place] in story.scene(i) and PLACES[shot.layout.place] not in story.action(i)
            for actor in shot.actors:
                assert actor.action and ACTIONS[actor.action] in story.action(i)
                assert actor.look.describe() in story.scene(i) and f"<{actor.name}>" in story.action(i)
                assert f"<{actor.name}>" not in story.scene(i, query=True) + story.action(i, query=True)
    pair = prompt_pair(stories, 2)
    assert len(pair.scene) == 40 and pair.action[5] == stories[5].action(2)
