"""SmartDirector on ComfyUI's Wan models: equal to the headless adapter, undone with the clone, clear about input."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.supported_models
import pytest
import torch
from in_comfyui.tiny_wan import PLAIN_VAE, TEXT, headless, native, noise, pixels, relative, vae_file
from torch import Tensor

from anchorshot.comfyui.video import chunk_vae
from anchorshot.core.errors import InputError
from anchorshot.models.backbones.native_solvers import adds_noise
from anchorshot.models.backbones.wan.native import Experts, patch_model, patch_video, sample_native
from anchorshot.models.backbones.wan.vae import VideoVAE
from anchorshot.models.io.loading import load_vae
from anchorshot.models.layouts import chunks as layout
from anchorshot.models.layouts.chunks import VideoPlan, plan_extension, plan_video, rope_table
from anchorshot.models.layouts.video_latents import PLAN, decode_frames, extend_video, lay_out, multi_chunk_video, repin
from anchorshot.pocket.native import load_video_vae
from anchorshot.sampling import video as headless_video
from anchorshot.sampling.flow import flow_sigmas
from anchorshot.story.timeline import Timeline

FPS = 8
TEXTS = noise(1, 7, TEXT, seed=5), noise(1, 7, TEXT, seed=6)
POSITIVE, NEGATIVE = ([[text, {}]] for text in TEXTS)
KINDS = {"none": [], "first": [0.0], "last": [1.0], "several": [0.0, 0.5, 1.0]}


@pytest.fixture(scope="module")
def network():
    return headless()


@pytest.fixture(scope="module")
def model(network):
    return native(network)


@pytest.fixture(scope="module")
def vae_path(tmp_path_factory) -> Path:
    return vae_file(tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module")
def vae(vae_path):
    return chunk_vae(load_video_vae(vae_path))


@pytest.fixture(scope="module")
def headless_vae(vae_path) -> VideoVAE:
    return VideoVAE(load_vae("wan_vae", vae_path))


def timeline(times: list[float], seconds: float = 1.125) -> Timeline:
    return Timeline.plan(FPS, seconds, times)


PLAN_SEVERAL = plan_video(timeline(KINDS["several"]))


def given_latent(model: Any, plan: VideoPlan, rows: int = 1) -> tuple[Tensor, dict[str, Any]]:
    """Random keyframe latents in unit scale, and the LATENT that holds them as core nodes would."""
    channels = model.model.latent_format.latent_channels
    given = noise(rows, channels, len(plan.pinned), 4, 6, seed=9)
    return given, lay_out(plan, model.model.process_latent_out(given))


def plain(model: Any, latent: dict[str, Any], sigmas: Tensor, seed: int = 3, **options: Any) -> Tensor:
    """Core's own sampling."""
    samples = latent["samples"]
    start = comfy.sample.prepare_noise(samples, seed)
    euler = comfy.samplers.sampler_object("euler")
    options = {"noise_mask": latent.get("noise_mask"), "disable_pbar": True, "seed": seed, **options}
    with torch.no_grad():
        return comfy.sample.sample_custom(model, start, 1.0, euler, sigmas, POSITIVE, NEGATIVE, samples, **options)


def run(model: Any, latent: dict[str, Any], steps: int = 3, **options: Any) -> Tensor:
    options = {"sigmas": flow_sigmas(steps, 3.0), "seed": 3, "disable_pbar": True, **options}
    return sample_native(model, POSITIVE, NEGATIVE, latent, **options)["samples"]


# --- parity with the headless adapter ------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("times", KINDS.values(), ids=KINDS.keys())
def test_one_forward_equals_headless(network, model, times, rows) -> None:
    """One step from pure noise to 0: the result is noise − v."""
    plan = plan_video(timeline(times))
    given, latent = given_latent(model, plan, rows)
    found = model.model.process_latent_in(run(model, latent, 1))
    z = noise(*found.shape, seed=3)
    start = z.clone()
    start[:, :, plan.pinned] = given
    t = layout.frame_timesteps(torch.ones(rows), plan.pinned, plan.latents)
    velocity = network.forward_chunks(start, t, TEXTS[0].expand(rows, -1, -1), plan.rope_index)
    assert relative((z - found)[:, :, plan.free], velocity[:, :, plan.free]) < 1e-4


