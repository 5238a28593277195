"""The memory pack: halved areas, bounded history, packed latents."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anchorshot.core.errors import InputError
from anchorshot.memory.memory_pack import MemoryPack, canvas_boxes

EDGES = st.integers(1, 70)


@given(EDGES, EDGES, st.integers(0, 40))
def test_boxes_tile_the_canvas_without_overlap(rows: int, cols: int, count: int) -> None:
    seen = torch.zeros(rows, cols, dtype=torch.int)
    boxes = canvas_boxes(count, (rows, cols))
    for top, left, height, width in boxes:
        assert height >= 1 and width >= 1
        part = seen[top : top + height, left : left + width]
        assert part.shape == (height, width)
        part += 1
    assert seen.max() <= 1
    assert len(boxes) == min(count, int(math.log2(rows * cols))), "as many frames as have a patch each"


@given(st.integers(4, 70), st.integers(4, 70))
def test_box_j_has_two_to_the_minus_j_of_the_canvas_to_the_nearest_edge(rows: int, cols: int) -> None:
    for j, (_, _, height, width) in enumerate(canvas_boxes(4, (rows, cols)), start=1):
        exact = rows * cols * 2.0**-j
        assert abs(height * width - exact) <= max(height, width) + 1


def test_a_canvas_of_powers_of_two_is_halved_exactly() -> None:
    # 16×32 patches: left half, upper half of what remains, …
    assert canvas_boxes(4, (16, 32)) == [(0, 0, 16, 16), (0, 16, 8, 16), (8, 16, 8, 8), (8, 24, 4, 8)]
    assert [h * w for _, _, h, w in canvas_boxes(99, (16, 32))] == [2**n for n in range(8, -1, -1)]


@given(EDGES, EDGES, st.integers(0, 30), st.sampled_from(["canvas", "pyramid"]), st.floats(0.05, 1.0))
def test_more_frames_than_fit_change_nothing(rows: int, cols: int, count: int, kind: str, area: float) -> None:
    pack = (
        MemoryPack(area=area)
        if kind == "canvas"
        else MemoryPack(packing="references", pyramid=True, level="latent", area=area)
    )
    most = pack.history((rows, cols))
    assert most is not None
    places = pack.tiles(count, (rows, cols))
    assert places == pack.tiles(99, (rows, cols))[:count]
    assert len(places) == min(count, most)
    if kind == "canvas":
        canvas = pack.canvas((rows, cols))
        assert pack.tokens(99, (rows, cols)) <= canvas[0] * canvas[1]


@given(EDGES, EDGES)
def test_fit_keeps_the_frames_aspect_inside_each_box(rows: int, cols: int) -> None:
    squeezed, fitted = MemoryPack().tiles(9, (rows, cols)), MemoryPack(aspect="fit").tiles(9, (rows, cols))
    for whole, kept in zip(squeezed, fitted, strict=True):
        assert (kept.row, kept.col) == (whole.row, whole.col)
        assert kept.rows <= whole.rows and kept.cols <= whole.cols
        # The edge that does not follow from the box follows from the aspect, to the nearest patch.
        if kept.rows > 1 and kept.cols > 1:
            scale = min(whole.rows / rows, whole.cols / cols)
            assert abs(kept.rows - rows * scale) <= 0.5 and abs(kept.cols - cols * scale) <= 0.5


def test_references_have_frame_numbers_and_the_pyramid_halves_from_the_third_on() -> None:
    plain = MemoryPack(packing="references").tiles(3, (54, 96))
    assert [(tile.frame, tile.size) for tile in plain] == [(1, (54, 96)), (2, (54, 96)), (3, (54, 96))]
    pyramid = MemoryPack(packing="references", pyramid=True).tiles(9, (54, 96))
    sides = [(54, 96), (54, 96), (27, 48), (13, 24), (6, 12), (3, 6), (1, 3), (1, 1)]
    assert [tile.size for tile in pyramid] == sides, "the ninth would have less than one patch"
    assert MemoryPack(packing="references").history((54, 96)) is None
    assert len(MemoryPack(packing="references", limit=2).tiles(5, (54, 96))) == 2


def test_a_packed_latent_is_the_mean_of_its_cells() -> None:
    frames = [torch.randn(16, 10, 20) for _ in range(6)]
    packed = MemoryPack().pack(frames, (5, 10))
    assert [tile.size for tile, _ in packed] == [(5, 5), (2, 5), (3, 2), (1, 3), (2, 1)]
    for tile, latent in packed:
        assert latent.shape == (16, 2 * tile.rows, 2 * tile.cols)
    # 10×20 latents into 10×10: each is the mean of two neighbours.
    torch.testing.assert_close(packed[0][1], frames[0].unflatten(-1, (10, 2)).mean(-1))


def test_references_shrink_bilinearly_and_full_ones_stay() -> None:
    frames = [torch.randn(2, 16, 8, 12, dtype=torch.bfloat16) for _ in range(3)]
    packed = MemoryPack(packing="references", pyramid=True).pack(frames, (4, 6))
    assert packed[0][1] is frames[0] and packed[1][1] is frames[1]
    expected = torch.nn.functional.interpolate(frames[2].float(), size=(4, 6), mode="bilinear").bfloat16()
    torch.testing.assert_close(packed[2][1], expected)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("packing", {"packing": "grid"}),
        ("aspect", {"aspect": "crop"}),
        ("level", {"level": "pixels"}),
        ("limit", {"limit": 0}),
        ("area", {"area": 0.0}),
        ("area", {"area": float("nan")}),
    ],
)
def test_bad_options_are_named(field: str, options: dict) -> None:
    with pytest.raises(InputError) as error:
        MemoryPack(**options)
    assert error.value.field == field


def test_bad_counts_are_named() -> None:
    with pytest.raises(InputError, match="count"):
        MemoryPack().tiles(-1, (5, 10))
    with pytest.raises(InputError, match="grid"):
        MemoryPack().tiles(1, (0, 10))
    with pytest.raises(InputError, match="latent"):
        MemoryPack().pack([torch.zeros(10, 20)], (5, 10))
