"""Closed-form FLOPs equal what FlopCounterMode counts on the real classes, on the meta device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, WanTransformer3DModel

from anchorshot.core.errors import InputError
from anchorshot.memory.golden_mem import GoldenMem
from anchorshot.models.backbones.flux.cost import FLUX_DEV, count_flux, empty_pairs, flux_cost
from anchorshot.models.backbones.flux.headless import CaptainFlux
from anchorshot.models.backbones.wan.cost import WAN, count_wan, wan_cost
from anchorshot.models.backbones.wan.headless import DirectorWan
from anchorshot.models.cost import Cost, Pair, count_flops, memory_pairs
from anchorshot.models.layouts.neighbourhood import Neighbourhood

SMALL_FLUX = {
    **FLUX_DEV,
    **{"num_layers": 2, "num_single_layers": 3, "attention_head_dim": 16, "num_attention_heads": 4},
    **{"in_channels": 12, "joint_attention_dim": 20, "pooled_projection_dim": 28, "axes_dims_rope": (4, 6, 6)},
}
SMALL_WAN = {
    **WAN["wan2.2-t2v-a14b"],
    **{"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 80, "num_layers": 3},
    **{"text_dim": 20, "freq_dim": 32},
}


def on_meta(cls: type, config: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return cls(**config)


def stock_flux(config: dict[str, Any], pair: Pair, batch: int) -> int:
    model = on_meta(FluxTransformer2DModel, config)
    image = pair.image[0] * pair.image[1]
    with torch.device("meta"):
        inputs = {
            "hidden_states": torch.empty(batch, image, config["in_channels"]),
            "encoder_hidden_states": torch.empty(batch, pair.text, config["joint_attention_dim"]),
            "pooled_projections": torch.empty(batch, config["pooled_projection_dim"]),
            "timestep": torch.empty(batch),
            "img_ids": torch.empty(image, 3),
            "txt_ids": torch.empty(pair.text, 3),
            "guidance": torch.empty(batch) if config["guidance_embeds"] else None,
        }
    return count_flops(lambda: model(**inputs))


def stock_wan(
    config: dict[str, Any], latent: tuple[int, int, int], text: int, tokens: int | None, image: int, batch: int
) -> int:
    model = on_meta(WanTransformer3DModel, config)
    with torch.device("meta"):
        inputs = {
            "hidden_states": torch.empty(batch, config["in_channels"], *latent),
            "timestep": torch.empty(batch) if tokens is None else torch.empty(batch, tokens),
            "encoder_hidden_states": torch.empty(batch, text, config["text_dim"]),
            "encoder_hidden_states_image": torch.empty(batch, image, config["image_dim"]) if image else None,
        }
    return count_flops(lambda: model(**inputs))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("guidance", [True, False])
def test_flux_single_pair_equals_the_stock_model(batch: int, guidance: bool) -> None:
    config = {**SMALL_FLUX, "guidance_embeds": guidance}
    pair = Pair((6, 5), 7)
    assert flux_cost(config, [pair], batch=batch).flops == stock_flux(config, pair, batch)


def test_flux_1_dev_at_full_size() -> None:
    pair = Pair((25, 50), 64)
    assert flux_cost(FLUX_DEV, [pair]).flops == stock_flux(FLUX_DEV, pair, 1)


@pytest.mark.parametrize("batch", [1, 2])
def test_wan_equals_the_stock_model(batch: int) -> None:
    latent = (5, 4, 6)
    for tokens in (None, 30):
        expected = stock_wan(SMALL_WAN, latent, 9, tokens, 0, batch)
        assert wan_cost(SMALL_WAN, latent, text=9, timesteps=tokens or 1, batch=batch).flops == expected


@pytest.mark.parametrize("name", sorted(WAN))
def test_public_wan_models(name: str) -> None:
    """81 frames at 480×832 (21 latent frames; the 5B model's VAE is 16× in space); real width, two layers."""
    config = {**WAN[name], "num_layers": 2}
    latent = (21, 30, 52) if "5b" in name else (21, 60, 104)
    image = 257 if "image_dim" in config else 0
    assert wan_cost(config, latent, image=image).flops == stock_wan(config, latent, 512, None, image, 1)


def test_wan_2_2_a14b_at_full_size() -> None:
    config, latent = WAN["wan2.2-t2v-a14b"], (21, 60, 104)
    assert wan_cost(config, latent).flops == stock_wan(config, latent, 512, None, 0, 1)


@pytest.mark.parametrize("mode", ["full", "causal", "local"])
@pytest.mark.parametrize("cached", [(), (Pair((3, 6), 5), Pair((1, 2), 0), Pair((3, 6), 8))])
def test_interleaved_pairs_equal_captain_flux(mode: Any, cached: tuple[Pair, ...]) -> None:
    """Mixed sizes and text lengths, with and without a cache, on the class that runs them."""
    if cached and mode == "local":
        cached = ()
    model = CaptainFlux(**SMALL_FLUX).eval()
    pairs = [Pair((5, 10), 7), Pair((3, 6), 7), Pair((5, 10), 7), Pair((5, 10), 2), Pair((1, 2), 0)]
    expected = flux_cost(SMALL_FLUX, pairs, mode=mode, cached=cached, output="all")
    assert count_flux(model, pairs, mode=mode, cached=cached) == expected.flops


def test_filling_the_cache_equals_captain_flux() -> None:
    model = CaptainFlux(**SMALL_FLUX).eval()
    context = [Pair((3, 6), 5), Pair((1, 2), 0), Pair((3, 6), 8)]
    counted = count_flops(lambda: model.encode_context(empty_pairs(model, context)))
    assert counted == flux_cost(SMALL_FLUX, context, mode="causal", output="none").flops


def test_golden_mem_on_flux_1_dev_at_full_size() -> None:
    """16 pairs as in Captain Cinema's Table 3, 4 new and 3×4 remembered, counted on the meta device."""
    model = on_meta(CaptainFlux, FLUX_DEV)
    context = memory_pairs(GoldenMem(3, 4).plan(12, (25, 50)), 64)
    new = [Pair((25, 50), 64)] * 4
    counted = count_flux(model, [*context, *new])
    assert counted == flux_cost(FLUX_DEV, [*context, *new], output="all").flops
    step = count_flux(model, new[:1], mode="causal", cached=context)
    assert step == flux_cost(FLUX_DEV, new[:1], mode="causal", cached=context, output="all").flops


def test_a_timestep_per_frame_equals_director_wan() -> None:
    latent = (6, 4, 6)
    model = DirectorWan(**SMALL_WAN).eval()
    expected = wan_cost(SMALL_WAN, latent, text=9, timesteps=6)
    assert count_wan(model, latent, text=9) == expected.flops
    assert expected.flops - wan_cost(SMALL_WAN, latent, text=9).flops == expected.parts["conditioning"] * 5 // 6


@pytest.mark.parametrize("keyframes", [(), (0, 5)])
def test_attention_to_near_latents_equals_director_wan(keyframes: tuple[int, ...]) -> None:
    latent, near = (6, 4, 6), Neighbourhood(6, 1, keyframes)
    expected = wan_cost(SMALL_WAN, latent, text=9, timesteps=6, near=near)
    assert count_wan(DirectorWan(**SMALL_WAN).eval(), latent, text=9, near=near) == expected.flops
    full = wan_cost(SMALL_WAN, latent, text=9, timesteps=6).parts["self attention"]
    assert expected.parts["self attention"] * 36 == full * near.pairs


def test_near_latents_and_keyframes_take_less_than_six_tenths_at_full_hd() -> None:
    """Wan 2.2 5B, 31 latents of 1088×1920, three keyframes, four latents on each side; the real width, one layer."""
    latent, near = (31, 68, 120), Neighbourhood(31, 4, (0, 15, 30))
    config = {**WAN["wan2.2-ti2v-5b"], "num_layers": 1}
    model = on_meta(DirectorWan, config)
    limited, full = (count_wan(model, latent, near=kind) for kind in (near, None))
    assert limited == wan_cost(config, latent, timesteps=31, near=near).flops
    assert limited / full <= 0.6
    whole = (wan_cost(WAN["wan2.2-ti2v-5b"], latent, timesteps=31, near=kind).flops for kind in (near, None))
    assert next(whole) / next(whole) <= 0.6


def test_local_attention_equals_separate_calls() -> None:
    pairs = [Pair((25, 50), 64), Pair((15, 30), 40), Pair((1, 2), 0)]
    together = flux_cost(FLUX_DEV, pairs, mode="local")
    assert together.flops == sum(flux_cost(FLUX_DEV, [pair]).flops for pair in pairs)
    assert together.tokens == 1314 + 490 + 2


def test_cache_plus_step_is_one_causal_forward() -> None:
    """Filling the cache causally and then one new frame on it is exactly the work of one causal forward."""
    context = [Pair((15, 30), 64), Pair((9, 18), 30)]
    new = Pair((25, 50), 64)
    filled = flux_cost(FLUX_DEV, context, mode="causal")
    assert filled.flops - flux_cost(FLUX_DEV, context, mode="causal", output="none").flops == filled.parts["output"]
    step = flux_cost(FLUX_DEV, [new], mode="causal", cached=context)
    assert step.cached == filled.tokens
    assert filled.flops + step.flops == flux_cost(FLUX_DEV, [*context, new], mode="causal").flops


def test_masks_order_and_sizes() -> None:
    pairs = [Pair((4, 4), 3)] * 5

    def cost(mode: Any) -> Cost:
        return flux_cost(SMALL_FLUX, pairs, mode=mode)

    assert cost("local").flops < cost("causal").flops < cost("full").flops
    n, d = 19, 64
    assert cost("full").parts["single attention"] == 3 * 4 * (5 * n) ** 2 * d
    assert cost("causal").parts["single attention"] == 3 * 4 * 15 * n * n * d
    assert cost("full").attention == cost("full").parts["single attention"] + cost("full").parts["double attention"]


def test_memory_pairs() -> None:
    slots = GoldenMem(2, 1).plan(2, (25, 50))
    assert memory_pairs(slots, 64) == [Pair((15, 30), 64), Pair((9, 18), 64)]
    assert memory_pairs(slots, [3, 0])[1].tokens == 162


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: flux_cost(FLUX_DEV, []), "pairs"),
        (lambda: flux_cost(FLUX_DEV, [Pair((0, 2), 3)]), "pairs"),
        (lambda: flux_cost(FLUX_DEV, [Pair((2, 2), -1)]), "pairs"),
        (lambda: flux_cost(FLUX_DEV, [Pair((2, 2), 1)], mode="ring"), "mode"),
        (lambda: flux_cost(FLUX_DEV, [Pair((2, 2), 1)], mode="local", cached=[Pair((2, 2), 1)]), "cached"),
        (lambda: flux_cost(FLUX_DEV, [Pair((2, 2), 1)], output="text"), "output"),
        (lambda: wan_cost(SMALL_WAN, (5, 3, 4)), "latent"),
        (lambda: wan_cost(SMALL_WAN, (5, 4, 4), image=257), "image"),
        (lambda: memory_pairs(GoldenMem().plan(2, (5, 10)), [1]), "text"),
    ],
)
def test_bad_input_names_the_field(call, field: str) -> None:
    with pytest.raises(InputError, match=field):
        call()