@pytest.mark.parametrize("experts", [False, True], ids=["one model", "two experts"])
def test_a_whole_run_equals_headless(network, model, experts) -> None:
    """The same seed gives the same noise on both hosts; guidance, shift and hand-over too."""
    other = headless(seed=1)
    given, latent = given_latent(model, PLAN_SEVERAL)
    found = run(Experts(model, native(other), 0.8) if experts else model, latent, 5, cfg=(3.0, 2.0))
    expected = headless_video.denoise(
        headless_video.Experts(network, other, 0.8) if experts else network,
        TEXTS[0],
        PLAN_SEVERAL,
        given,
        flow_sigmas(5, 3.0),
        negative=TEXTS[1],
        guidance=(3.0, 2.0),
        generator=torch.Generator().manual_seed(3),
    )
    assert relative(model.model.process_latent_in(found), expected) < 1e-4


@pytest.mark.parametrize("method", ["multi_chunk", "latent_replacement", "replication"])
def test_pixels_equal_headless(vae, headless_vae, method) -> None:
    """Keyframes encoded and a video decoded, every chunk on its own, as the headless VAE does it."""
    shot, images = timeline([0.0, 0.5]), pixels(2)
    plan = plan_video(shot, method)
    video = multi_chunk_video(vae, shot, images, method=method)
    expected = layout.encode_keyframes(headless_vae, images.movedim(-1, -3)[None], plan)
    assert relative(video.latent["samples"][:, :, plan.pinned], expected) < 1e-4
    assert set(video.latent["noise_mask"][0, 0, plan.free].flatten().tolist()) == {1.0}
    z = noise(*video.latent["samples"].shape)
    frames = decode_frames(vae, {**video.latent, "samples": z})
    assert frames.shape == (shot.frames, 16, 32, 3)
    expected = torch.cat(list(layout.decode_video(headless_vae, z, plan)), dim=1)[0].movedim(-3, -1)
    assert torch.allclose(frames, expected, atol=1e-4)


@pytest.mark.parametrize("times", [[], [0.0], [0.5]], ids=["goes on", "new shot", "towards a keyframe"])
def test_extension_equals_headless(vae, headless_vae, times) -> None:
    """The clip is context as a whole, in its own causal chunk; only new frames are decoded."""
    clip, shot, images = pixels(6), timeline(times), pixels(len(times), seed=1)
    plan = plan_extension(6, shot)
    video = extend_video(vae, clip, shot, images)
    assert video.plan == plan and video.pixels.shape[1] == 5 + len(times)
    context = headless_vae.encode_chunks(clip[None, -5:].movedim(-1, -3), [5])
    assert relative(video.latent["samples"][:, :, :2], context) < 1e-4
    assert video.latent["noise_mask"][0, 0, :, 0, 0].tolist() == [float(i in plan.free) for i in range(plan.latents)]
    assert decode_frames(vae, video.latent).shape[0] == plan.frames
    grey = video.image_latent
    assert torch.allclose(grey[:, :, :2], video.latent["samples"][:, :, :2], atol=1e-5)


def test_plain_vae_class_too(tmp_path) -> None:
    """Wan 2.1's class."""
    path = vae_file(tmp_path, PLAIN_VAE)
    video = multi_chunk_video(chunk_vae(load_video_vae(path)), timeline([0.0, 0.5]), pixels(2))
    expected = VideoVAE(load_vae("wan_vae", path)).encode_image(pixels(2).movedim(-1, -3))
    found = video.latent["samples"][0, :, video.plan.pinned].transpose(0, 1)
    assert relative(found, expected) < 1e-4


# --- what the patch does, and leaves alone -------------------------------------------------------------------------


def test_one_chunk_without_keyframes_is_the_stock_model(model) -> None:
    plan = VideoPlan("multi_chunk", [4], [], 13)
    _, latent = given_latent(model, plan)
    stock = plain(model, latent, flow_sigmas(3))
    assert torch.allclose(plain(patch_model(model, plan), latent, flow_sigmas(3)), stock, atol=1e-5)


def test_5b_reads_its_own_times_and_gets_the_positions() -> None:
    """One chunk with its keyframe is what the stock 5B makes of the same mask; several chunks are not."""
    model = native(headless(in_channels=48, out_channels=48), comfy.supported_models.WAN22_T2V)
    for chunks, pinned, same in (([4], [0], True), ([2, 2], [0, 2], False)):
        plan = VideoPlan("multi_chunk", chunks, pinned, 10)
        _, latent = given_latent(model, plan)
        stock = plain(model, latent, flow_sigmas(3))
        found = plain(patch_model(model, plan), latent, flow_sigmas(3))
        assert (relative(found[:, :, plan.free], stock[:, :, plan.free]) < 1e-5) == same


