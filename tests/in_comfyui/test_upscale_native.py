"""Director-SR on ComfyUI's Wan models: the bridge from noise-free latents, equal to the headless network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.supported_models
import pytest
import torch
from in_comfyui.tiny_wan import PLAIN_VAE, TEXT, VAE, headless, native, noise, relative, vae_file
from torch import Tensor

from anchorshot.comfyui.video import chunk_vae
from anchorshot.core.errors import InputError
from anchorshot.models.backbones.native_models import upscale_on
from anchorshot.models.backbones.wan.native_upscale import upscale_native
from anchorshot.models.backbones.wan.vae import VideoVAE
from anchorshot.models.io.loading import load_vae
from anchorshot.models.layouts.chunks import VideoPlan, frame_timesteps
from anchorshot.models.layouts.neighbourhood import neighbourhood
from anchorshot.models.layouts.upscale import decode_upscaled, encode_upscale, plan_canvas, plan_upscale
from anchorshot.pocket.native import load_video_vae
from anchorshot.sampling.flow import euler, flow_sigmas

KINDS = {16: comfy.supported_models.WAN21_T2V, 48: comfy.supported_models.WAN22_T2V}
WORDS = noise(1, 7, TEXT, seed=5)
LAYOUTS = {
    "none": VideoPlan("multi_chunk", [3], [], 9),
    "first": VideoPlan("multi_chunk", [3], [0], 9),
    "several": VideoPlan("multi_chunk", [2, 1, 2], [2, 3], 11),
}
"""Without keyframes, with the first frame, and with two inside a video that starts without one."""


def reference(network, z_lr: Tensor, clean: Tensor, plan: VideoPlan, sigmas: Tensor, near=None) -> Tensor:
    """Eq. 5 by hand, in the network's own scale: from z_LR, the velocity's ODE, keyframes held."""
    z = z_lr.clone()
    z[:, :, plan.pinned] = clean

    def velocity(z: Tensor, t: float) -> Tensor:
        v = network.forward_chunks(z, frame_timesteps(torch.full((1,), t), plan.pinned, plan.latents), WORDS,
                                   plan.rope_index, neighbourhood(plan, near))  # fmt: skip
        v[:, :, plan.pinned] = 0
        return v

    return euler(velocity, z, sigmas)


@pytest.mark.parametrize("channels", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_bridge_equals_the_headless_network(channels: int, layout: str) -> None:
    """For both classes' latent statistics: core neither scales z_LR nor adds to it."""
    plan = LAYOUTS[layout]
    network = headless(in_channels=channels, out_channels=channels)
    model = native(network, KINDS[channels])
    z_lr = noise(1, channels, plan.latents, 4, 6, seed=1)
    clean = noise(1, channels, len(plan.pinned), 4, 6, seed=2)
    sigmas = flow_sigmas(3, 1.5)
    expected = reference(network, z_lr, clean, plan, sigmas)
    out = model.model.process_latent_out
    given = out(clean)
    found = upscale_on(model).sample(
        model, [[WORDS, {}]], plan, out(z_lr), given, sigmas, start_noise=0.0, sampler="euler", seed=4, callback=None,
        disable_pbar=True,
    )  # fmt: skip
    assert relative(model.model.process_latent_in(found), expected) <= 1e-5
    assert torch.equal(found[:, :, plan.pinned], given)
    assert relative(expected, z_lr) > 0.1  # the network does something


@pytest.mark.parametrize("words", [7, 30], ids=["prompt", "prompt of as many tokens as the video"])
@pytest.mark.parametrize("channels", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_limited_attention_equals_the_headless_network(channels: int, layout: str, words: int, monkeypatch) -> None:
    """One neighbour on each side, and the keyframes."""
    plan = LAYOUTS[layout]
    monkeypatch.setattr(f"{__name__}.WORDS", noise(1, words * plan.latents // 5 if words > 7 else words, TEXT, seed=5))
    network = headless(in_channels=channels, out_channels=channels)
    model = native(network, KINDS[channels])
    z_lr = noise(1, channels, plan.latents, 4, 6, seed=1)
    clean = noise(1, channels, len(plan.pinned), 4, 6, seed=2)
    sigmas = flow_sigmas(2, 1.0)
    out, back = model.model.process_latent_out, model.model.process_latent_in
    full, near = (
        back(upscale_native(model, [[WORDS, {}]], plan, out(z_lr), out(clean), sigmas, near=near, disable_pbar=True))
        for near in (None, 1)
    )
    assert relative(full, reference(network, z_lr, clean, plan, sigmas)) <= 1e-5
    assert relative(near, reference(network, z_lr, clean, plan, sigmas, 1)) <= 1e-5
    assert layout == "first" or relative(near, full) > 1e-3  # with the first of three given, all see all but one


def test_noise_comes_only_where_it_is_asked_for() -> None:
    """The seed says nothing about the bridge; it does with `start_noise` and without training."""
    plan = LAYOUTS["first"]
    model = native(headless())
    z_lr, clean = noise(1, 16, 3, 4, 6, seed=1), noise(1, 16, 1, 4, 6, seed=2)

    def made(seed: int, first: float = 1.0, start_noise: float = 0.0) -> Tensor:
        sigmas = flow_sigmas(2, 1.0) * first
        return upscale_native(model, [[WORDS, {}]], plan, z_lr, clean, sigmas, seed=seed, start_noise=start_noise,
                              disable_pbar=True)  # fmt: skip

    assert torch.equal(made(1), made(2))
    assert not torch.allclose(made(1, start_noise=0.1), made(2, start_noise=0.1))
    free = made(1, 0.3)
    assert not torch.allclose(free, made(2, 0.3))
    assert torch.equal(free[:, :, [0]], clean)


def test_an_image_to_video_model_is_refused() -> None:
    model = native(headless(in_channels=36), comfy.supported_models.WAN21_T2V)
    plan = LAYOUTS["none"]
    with pytest.raises(InputError, match=r"model: must upscale from latents alone.*5B"):
        upscale_native(model, [[WORDS, {}]], plan, noise(1, 16, 3, 4, 6), noise(1, 16, 0, 4, 6), flow_sigmas(2, 1.0))


@pytest.mark.parametrize("config", [VAE, PLAIN_VAE], ids=["wan 2.2's class", "wan 2.1's class"])
def test_pixels_equal_headless(tmp_path: Path, config: dict[str, Any]) -> None:
    """Into the bridge and out of it, through core's VAE and diffusers': a clip that fills no chunk, of odd sizes."""
    path = vae_file(tmp_path, config)
    core, own = chunk_vae(load_video_vae(path)), VideoVAE(load_vae("wan_vae", path))
    frames, picture = (torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(n))
                       for n, size in ((6, (12, 22)), (1, (30, 44))))  # fmt: skip
    plan, canvas = plan_upscale(6, [4]), plan_canvas((12, 22), (30, 44), 8, (2, 2))
    (low, clean), (low_too, clean_too) = (
        encode_upscale(vae, frames, {4: picture[0]}, plan, canvas) for vae in (core, own)
    )
    assert relative(low, low_too) <= 1e-5 and relative(clean, clean_too) <= 1e-5
    z = low_too.clone()
    z[:, :, plan.video.pinned] = clean_too
    made, made_too = (torch.cat(list(decode_upscaled(vae, z, plan, canvas))) for vae in (core, own))
    assert made.shape == (6, 3, 30, 44) and (made - made_too).abs().max() <= 1e-5
    shown = own.decode_image(clean_too[:, :, 0])[0, :, :30, :44]
    assert torch.allclose(made[4], shown, atol=1e-5)
