"""The step that lets an upscaled video stand still where its source does."""

from __future__ import annotations

import torch
from torch import Tensor

from anchorshot.pipelines.upscale.hold import REACH, hold_still

SIZE = (12, 20)


def made(count: int, scale: int = 2) -> Tensor:
    """Large frames that have nothing in common, so that every pixel tells the frame it is from."""
    size = (SIZE[0] * scale, SIZE[1] * scale)
    return torch.arange(count).view(-1, 1, 1, 1).expand(-1, 3, *size).to(torch.uint8)


def held(small: Tensor, change: float = 1 / 255, anew: tuple[int, ...] = (), scale: int = 2) -> Tensor:
    return torch.stack(list(hold_still(made(len(small), scale), small, change, anew)))


def test_a_still_video_comes_out_still() -> None:
    still = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0)).expand(6, -1, -1, -1)
    assert (held(still) == 0).all()
    assert torch.equal(held(still, 0), made(6))


def test_what_moves_is_made_anew_and_all_around_it_and_nothing_else() -> None:
    small = torch.full((3, 3, *SIZE), 0.5)
    small[1, 1, 5, 8] += 2 / 255
    small[2] = small[1]
    expected = torch.zeros(3, 3, 24, 40, dtype=torch.uint8)
    expected[1:, :, 2 * (5 - REACH) : 2 * (6 + REACH), 2 * (8 - REACH) : 2 * (9 + REACH)] = 1
    assert torch.equal(held(small), expected)
    assert torch.equal(held(small, scale=3)[..., 1::3, 1::3], expected[..., ::2, ::2])


def test_a_slow_fade_is_followed() -> None:
    """A tenth of a code a frame: no two neighbours differ by what is allowed, and yet nothing is kept too long."""
    fade = (torch.arange(100) / 10 / 255).view(-1, 1, 1, 1).expand(-1, 3, *SIZE)
    shown = held(fade)[:, 0, 0, 0].int()
    age = torch.arange(100) - shown
    assert 0 < age.max() <= 10
    assert len(shown.unique()) > 12


def test_what_is_made_anew_for_its_neighbours_still_counts_as_it_was() -> None:
    """Column 4 drifts, and is made anew all the time for column 6; column 2, which sees only 4, must follow it."""
    small = torch.full((60, 3, *SIZE), 0.5)
    small[..., 4] += (torch.arange(60) / 10 / 255).view(-1, 1, 1)
    small[..., 6] += (torch.arange(60) % 2 * 0.3).view(-1, 1, 1)
    age = torch.arange(60).view(-1, 1) - held(small)[:, 0, 0, ::2].int()
    assert (age[:, 4:9] == 0).all()
    assert 0 < age[:, 2].max() <= 10
    assert (age[-1, [0, 1, 9, 10]] == 59).all()


def test_a_cut_and_a_keyframe_are_taken_as_they_come() -> None:
    still = torch.full((9, 3, *SIZE), 0.5)
    assert held(still, anew=(3, 7))[:, 0, 0, 0].tolist() == [0, 0, 0, 3, 3, 3, 3, 7, 7]
