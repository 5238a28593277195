"""The layout picture: sizes to scale, the right frame at the right place, clear errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from anchorshot.core.errors import InputError
from anchorshot.media.memory_layout import draw_empty, draw_layout
from anchorshot.memory.golden_mem import GoldenMem

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 255)]


def area_of(picture: Image.Image, colour: tuple[int, int, int]) -> int:
    return sum(count for count, seen in picture.getcolors(1 << 24) if seen == colour)


def plain(colour: tuple[int, int, int]) -> torch.Tensor:
    return (torch.tensor(colour) / 255).view(3, 1, 1).expand(3, 80, 160)


def test_area_on_the_picture_is_the_token_count() -> None:
    slots = GoldenMem(3, 1).plan(3, (25, 50))
    picture = draw_layout(slots, (25, 50), [plain(c) for c in COLOURS[:3]], current=plain(COLOURS[3]), width=1600)
    assert picture.mode == "RGB" and picture.width == 1600
    current = area_of(picture, COLOURS[3])
    for slot, colour in zip(slots, COLOURS, strict=False):
        assert area_of(picture, colour) / current == pytest.approx(slot.tokens / 1250, rel=0.12)  # the frame's border


def test_frames_are_drawn_in_rank_order() -> None:
    slots = GoldenMem(2, 2).plan(4, (5, 10))
    picture = draw_layout(slots, (5, 10), [plain(c) for c in COLOURS])
    pixels = np.asarray(picture)
    places = [tuple(np.argwhere((pixels == colour).all(-1)).min(0).tolist()) for colour in COLOURS]
    assert places == sorted(places)
    assert places[0][0] == places[1][0] < places[2][0] == places[3][0]  # one row per tier


@pytest.mark.parametrize("size", [(25, 50), (50, 25), (1, 40), (40, 1), (9, 9)])
@pytest.mark.parametrize("count", [0, 1, 7, 48])
def test_any_shape_and_count_fits_the_width(size: tuple[int, int], count: int) -> None:
    slots = GoldenMem(3, 16).plan(count, size)
    picture = draw_layout(slots, size, [Image.new("RGB", (32, 16), COLOURS[0])] * count, width=900)
    assert picture.width == 900
    right_margin = picture.crop((picture.width - 20, 0, picture.width, picture.height))
    assert len(right_margin.getcolors(1 << 16)) == 1  # nothing runs over the edge


@pytest.mark.parametrize("size", [(50, 80), (80, 50), (1, 40)])
@pytest.mark.parametrize("plan", [GoldenMem(1, 1), GoldenMem(3, 4, 0), GoldenMem(8, 30)])
def test_an_empty_memory_shows_its_places(plan: GoldenMem, size: tuple[int, int]) -> None:
    slots = plan.plan(plan.groups * plan.images, size)
    picture = draw_empty(slots, size)
    assert picture.width == 800 and picture.height < 4000
    assert picture.height > draw_empty([], size).height
    right_margin = picture.crop((picture.width - 20, 0, picture.width, picture.height))
    assert len(right_margin.getcolors(1 << 16)) == 1  # nothing runs over the edge
    with pytest.raises(InputError, match="at least 480"):
        draw_empty(slots, size, width=200)


def test_the_same_plan_draws_the_same_picture() -> None:
    slots = GoldenMem(3, 4).plan(9, (5, 10))
    labels = [f"s{i:02d} with a very long name that cannot fit" for i in range(9)]
    first, second = (draw_layout(slots, (5, 10), labels=labels, context_text=40, new_text=60) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert first.tobytes() != draw_layout(slots, (5, 10), context_text=40, new_text=60).tobytes()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"frames": [None]}, "frames"),
        ({"labels": ["one"]}, "labels"),
        ({"frames": [torch.zeros(1, 8, 8)] * 2}, "frames"),
        ({"width": 100}, "width"),
    ],
)
def test_bad_input_names_the_field(options: dict, field: str) -> None:
    with pytest.raises(InputError, match=field):
        draw_layout(GoldenMem().plan(2, (5, 10)), (5, 10), **options)
