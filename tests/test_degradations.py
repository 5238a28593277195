"""Low-resolution clips: seeded, of the right size, degraded as asked, otherwise left alone."""

import pytest
import torch
from torch.nn import functional as F

from anchorshot.core.errors import InputError
from anchorshot.media import degradations
from anchorshot.media.degradations import MILD, Degradations, degrade
from anchorshot.media.frames import psnr
from anchorshot.pocket.bank import to_tensor
from anchorshot.pocket.render import render_clip
from anchorshot.pocket.world import make_story

NOTHING = Degradations(orders=1, chance=0.0)


@pytest.fixture(scope="module")
def clip():
    frames, _ = render_clip(make_story(1, 1).shots[0], 3)
    return to_tensor(frames)


def test_a_seed_tells_everything(clip):
    first, again, other = (degrade(clip, 2, seed) for seed in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (3, 3, 40, 80) and 0 <= first.min() and first.max() <= 1


@pytest.mark.parametrize(("scale", "size"), [(1, (80, 160)), (2.5, (32, 64)), (3, (27, 53))])
def test_any_factor(clip, scale, size):
    assert degrade(clip, scale, 1, NOTHING).shape == (3, 3, *size)


def test_mild_is_milder(clip):
    small = F.avg_pool2d(clip, 2)
    mild, strong = (
        torch.stack([psnr(degrade(clip, 2, seed, settings), small, 4) for seed in range(4)]).mean()
        for settings in (MILD, Degradations())
    )
    assert mild > 25 and mild > strong + 3


def test_nothing_is_only_smaller(clip):
    seeds = [s for s in range(20) if torch.allclose(degrade(clip, 2, s, NOTHING), F.avg_pool2d(clip, 2), atol=1e-5)]
    assert 0 < len(seeds) < 20, "one of three ways to make it smaller is the mean"


@pytest.mark.parametrize("codec", degradations._CODECS)
def test_video_codecs_keep_frames_and_colours(clip, codec):
    odd = clip[..., :41, :63]
    fine, coarse = (degradations._coded(odd, codec, quantiser) for quantiser in (14, 36))
    assert fine.shape == odd.shape and psnr(fine, odd, 4) > psnr(coarse, odd, 4) + 1 > 20
    assert torch.allclose(fine.mean((0, 2, 3)), odd.mean((0, 2, 3)), atol=0.012)


def test_blur_and_noise_are_as_told(clip):
    even = torch.full((2, 3, 48, 64), 0.5)
    assert torch.allclose(degradations._blurred(even, 2.0, 0.5, 30), even, atol=1e-5)
    noisy = degradations._noisy(even, 0.04, False, False, 1)
    assert noisy.std() == pytest.approx(0.04, rel=0.05) and not torch.equal(noisy[0], noisy[1])
    grey = degradations._noisy(even, 0.04, True, False, 1)
    assert torch.equal(grey[:, 0], grey[:, 2])
    photons = [degradations._noisy(torch.full((1, 3, 64, 64), v), 0.01, False, True, 1).std() for v in (0.2, 0.8)]
    assert float(photons[1] / photons[0]) == pytest.approx(2, rel=0.1), "variance grows with brightness"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: degrade(x[0], 2, 1), "video: must have the shape"),
        (lambda x: degrade(x, 0.5, 1), "scale: must be at least 1"),
        (lambda x: degrade(x, 500, 1), "scale: must be at least 1"),
        (lambda x: Degradations(orders=0), "orders"),
        (lambda x: Degradations(chance=2), "chance"),
        (lambda x: Degradations(jpeg=(90, 20)), "jpeg: must be two numbers"),
    ],
)
def test_refusals(clip, call, message):
    with pytest.raises(InputError, match=message):
        call(clip)
