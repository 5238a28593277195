"""GoldenMem: the paper's sequence and bound, groups × images, aspect ratio, and downsampling."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anchorshot.core.errors import InputError
from anchorshot.memory.golden_mem import (
    PHI,
    TOKEN_BOUND,
    GoldenMem,
    resize_context,
    resize_context_latent,
    tier_sides,
    tier_size,
    token_report,
)

SIDE = st.integers(1, 400)


def distinct_tiers(size: tuple[int, int]) -> int:
    """Tiers until the short side reaches 1, the current frame's tier 0 included."""
    sides = tier_sides(min(size), 40)
    return sides.index(1) + 1


def test_paper_sequence() -> None:
    assert tier_sides(25, 4) == [25, 15, 9, 5, 3]  # Captain Cinema §3.2
    assert tier_sides(5, 4) == [5, 3, 1, 1, 1]  # 5×10 tokens; stays at 1 instead of reaching 0
    assert tier_sides(1, 2) == [1, 1, 1]
    assert tier_sides(7, 0) == [7]
    assert pytest.approx(1.618, abs=1e-3) == TOKEN_BOUND


@given(s0=SIDE, groups=st.integers(0, 12))
def test_every_step_is_the_golden_ratio_rounded_down(s0: int, groups: int) -> None:
    sides = tier_sides(s0, groups)
    assert len(sides) == groups + 1
    for before, after in zip(sides, sides[1:], strict=False):
        assert after == max(1, int(before / PHI))
        assert after < before or before == 1


@given(height=SIDE, width=SIDE)
def test_one_image_per_tier_costs_less_than_the_bound(height: int, width: int) -> None:
    """Σ t_i < φ²/(φ²−1) · t_0 (Captain Cinema §3.2), for any aspect ratio, current frame included."""
    size = (height, width)
    total = 0
    for tier in range(distinct_tiers(size)):
        h, w = tier_size(size, tier)
        total += h * w
    assert total < TOKEN_BOUND * height * width


@given(height=SIDE, width=SIDE, tier=st.integers(0, 8))
def test_aspect_is_kept_and_transposes(height: int, width: int, tier: int) -> None:
    h, w = tier_size((height, width), tier)
    assert (w, h) == tier_size((width, height), tier)
    short, long = sorted((h, w))
    assert short == tier_sides(min(height, width), tier)[tier]
    assert abs(long - max(height, width) * short / min(height, width)) <= 0.5
    assert short >= 1


def test_sizes_of_a_flux_frame_and_a_pocket_frame() -> None:
    assert [tier_size((25, 50), i) for i in range(5)] == [(25, 50), (15, 30), (9, 18), (5, 10), (3, 6)]
    assert [tier_size((5, 10), i) for i in range(4)] == [(5, 10), (3, 6), (1, 2), (1, 2)]
    assert tier_size((50, 25), 1) == (30, 15)
    assert tier_size((25, 44), 1) == (15, 26)


def test_plan_fills_tiers_in_order_and_drops_the_rest() -> None:
    memory = GoldenMem(groups=3, images=4)
    slots = memory.plan(20, (25, 50))
    assert memory.capacity == len(slots) == 12
    assert [slot.rank for slot in slots] == list(range(12))
    assert [slot.tier for slot in slots] == [1] * 4 + [2] * 4 + [3] * 4
    assert sum(slot.tokens for slot in slots) == 4 * (450 + 162 + 50)
    assert [slot.tier for slot in memory.plan(5, (25, 50))] == [1, 1, 1, 1, 2]
    assert memory.plan(0, (25, 50)) == []


def test_first_tier_moves_every_frame() -> None:
    assert [slot.size for slot in GoldenMem(2, 1, first_tier=0).plan(2, (25, 50))] == [(25, 50), (15, 30)]
    assert [slot.size for slot in GoldenMem(2, 1, first_tier=2).plan(2, (25, 50))] == [(9, 18), (5, 10)]
    assert {slot.size for slot in GoldenMem.full(6).plan(9, (25, 50))} == {(25, 50)}
    assert GoldenMem.full(6).capacity == 6


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(0, 3)), count=st.integers(0, 30), h=SIDE, w=SIDE
)
def test_a_less_relevant_frame_is_never_larger(shape: tuple[int, int, int], count: int, h: int, w: int) -> None:
    memory = GoldenMem(*shape)
    slots = memory.plan(count, (h, w))
    assert len(slots) == min(count, memory.groups * memory.images)
    assert all(a.tokens >= b.tokens for a, b in zip(slots, slots[1:], strict=False))


