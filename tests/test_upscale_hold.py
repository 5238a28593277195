"""The step that lets an upscaled video stand still where its source does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anchorshot.pipelines.upscale.hold import AHEAD, hold_codes, hold_still

SIZE = (12, 20)


def numbered(count: int, size: tuple[int, int] = (24, 40)) -> Tensor:
    """Large frames whose pixels tell the frame that they are from; so their mean tells which were taken together."""
    return torch.arange(count).view(-1, 1, 1, 1).expand(-1, 3, *size).float()


def held(small: Tensor, change: float = 1 / 255, **more: Any) -> Tensor:
    return torch.stack(list(hold_still(numbered(len(small)), small, change, **more)))


def mean(first: int, last: int) -> float:
    """Of the frames that are taken together for a run from `first` to `last`."""
    return (first + min(last, first + AHEAD)) / 2


def test_a_still_video_comes_out_still() -> None:
    still = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0)).expand(20, -1, -1, -1)
    assert (held(still) == mean(0, 19)).all()
    assert torch.equal(held(still, 0), numbered(20))


def test_what_moves_is_made_anew_and_nothing_else() -> None:
    small = torch.full((5, 3, *SIZE), 0.5)
    small[1:, 1, 5, 8] += 2 / 255
    expected = torch.full((5, 3, 24, 40), mean(0, 4))
    expected[0, :, 10:12, 16:18] = 0
    expected[1:, :, 10:12, 16:18] = mean(1, 4)
    assert torch.equal(held(small), expected)


@pytest.mark.parametrize(("side", "touched"), [(20, [8]), (30, [12, 13]), (50, [20, 21, 22]), (32, [12, 13, 14])])
def test_every_pixel_that_lies_on_one_that_moves_is_made_anew(side: int, touched: list[int]) -> None:
    """Whatever the factor: 1, 1.5, 2.5 and 1.6."""
    small = torch.full((2, 3, *SIZE), 0.5)
    small[1, :, :, 8] = 0
    shown = list(hold_still(numbered(2, (12, side)), small, 1 / 255))[1][0, 0]
    assert (shown == 1).nonzero().flatten().tolist() == touched
    assert (shown == 0.5).sum() == side - len(touched)


def test_a_slow_fade_is_followed() -> None:
    """A tenth of a code a frame: no two neighbours differ by what is allowed, and yet nothing is kept too long."""
    fade = (torch.arange(100) / 10 / 255).view(-1, 1, 1, 1).expand(-1, 3, *SIZE)
    shown = held(fade)[:, 0, 0, 0]
    assert (torch.arange(100) - shown).abs().max() <= 5
    assert len(shown.unique()) > 12


def test_a_cut_begins_anew_and_keyframes_are_shown() -> None:
    even = torch.full((24, 3, *SIZE), 0.5)
    shown = held(even, cuts=(3,), keyframes=(7, 16))[:, 0, 0, 0]
    expected = torch.tensor([mean(0, 2)] * 3 + [mean(3, 23)] * 21)
    expected[7], expected[16] = 7, 16
    assert torch.equal(shown, expected), "nothing tells whether an even picture moves"


def test_a_keyframe_is_kept_where_the_edges_stand_still() -> None:
    small = torch.full((20, 3, *SIZE), 0.5)
    small[:, :, :, :3] = 0.2  # an edge that stands
    small[9:, :, 2:, 17:] = 0.8  # and one that comes
    shown = held(small, cuts=(14,), keyframes=(5,))[:, 0]
    assert (shown[5] == 5).all() and (shown[6:9, :, : 2 * 7] == 5).all()
    assert (shown[9:14, :, : 2 * 6] == 5).all() and (shown[14:] > 14).all()
    assert (shown[6:14, :, 2 * 9 :] != 5).all(), "even surroundings tell nothing"
    small[7:, :, :, 2] = 0.5  # now the first one moves
    assert (held(small, keyframes=(5,))[7:, 0, :, : 2 * 5] != 5).all()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_codes_stay_codes(kind: type) -> None:
    top = 255 if kind is np.uint8 else 4095
    frames = [np.full((24, 40, 3), code, kind) for code in (top, top - 1, top, 7)]
    small = torch.full((4, 3, *SIZE), 0.5)
    small[3] = 0
    shown = list(hold_codes(frames, small, 1 / 255))
    assert all(frame.dtype == kind and frame.flags.c_contiguous for frame in shown)
    assert [int(frame.max()) for frame in shown] == [int(frame.min()) for frame in shown] == [top, top, top, 7]