def test_positions_stay_exact_in_half_precision(model) -> None:
    """bf16 has no 64.25; the patch computes in fp32 whatever the model computes in."""
    plan = VideoPlan("multi_chunk", [65, 3], [0, 65], 266)
    rope = patch_model(model, plan).get_model_object("diffusion_model.rope_encode")
    found = rope(68, 4, 6, device=torch.device("cpu"), dtype=torch.bfloat16, transformer_options={})
    cos, sin = rope_table(plan.rope_index, 2, 3, (8, 8, 8))
    assert torch.allclose(found[0, :, 0, :, 0, 0], cos[0, :, 0, ::2], atol=1e-6)
    assert torch.allclose(found[0, :, 0, :, 1, 0], sin[0, :, 0, ::2], atol=1e-6)
    options = {"rope_options": {"shift_t": 1.0, "scale_x": 2.0}}
    moved = rope(68, 4, 6, device=torch.device("cpu"), dtype=torch.bfloat16, transformer_options=options)
    assert not torch.allclose(moved, found)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "uni_pc", "euler_ancestral"])
def test_keyframes_keep_every_bit_in_any_core_sampler(model, sampler) -> None:
    plan = PLAN_SEVERAL
    _, latent = given_latent(model, plan)
    samples = latent["samples"]
    with torch.no_grad():
        found = comfy.sample.sample(
            patch_model(model, plan), comfy.sample.prepare_noise(samples, 1), 3, 1.0, sampler, "simple", POSITIVE,
            NEGATIVE, samples, noise_mask=latent["noise_mask"], disable_pbar=True, seed=1,
        )  # fmt: skip
    assert torch.equal(found[:, :, plan.pinned], samples[:, :, plan.pinned])
    assert found[:, :, plan.free].std() > 0.1


def test_two_stages_equal_one(model) -> None:
    """Two experts of the same weights continue each other exactly; keyframes leave the first one clean."""
    _, latent = given_latent(model, PLAN_SEVERAL)
    whole = run(model, latent, 5)
    assert relative(run(Experts(model, model, 0.8), latent, 5), whole) < 1e-5
    half = run(model, latent, sigmas=flow_sigmas(5, 3.0)[:3])
    pinned = PLAN_SEVERAL.pinned
    assert torch.equal(half[:, :, pinned], latent["samples"][:, :, pinned])


def test_repin_saves_keyframes_from_a_model_that_lets_them_drift(model) -> None:
    _, latent = given_latent(model, PLAN_SEVERAL)
    pinned, free = PLAN_SEVERAL.pinned, PLAN_SEVERAL.free
    half = plain(model, latent, flow_sigmas(5, 3.0)[:3])
    assert (half - latent["samples"])[:, :, pinned].abs().max() > 1
    found = repin({"samples": half}, latent)
    assert torch.equal(found["samples"][:, :, pinned], latent["samples"][:, :, pinned])
    assert torch.equal(found["samples"][:, :, free], half[:, :, free])
    assert found[PLAN] is PLAN_SEVERAL
    with pytest.raises(InputError, match="shape"):
        repin({"samples": half[:, :, :2]}, latent)


def test_the_model_is_clean_afterwards_and_an_interrupt_leaves_it_usable(model) -> None:
    _, latent = given_latent(model, PLAN_SEVERAL)
    stock = plain(model, latent, flow_sigmas(3))
    patched = patch_model(model, PLAN_SEVERAL)
    before = plain(patched, latent, flow_sigmas(3))
    assert not torch.allclose(before, stock)

    def cancel(step: int, *_: Any) -> None:
        if step == 1:
            raise comfy.model_management.InterruptProcessingException

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(patched, latent, 4, callback=cancel)
    assert torch.equal(plain(patched, latent, flow_sigmas(3)), before)
    assert not model.object_patches and not model.wrappers.get("outer_sample")
    assert torch.equal(plain(model, latent, flow_sigmas(3)), stock)


def test_patching_again_replaces_and_weights_patches_stay(model) -> None:
    _, latent = given_latent(model, PLAN_SEVERAL)
    other = patch_model(model, VideoPlan("multi_chunk", [9], [0], 33))
    expected = run(model, latent)
    assert torch.equal(run(patch_model(other, PLAN_SEVERAL), latent), expected)
    tuned = model.clone()
    weight = model.model.diffusion_model.blocks[0].self_attn.q.weight
    key = "diffusion_model.blocks.0.self_attn.q.weight"
    tuned.add_patches({key: ("diff", (noise(*weight.shape, seed=4),))})
    assert relative(run(patch_model(tuned, PLAN_SEVERAL), latent), expected) > 1e-3
    assert torch.equal(run(model, latent), expected)