def test_assign_pairs_frames_with_slots_best_first() -> None:
    pairs = GoldenMem(2, 1).assign([4, 0, 2], (25, 50))
    assert [(index, slot.tier) for index, slot in pairs] == [(4, 1), (0, 2)]


def test_token_report() -> None:
    slots = GoldenMem(3, 4).plan(12, (25, 50))
    report = token_report(slots, (25, 50), context_text=64, new_frames=4, new_text=64)
    assert report["context_image"] == 2648
    assert report["context_text"] == 768
    assert report["new"] == 4 * 1314
    assert report["total"] == 2648 + 768 + 5256
    assert report["full"] == 16 * 1314
    assert [tier["tokens"] for tier in report["tiers"]] == [1800, 648, 200]
    assert report["frames"] == pytest.approx(2648 / 1250)
    assert token_report(slots[:2], (25, 50), context_text=[3, 5])["context_text"] == 8
    assert token_report([], (5, 10))["ratio"] == 1.0


@pytest.mark.parametrize("mode", ["bicubic", "area"])
def test_pixel_resize_keeps_flat_colour_range_and_dtype(mode: str) -> None:
    flat = torch.full((2, 3, 80, 160), 0.3)
    assert torch.allclose(resize_context(flat, (48, 96), mode), torch.full((2, 3, 48, 96), 0.3), atol=1e-6)
    checker = torch.zeros(3, 80, 160, dtype=torch.bfloat16)
    checker[:, ::2, ::2] = 1.0
    small = resize_context(checker, (16, 32), mode)
    assert small.shape == (3, 16, 32) and small.dtype == torch.bfloat16
    assert 0.0 <= small.min() and small.max() <= 1.0


def test_pixel_resize_does_not_alias() -> None:
    """A fine stripe pattern becomes grey; plain subsampling would keep black or white stripes."""
    stripes = torch.zeros(1, 3, 80, 160)
    stripes[..., ::2] = 1.0
    small = resize_context(stripes, (16, 32))
    assert (small[..., 4:-4] - 0.5).abs().max() < 0.02


def test_resize_to_the_same_size_is_the_same_frame() -> None:
    image = torch.rand(3, 80, 160, generator=torch.Generator().manual_seed(0))
    assert resize_context(image, (80, 160)) is image
    assert resize_context(image[None, None], (48, 96)).shape == (1, 1, 3, 48, 96)


def test_latent_resize_is_the_mean_of_each_cell_and_is_not_clamped() -> None:
    latent = torch.randn(1, 16, 10, 20, generator=torch.Generator().manual_seed(0))
    small = resize_context_latent(latent, (2, 4))
    assert torch.allclose(small[0, :, 0, 0], latent[0, :, :5, :5].mean((-1, -2)), atol=1e-6)
    assert resize_context_latent(latent * 9, (6, 12), "bicubic").abs().max() > 1.0


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: GoldenMem(groups=0), "groups"),
        (lambda: GoldenMem(images=0), "images"),
        (lambda: GoldenMem(first_tier=-1), "first_tier"),
        (lambda: GoldenMem().plan(-1, (5, 10)), "count"),
        (lambda: GoldenMem().plan(1, (0, 10)), "size_tokens"),
        (lambda: GoldenMem().plan(1, (5, 10, 2)), "size_tokens"),
        (lambda: tier_sides(0, 1), "s0"),
        (lambda: tier_sides(2.5, 1), "s0"),
        (lambda: resize_context(torch.zeros(4, 4), (2, 2)), "image"),
        (lambda: resize_context(torch.zeros(3, 4, 4), (2, 2), "nearest"), "mode"),
        (lambda: token_report(GoldenMem().plan(2, (5, 10)), (5, 10), context_text=[1]), "context_text"),
    ],
)
def test_bad_input_names_the_field(call, field: str) -> None:
    with pytest.raises(InputError, match=field):
        call()
