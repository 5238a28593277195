"""Positions of start and end frames, references and text, against hand-counted ones and diffusers' own table."""

from dataclasses import dataclass

import pytest
import torch
from diffusers.models.transformers.transformer_qwenimage import QwenEmbedRope

from anchorshot.core.errors import InputError
from anchorshot.models.backbones.qwen_image.headless import rope_table
from anchorshot.models.layouts.start_end import (
    centred,
    frame_ids,
    pair_ids,
    patchify,
    reference_ids,
    text_ids,
    text_start,
    unpatchify,
)

AXES = (4, 6, 6)


@dataclass(frozen=True)
class Tile:
    rows: int
    cols: int
    frame: int
    row: int = 0
    col: int = 0


def places(ids: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(place) for place in ids.tolist()]


def test_a_latent_comes_back_from_its_tokens() -> None:
    latent = torch.randn(2, 16, 6, 10)
    tokens = patchify(latent)
    assert tokens.shape == (2, 15, 64)
    assert torch.equal(unpatchify(tokens, (6, 10)), latent)
    with pytest.raises(InputError, match="even"):
        patchify(torch.randn(1, 16, 5, 4))


def test_a_stacked_pair_is_one_image_of_double_height() -> None:
    start, end = pair_ids((2, 3))
    assert places(start) == [(0, r, c) for r in (-2, -1) for c in (-2, -1, 0)]
    assert places(end) == [(0, r, c) for r in (0, 1) for c in (-2, -1, 0)]


def test_a_sequence_has_two_frames_in_one_place() -> None:
    start, end = pair_ids((2, 2), "sequence")
    assert places(start) == [(0, r, c) for r in (-1, 0) for c in (-1, 0)]
    assert torch.equal(end[:, 1:], start[:, 1:]) and set(end[:, 0].tolist()) == {1}
    with pytest.raises(InputError, match="stacked or sequence"):
        pair_ids((2, 2), "side")  # type: ignore[arg-type]


def test_the_hosts_centre_odd_sides_apart_and_even_ones_alike() -> None:
    assert centred(3).tolist() == [-2, -1, 0]
    assert centred(3, "comfyui").tolist() == [-1, 0, 1]
    assert torch.equal(centred(4), centred(4, "comfyui"))


@pytest.mark.parametrize(("layout", "first"), [("stacked", 1), ("sequence", 2)])
def test_references_come_behind_the_pair(layout, first) -> None:
    a, b = reference_ids([Tile(2, 4, 1), Tile(2, 2, 2)], (2, 4), layout)
    assert torch.equal(a, frame_ids((2, 4), first))
    assert torch.equal(b, frame_ids((2, 2), first + 1))


def test_tiles_of_a_canvas_stand_where_they_lie_on_one_grid() -> None:
    tiles = [Tile(4, 2, 1), Tile(2, 2, 1, 0, 2), Tile(2, 1, 1, 2, 2)]
    a, b, c = reference_ids(tiles, (4, 4), packing="canvas")
    assert places(a)[0] == (1, -2, -2) and places(a)[-1] == (1, 1, -1)
    assert places(b) == [(1, r, c) for r in (-2, -1) for c in (0, 1)]
    assert places(c) == [(1, 0, 0), (1, 1, 0)]
    whole = set(places(frame_ids((4, 4), 1)))
    assert set(places(torch.cat([a, b, c]))) <= whole


def test_text_starts_behind_the_largest_image() -> None:
    assert text_start(pair_ids((4, 6))) == 4  # 8 rows, 6 columns
    assert text_start(pair_ids((4, 6), "sequence")) == 3
    assert text_start([*pair_ids((2, 2)), frame_ids((3, 11), 1)]) == 5
    assert text_start([frame_ids((3, 11), centring="comfyui")]) == 5
    assert places(text_ids(2, 4)) == [(4, 4, 4), (5, 5, 5)]


@pytest.mark.parametrize("shapes", [[(1, 4, 6)], [(1, 5, 7)], [(1, 4, 6), (1, 8, 3), (1, 5, 5)]])
def test_rotary_factors_equal_diffusers(shapes) -> None:
    images, text = QwenEmbedRope(10000, list(AXES), scale_rope=True)([shapes], max_txt_seq_len=9, device="cpu")
    ids = [frame_ids((rows, cols), frame) for frame, (_, rows, cols) in enumerate(shapes)]
    assert torch.equal(rope_table(torch.cat(ids), AXES), images)
    assert torch.equal(rope_table(text_ids(9, text_start(ids)), AXES), text)


def test_texts_go_on_past_the_end_of_diffusers_table() -> None:
    factors = rope_table(text_ids(2, 5000), AXES)
    assert factors.shape == (2, 8) and not torch.equal(factors[0], factors[1])