def test_the_preview_shows_a_frame_that_is_made(model) -> None:
    _, latent = given_latent(model, PLAN_SEVERAL)
    seen: list[tuple[int, Tensor, int]] = []
    pair = Experts(model, model, 0.8)
    result = run(pair, latent, 4, callback=lambda step, x0, x, total: seen.append((step, x0, total)))
    assert [step for step, _, _ in seen] == [0, 1, 2, 3] and {total for _, _, total in seen} == {4}
    last = model.model.process_latent_out(seen[-1][1])[:, :, 0]
    distances = [(last - result[:, :, i]).abs().max().item() for i in range(PLAN_SEVERAL.latents)]
    assert distances.index(min(distances)) in PLAN_SEVERAL.free and min(distances) < 1e-4


def test_an_image_to_video_model_gets_the_keyframes_as_images(vae) -> None:
    """Wan 2.2's image-to-video experts: noise, four mask channels, then latents of the frames and of grey."""
    model = native(headless(in_channels=36))
    video = multi_chunk_video(vae, timeline([0.0, 0.5]), pixels(2))
    patched = patch_video(model, video)
    network, seen = model.model.diffusion_model, []
    stock = network.patch_embedding.forward
    network.patch_embedding.forward = lambda x: (seen.append(x.clone()), stock(x))[1]
    try:
        run(patched, video.latent, 2)
        with pytest.raises(InputError, match="keyframes as images"):
            run(patch_model(model, video.plan), video.latent, 1)
    finally:
        del network.patch_embedding.forward
    x, plan = seen[0], video.plan
    assert x.shape[1] == 36 and not x[:, 16:20, plan.free].any() and bool((x[:, 16:20, plan.pinned] == 1).all())
    image = model.model.process_latent_in(video.image_latent)
    assert torch.allclose(x[:, 20:], image, atol=1e-5)
    assert torch.allclose(x[:, :16, plan.pinned], image[:, :, plan.pinned], atol=1e-5)
    ablation = multi_chunk_video(vae, timeline([0.0, 0.5]), pixels(2), method="replication")
    with pytest.raises(InputError, match="multi_chunk only"):
        patch_video(model, ablation)


# --- clear errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "options", "expected"),
    [
        (pixels(1), {}, "keyframes: must be 2 images"),
        ((), {}, "keyframes: must be 2 images"),
        ([pixels(1), pixels(1, 32, 32)], {}, "keyframes: must all have one size .*32x16, 32x32"),
        (pixels(2, 24, 32), {}, "must divide by 16 .*32x24.*resize to 32x"),
        (pixels(2), {"size": (32, 32)}, "must have the size 32x32"),
        (pixels(2)[..., 0], {}, "must be IMAGEs"),
        (pixels(2), {"method": "magic"}, "method: must be one of"),
    ],
)
def test_bad_keyframes(vae, images, options, expected) -> None:
    with pytest.raises(InputError, match=expected):
        multi_chunk_video(vae, timeline([0.0, 0.5]), images, **options)


def test_no_keyframes_need_a_size_and_none_may_lie_beyond_the_end(model, vae) -> None:
    with pytest.raises(InputError, match="size: is needed"):
        multi_chunk_video(vae, timeline([]))
    video = multi_chunk_video(vae, timeline([]), size=(32, 48))
    assert video.latent["samples"].shape == (1, 16, 3, 4, 6) and "noise_mask" not in video.latent
    assert run(model, video.latent, 1).std() > 0.1
    with pytest.raises(InputError, match="beyond the shot's last frame"):
        timeline([0.0, 5.0])


def test_mixed_channels_are_cut_to_rgb(vae) -> None:
    alpha = torch.cat([pixels(1), torch.zeros(1, 16, 32, 1)], dim=-1)
    video = multi_chunk_video(vae, timeline([0.0, 0.5]), [alpha, pixels(1, seed=1)[0]])
    expected = multi_chunk_video(vae, timeline([0.0, 0.5]), torch.cat([pixels(1), pixels(1, seed=1)]))
    assert torch.equal(video.latent["samples"], expected.latent["samples"])


