"""Text2Story on native models: tiny Wan and Mochi with random weights, and the pocket studio's CLIP pair."""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.patcher_extension
import comfy.samplers
import comfy.supported_models
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from in_comfyui.mixing_runs import (
    ACTION,
    CHANNELS,
    MOCHI,
    NEGATIVE,
    SCENE,
    blended,
    latent,
    looking,
    mixed,
    patched,
    plain,
    prompt,
    run,
    spied,
    steps_of,
    weights_of,
)
from in_comfyui.tiny import patcher
from in_comfyui.tiny_wan import headless, native
from torch import Tensor

import nodes as comfy_nodes
from anchorshot.comfyui.images import encode_frames
from anchorshot.comfyui.mixing import _KEY
from anchorshot.comfyui.mixing_preview import DECODED, preview_images
from anchorshot.core.errors import InputError
from anchorshot.nodes import mixing
from anchorshot.sampling.text2story.action_similarity import semantic_gamma
from anchorshot.sampling.text2story.blending import Blend, blend_noise


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {"wan": native(headless()), "mochi": patcher(comfy.supported_models.GenmoMochi, MOCHI)}


@pytest.fixture(params=["wan", "mochi"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(models: dict[str, Any], kind: str) -> Any:
    return models[kind]


@pytest.fixture(scope="module")
def pair(studio: dict[str, Any]) -> dict[str, Any]:
    return looking(studio)


# --- prompt mixing ---------------------------------------------------------------------------------------------------


def test_equal_prompts_are_the_plain_sampler(model: Any, kind: str, pair: dict[str, Any]) -> None:
    for rows in (1, 2):
        expected = run(plain(model), latent(kind, rows=rows))
        assert torch.equal(run(mixed(model, SCENE, SCENE, **pair), latent(kind, rows=rows)), expected)
    assert not torch.equal(run(mixed(model, SCENE, prompt(2, 6), **pair), latent(kind, rows=2)), expected)


def test_guider_and_patch_are_bit_identical(model: Any, kind: str, pair: dict[str, Any]) -> None:
    made = run(mixed(model, **pair), latent(kind))
    patch = patched(model, **pair)
    assert torch.equal(run(plain(patch), latent(kind)), made)
    given = {"samples": latent(kind)}
    out = comfy_nodes.KSampler().sample(patch, 1, 4, 4.0, "euler", "simple", SCENE, NEGATIVE, given)[0]
    assert torch.equal(out["samples"], made)


def test_weights_sum_to_one_and_follow_the_picture(model: Any, kind: str, pair: dict[str, Any]) -> None:
    guider = mixed(model, **pair)
    run(guider, latent(kind), steps=6)
    weights, steps = weights_of(guider), steps_of(guider)
    assert weights.shape == (6, 2) and torch.allclose(weights.sum(1), torch.ones(6), atol=1e-6)
    assert [step.scored for step in steps] == [False] + 5 * [True]
    assert all(step.similarity.abs().max() > 0 for step in steps[1:])
    blind = mixed(model)
    run(blind, latent(kind), steps=6)
    assert not any(step.scored for step in steps_of(blind)) and not torch.equal(weights_of(blind), weights)
    assert weights_of(blind)[0, 0] > 0.5 > weights_of(blind)[-1, 0]  # scene first, action later


def test_pictures_are_scored_between_the_bounds(models: dict[str, Any], pair: dict[str, Any]) -> None:
    """Shares of the schedule that the sampler follows, also where it is shifted after the patch."""
    patch = patched(models["wan"], **pair, start_percent=0.3, end_percent=0.7)
    for shift in (1.0, 8.0):
        (shifted,) = ModelSamplingSD3().patch(patch, shift)
        run(plain(shifted), latent("wan"), steps=10)
        steps = shifted.attachments[_KEY].runs[-1][1]
        high, low = (shifted.get_model_object("model_sampling").percent_to_sigma(p) for p in (0.3, 0.7))
        assert [step.scored for step in steps] == [low <= step.t <= high for step in steps]
        assert 2 < sum(step.scored for step in steps) < 8


def test_rows_of_a_batch_have_their_own_weights(model: Any, kind: str, pair: dict[str, Any]) -> None:
    guider = mixed(model, SCENE, prompt(2, 6), **pair)  # of one length, see the errors below
    run(guider, latent(kind, rows=2))
    rows = torch.stack([step.weights for step in steps_of(guider)])
    assert rows.shape == (4, 2, 2) and not torch.equal(rows[-1, 0], rows[-1, 1])


def test_mochi_padding_is_never_live(models: dict[str, Any], pair: dict[str, Any]) -> None:
    seen: list[dict[str, Any]] = []
    guider = mixed(spied(models["mochi"], seen.append), prompt(1, 6), prompt(2, 11))
    made = run(guider, latent("mochi"), steps=6)
    dominant = [6 if scene >= action else 11 for scene, action in weights_of(guider).tolist()]
    found = [c for c in seen if c["num_tokens"] != 2]  # without the negative's calls
    assert {6, 11} == set(dominant)
    for call, live in zip(found, dominant, strict=True):
        mask = call["attention_mask"]
        assert not mask.is_floating_point() and mask.dtype != torch.bool
        assert mask[0].tolist() == [1] * live + [0] * (16 - live) and call["num_tokens"] == live
    # Whatever stands in the padding of either prompt changes nothing.
    other = mixed(models["mochi"], prompt(1, 6, padding=50.0), prompt(2, 11, padding=-7.0))
    assert torch.equal(run(other, latent("mochi"), steps=6), made)


def test_guiders_share_no_state(models: dict[str, Any], kind: str, pair: dict[str, Any]) -> None:
    one, two = mixed(models[kind], **pair), mixed(models[kind], ACTION, SCENE, **pair)
    first, second = run(one, latent(kind)), run(two, latent(kind))
    weights = weights_of(one)
    assert not torch.equal(first, second)
    assert torch.equal(run(one, latent(kind)), first) and torch.equal(weights_of(one), weights)
    assert torch.equal(run(two, latent(kind)), second)
    # One in the middle of a run of another (core cannot run one model inside itself).
    other = "mochi" if kind == "wan" else "wan"
    third, inner = mixed(models[other], **pair), list[Tensor]()
    expected = run(third, latent(other))
    outer = mixed(spied(models[kind], lambda call: inner.append(run(third, latent(other)))), **pair)
    assert torch.equal(run(outer, latent(kind)), first)
    assert len(inner) >= 4 and all(torch.equal(made, expected) for made in inner)


def test_interrupted_run_leaves_nothing_behind(model: Any, kind: str, pair: dict[str, Any]) -> None:
    fresh = run(mixed(model, **pair), latent(kind))
    armed = [False]

    def cancel(call: dict[str, Any]) -> None:
        if armed[0]:
            armed[0] = False
            raise comfy.model_management.InterruptProcessingException

    guider = mixed(blended(spied(model, cancel), torch.ones(latent(kind).shape), gamma=0.0), **pair)
    options = set(guider.model_options)
    armed[0] = True
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(guider, latent(kind))
    assert not guider.model_patcher.attachments[_KEY].runs and set(guider.model_options) == options
    assert torch.equal(run(guider, latent(kind)), fresh)


def test_patches_leave_the_original_clean(model: Any, kind: str, pair: dict[str, Any]) -> None:
    before = run(plain(model), latent(kind))
    patch = blended(patched(model, **pair), torch.ones(latent(kind).shape))
    run(plain(patch), latent(kind))
    assert not any(_KEY in keys for keys in model.wrappers.values()) and _KEY not in model.attachments
    assert not model.additional_models and "sampler_post_cfg_function" not in model.model_options
    assert torch.equal(run(plain(model), latent(kind)), before)
    again = patch.clone()  # as a LoRA loader would
    assert torch.equal(run(plain(again), latent(kind)), run(plain(patch), latent(kind)))


@pytest.mark.parametrize("preview", ["latent_rgb", *DECODED])
def test_scoring_loads_nothing_between_steps(
    studio: dict[str, Any], pair: dict[str, Any], preview: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLIP and VAE come with the model, once; loading between steps could evict it."""
    vae, encoder, loads = studio["video_vae"], studio["video_clip"], list[Any]()
    words = encoder.encode_from_tokens_scheduled(encoder.tokenize("a"))
    guider = mixed(studio["video_model"], words, words, words, 1.0, **pair, vae=vae, preview=preview)
    real = comfy.model_management.load_models_gpu
    monkeypatch.setattr(
        comfy.model_management, "load_models_gpu", lambda found, *a, **k: (loads.append(found), real(found, *a, **k))
    )
    run(guider, torch.zeros(1, vae.latent_channels, 2, 10, 20))
    assert [step.scored for step in steps_of(guider)] == [False, True, True, True] and len(loads) == 1
    for lent in [pair["clip_vision"].patcher] + ([vae.patcher] if preview in DECODED else []):
        assert any(m.is_clone(lent) for m in loads[0])


def test_colours_of_a_model_without_published_ones(
    studio: dict[str, Any], pair: dict[str, Any], pictures: Tensor
) -> None:
    """Measured with the VAE; and one frame through the VAE itself. Both on the pocket's video model."""
    model, vae = studio["video_model"], studio["video_vae"]
    encoded = [studio["video_clip"].encode_from_tokens_scheduled(studio["video_clip"].tokenize(t)) for t in "ab"]
    empty = torch.zeros(1, vae.latent_channels, 2, 10, 20)
    fitted = model.clone()
    fitted.model = _without_colours(model.model)
    with pytest.raises(InputError, match="vae: is needed for latent_rgb"):
        mixed(fitted, *encoded, encoded[0], 1.0, **pair)
    found = []
    for chosen, preview in ((fitted, "latent_rgb"), (model, "decoded_frame")):
        guider = mixed(chosen, *encoded, encoded[0], 1.0, **pair, vae=vae, preview=preview)
        run(guider, empty, steps=3)
        found.append(torch.stack([step.similarity[0] for step in steps_of(guider)[1:]]))
    assert all(f.abs().min() > 0 and torch.isfinite(f).all() for f in found)
    # Decoded pictures are the VAE's own: the middle frame, and the middle latent frame alone.
    z = torch.randn(1, vae.latent_channels, 3, 10, 20, generator=torch.Generator().manual_seed(0))
    frames = vae.decode(model.model.process_latent_out(z))[0].movedim(-1, 1)
    alone = vae.decode(model.model.process_latent_out(z[:, :, 1:2]))[0].movedim(-1, 1)
    for preview, shown in (("decoded_video", frames[4:5]), ("decoded_frame", alone)):
        assert torch.allclose(preview_images(model, preview, vae)(z)[0], shown, atol=1e-4)
    # Measured colours are those of the pictures that were encoded.
    latents = encode_frames(vae, pictures.movedim(-1, 1))
    small = torch.nn.functional.interpolate(pictures.movedim(-1, 1), latents.shape[-2:], mode="area")
    shown = preview_images(fitted, "latent_rgb", vae)(model.model.process_latent_in(latents[:, :, None]))[:, 0]
    assert (shown - small).abs().mean() < 0.5 * (small - small.mean((0, 2, 3), keepdim=True)).abs().mean()


@pytest.mark.parametrize("known", [True, False])
def test_short_of_memory_tiles_are_decoded(
    studio: dict[str, Any], known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether ComfyUI's estimate says so, or the device does; and nothing is loaded to make room."""
    model, vae = studio["video_model"], studio["video_vae"]
    z = torch.randn(1, vae.latent_channels, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    real, refused = vae.first_stage_model.decode, list[int]()

    def decode(part: Tensor, **more: Any) -> Tensor:
        if part.shape == z.shape and not refused and not known:
            refused.append(1)
            raise torch.OutOfMemoryError
        return real(part, **more)

    wanted = preview_images(model, "decoded_video", vae)(z)
    monkeypatch.setattr(vae.first_stage_model, "decode", decode)
    monkeypatch.setattr(vae, "memory_used_decode", lambda shape, dtype: 1 << 60 if known else 0)
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda *_, **__: pytest.fail("loads"))
    with torch.inference_mode():  # as ComfyUI runs nodes
        tiled = preview_images(model, "decoded_video", vae)(z)
    assert tiled.shape == wanted.shape and 0 < (tiled - wanted).abs().mean() < 0.02
    assert bool(refused) != known


def _without_colours(model: Any) -> Any:
    import copy

    model = copy.copy(model)
    model.latent_format = copy.copy(model.latent_format)
    model.latent_format.latent_rgb_factors = None
    return model


def test_weight_curve_is_of_the_run_that_made_the_latent(model: Any, kind: str, pair: dict[str, Any]) -> None:
    guider = mixed(model, **pair)
    made = [run(guider, latent(kind), seed=seed) for seed in (1, 2)]
    curves = [mixing.DIPWWeights.execute(guider, {"samples": samples}).args[0] for samples in made]
    assert curves[0].shape == (1, 320, 640, 3) and not torch.equal(*curves)
    patch = patched(model, **pair)
    run(plain(patch), latent(kind), seed=1)
    assert torch.equal(mixing.DIPWWeights.execute(patch.clone(), {"samples": made[0]}).args[0], curves[0])
    for wrong in (model, plain(model), mixed(model)):
        with pytest.raises(InputError, match="mixed: must be what the latent was sampled with"):
            mixing.DIPWWeights.execute(wrong, {"samples": made[0]})


def test_mixing_errors_say_what_to_do(models: dict[str, Any], pair: dict[str, Any]) -> None:
    wan = models["wan"]
    for weighting, said in [
        (pair | {"action_text": " "}, "action_text: is needed to score pictures"),
        (pair | {"preview": "decoded_frame"}, "vae: is needed for decoded_frame"),
        ({"temperature": 0.0}, "temperature: must be a finite number of at least 0.01"),
    ]:
        with pytest.raises(InputError, match=said):
            mixed(wan, **weighting)
    with pytest.raises(InputError, match="latent: must be one video"):
        run(mixed(models["mochi"], SCENE, prompt(2, live=5), **pair), latent("mochi", rows=2))
    with pytest.raises(InputError, match="model: must not have a DIPW patch yet"):
        patched(patched(wan))
    with pytest.raises(InputError, match="scene: must be one prompt"):
        run(mixed(wan, SCENE + ACTION), latent("wan"))
    with pytest.raises(InputError, match="action: must be a CONDITIONING of at least one prompt"):
        run(mixed(wan, SCENE, []), latent("wan"))
    with pytest.raises(InputError, match="action: must be a text alone .*area"):
        run(mixed(wan, SCENE, [[ACTION[0][0], {"area": (2, 2, 0, 0)}]]), latent("wan"))


# --- blending --------------------------------------------------------------------------------------------------------


def near(kind: str, frames: int = 4) -> Tensor:
    return torch.randn(1, CHANNELS[kind], frames, 4, 6, generator=torch.Generator().manual_seed(7))


def test_gamma_zero_changes_nothing(model: Any, kind: str) -> None:
    expected = run(plain(model), latent(kind))
    assert torch.equal(run(plain(blended(model, near(kind), 0.0)), latent(kind)), expected)
    assert torch.equal(run(plain(blended(model, None)), latent(kind)), expected)
    assert not torch.equal(run(plain(blended(model, near(kind))), latent(kind)), expected)


@pytest.mark.parametrize("end", ["first", "last"])
def test_a_segment_starts_where_its_neighbour_ends(model: Any, kind: str, end: str) -> None:
    """γ = 0.5 gives exactly the neighbour's half frames; more γ brings the frame nearer."""
    neighbour = near(kind)
    process = model.model.process_latent_in, model.model.process_latent_out
    wanted = process[1](Blend(process[0](neighbour), 0.5, end=end)(torch.zeros(1, CHANNELS[kind], 1, 4, 6)))
    at = 0 if end == "first" else -1
    frames = [run(plain(blended(model, neighbour, g, end=end)), latent(kind))[:, :, at] for g in (0.0, 0.2, 0.5)]
    far, nearer, there = ((frame - wanted[:, :, 0]).norm().item() for frame in frames)
    assert far > nearer > there and torch.allclose(frames[2], wanted[:, :, 0], atol=1e-4)


def test_blending_the_noise(model: Any, kind: str) -> None:
    neighbour = near(kind)
    made = run(plain(blended(model, neighbour, 0.2, when="initial_noise")), latent(kind))
    noise = Noise_RandomNoise(1).generate_noise({"samples": latent(kind)})
    guider = plain(model)
    levels = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 4)
    started = blend_noise(noise, Blend(model.model.process_latent_in(neighbour), 0.2))
    assert torch.equal(
        made, guider.sample(started, latent(kind), comfy.samplers.sampler_object("euler"), levels, seed=1)
    )


def test_noise_is_blended_only_where_there_is_some(model: Any, kind: str) -> None:
    """A second sampler adds none: it goes on from the first one's latents."""
    half = run(plain(model), latent(kind), part=slice(0, 3))
    expected = run(plain(model), half, seed=None, part=slice(2, None))
    patch = blended(model, near(kind), 0.4, when="initial_noise")
    assert torch.equal(run(plain(patch), half, seed=None, part=slice(2, None)), expected)


def test_blending_can_end_early(model: Any, kind: str) -> None:
    whole, half, none = (
        run(plain(blended(model, near(kind), 0.4, end_percent=share)), latent(kind)) for share in (1.0, 0.5, 0.0)
    )
    assert not torch.equal(whole, half) and not torch.equal(half, none)
    assert torch.equal(none, run(plain(model), latent(kind)))


def test_order_of_both_patches_does_not_matter(model: Any, kind: str, pair: dict[str, Any]) -> None:
    one = run(plain(blended(patched(model, **pair), near(kind))), latent(kind))
    two = run(plain(patched(blended(model, near(kind)), **pair)), latent(kind))
    assert torch.equal(one, two)
    assert torch.equal(run(mixed(blended(model, near(kind)), **pair), latent(kind)), one)


def test_blending_errors_say_what_to_do(models: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="previous: must be a video's latent"):
        blended(models["wan"], torch.zeros(1, 16, 4, 6))
    with pytest.raises(InputError, match="model: must not be blended at this end yet"):
        blended(blended(models["wan"], near("wan")), near("wan"))
    run(plain(blended(blended(models["wan"], near("wan")), near("wan"), end="last")), latent("wan"))
    with pytest.raises(InputError, match="previous: must have the channels and size of the new latent"):
        run(plain(blended(models["wan"], near("mochi"))), latent("wan"))


def test_sar(studio: dict[str, Any]) -> None:
    def sar(a: str, b: str, encoding: str = "tokens", clip: str = "video_clip") -> tuple[float, float]:
        return mixing.SAR.execute(studio[clip], a, b, 0.3, encoding).args

    gamma, similarity = sar("a red triangle jumps", "a red triangle jumps")
    assert similarity == pytest.approx(1, abs=1e-5) and gamma == pytest.approx(0, abs=1e-5)
    gamma, similarity = sar("a red triangle jumps", "close-up, static, on the moon")
    assert 0 < gamma <= 0.3 and gamma == pytest.approx(semantic_gamma(0.3, similarity))
    assert sar("", "jumps") == (0.3, 0.0)
    assert sar("a red triangle jumps", "on the moon", "pooled", "retrieval_clip")[1] < 1
    with pytest.raises(InputError, match="encoding: pooled needs a CLIP text model"):
        sar("a", "b", "pooled")