def test_latents_that_do_not_belong(model, vae) -> None:
    _, latent = given_latent(model, PLAN_SEVERAL)
    patched = patch_model(model, PLAN_SEVERAL)
    samples, mask = latent["samples"], latent["noise_mask"]
    sigmas = flow_sigmas(1)
    for wrong, expected in (
        ({"samples": samples[:, :, :2]}, "must be"),
        ({"samples": samples[:, :8]}, "must be"),
        ({"samples": samples}, "noise_mask that pins"),
        ({"samples": samples, "noise_mask": torch.ones_like(mask)}, "noise_mask that pins"),
    ):
        with pytest.raises(InputError, match=expected):
            plain(patched, wrong, sigmas)
    with pytest.raises(InputError, match="another timeline"):
        run(patch_model(model, VideoPlan("multi_chunk", [9], [0], 33)), latent)
    with pytest.raises(InputError, match="laid out by a timeline"):
        run(model, {"samples": samples})
    with pytest.raises(InputError, match="latent frames"):
        decode_frames(vae, {**latent, "samples": samples[:, :, :2]})


def test_noisy_samplers_are_refused_or_warned_about(model, caplog) -> None:
    _, latent = given_latent(model, PLAN_SEVERAL)
    with pytest.raises(InputError, match="deterministic.*euler_ancestral"):
        run(model, latent, sampler="euler_ancestral")
    with pytest.raises(InputError, match="one of ComfyUI's samplers"):
        run(model, latent, sampler="magic")
    names = {name: adds_noise(comfy.samplers.sampler_object(name)) for name in comfy.samplers.SAMPLER_NAMES}
    assert not any(names[n] for n in ("euler", "heun", "dpmpp_2m", "uni_pc", "ddim", "res_multistep", "lms", "deis"))
    assert all(names[n] for n in ("euler_ancestral", "dpmpp_2m_sde", "lcm", "ddpm", "er_sde", "seeds_2", "sa_solver"))
    assert adds_noise(comfy.samplers.ksampler("euler", {"s_churn": 1.0}))
    assert not adds_noise(comfy.samplers.ksampler("dpmpp_2m_sde", {"eta": 0.0}))
    ancestral = comfy.samplers.sampler_object("euler_ancestral")
    start = comfy.sample.prepare_noise(latent["samples"], 1)
    with caplog.at_level(logging.WARNING), torch.no_grad():
        comfy.sample.sample_custom(
            patch_model(model, PLAN_SEVERAL), start, 1.0, ancestral, flow_sigmas(1), POSITIVE, NEGATIVE,
            latent["samples"], noise_mask=latent["noise_mask"], disable_pbar=True, seed=1,
        )  # fmt: skip
    assert "adds noise at every step" in caplog.text


def test_other_models_and_foreign_patches_are_refused(model, vae_path) -> None:
    class Control(type(model.model)):
        """A Wan with inputs of its own."""

    foreign = model.clone()
    foreign.add_object_patch("diffusion_model.rope_encode", lambda *a, **k: None)
    with pytest.raises(InputError, match="foreign"):
        patch_model(foreign, PLAN_SEVERAL)
    other = native(headless(num_layers=1))
    other.model.__class__ = Control
    with pytest.raises(InputError, match="plain Wan model.*Control"):
        patch_model(other, PLAN_SEVERAL)
    with pytest.raises(InputError, match="video VAE"):
        chunk_vae(load_video_vae(vae_path).for_images())


def test_references_cannot_be_combined(model) -> None:
    _, latent = given_latent(model, PLAN_SEVERAL)
    reference = [[TEXTS[0], {"time_dim_concat": noise(1, 16, 1, 4, 6)}]]
    with pytest.raises(InputError, match="reference latents"):
        sample_native(model, reference, NEGATIVE, latent, flow_sigmas(1), disable_pbar=True)


def test_needs_nothing_that_comfyui_lacks() -> None:
    """diffusers, open_clip, accelerate and peft belong to the headless host; inside ComfyUI they may be missing."""
    root = comfy.model_management.__file__.rsplit("/", 2)[0]
    code = f"""
import sys
sys.path.insert(0, {root!r})
for name in ("diffusers", "open_clip", "accelerate", "peft"):
    sys.modules[name] = None
import comfy.cli_args
comfy.cli_args.args.cpu = True
import anchorshot.models.backbones.wan.native, anchorshot.models.layouts.video_latents, anchorshot.pocket.native_studio
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
