"""Windows and tiles of upscaling: none crosses a cut, all frames and pixels are there, and only the blend differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from anchorshot.core.errors import InputError
from anchorshot.media.frames import to_uint8
from anchorshot.media.lossless import open_lossless, pixels_of, read_lossless
from anchorshot.pipelines.upscale.colour import keep_colour
from anchorshot.pipelines.upscale.tiles import plan_tiles
from anchorshot.pipelines.upscale.upscalers import Interpolation, Tiling, upscale_window
from anchorshot.pipelines.upscale.windows import joined_windows, plan_windows


def test_windows_cover_every_shot_and_never_cross_a_cut() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        frames = int(generator.integers(1, 120))
        cuts = sorted(set(generator.integers(0, frames, 3).tolist()))
        keys = sorted(set(generator.integers(0, frames, 6).tolist()))
        overlap = int(generator.integers(0, 5))
        window = int(generator.integers(max(1, 2 * overlap), 40))
        windows = plan_windows(frames, cuts, keys, window, overlap)
        assert all(w.frames <= window for w in windows)
        assert not any(w.start < cut < w.stop for w in windows for cut in cuts)
        assert all(w.keyframes == tuple(k for k in keys if w.start <= k < w.stop) for w in windows)
        assert sum(w.frames - w.overlap for w in windows) == frames
        assert all(0 <= part for w in windows for part in (w.unused, w.blend, w.tail))
        for before, after in pairwise(windows):
            shared = min(overlap, 13) if after.start in keys else overlap
            assert after.overlap == before.stop - after.start
            assert after.overlap == 0 if after.start in cuts else shared <= after.overlap <= overlap
            assert after.overlap == after.unused + after.blend + before.tail
        at_once = [n for n in range(frames) if sum(w.start <= n < w.stop for w in windows) > 2]
        assert not at_once, (windows, at_once)


def test_a_shots_windows_are_those_of_the_shot_alone() -> None:
    whole = plan_windows(100, [37], [5, 60, 64], 20, 4)
    alone = plan_windows(63, [], [23, 27], 20, 4)
    later = lambda frame: None if frame is None else frame + 37  # noqa: E731
    moved = [
        replace(
            w,
            start=w.start + 37,
            stop=w.stop + 37,
            keyframes=tuple(map(later, w.keyframes)),
            before=later(w.before),
            after=later(w.after),
        )
        for w in alone
    ]
    assert [w for w in whole if w.start >= 37] == moved
    assert (moved[0].before, moved[0].after, moved[-1].before) == (None, 60, 64)


def test_a_window_begins_at_a_keyframe_where_it_can() -> None:
    assert [w.start for w in plan_windows(60, [], [], 33, 4)] == [0, 28]
    windows = plan_windows(60, [], [25, 29], 33, 4)
    assert [(w.start, w.stop) for w in windows] == [(0, 33), (29, 60)]
    assert 29 in windows[0].keyframes and 29 in windows[1].keyframes


def test_a_window_has_the_latents_of_its_shot() -> None:
    """Its first frame begins a latent's four, its last frame ends them; but for short windows."""
    for cut, key, overlap in ((0, None, 13), (7, None, 41), (5, 26, 21)):
        keys = [] if key is None else [key]
        for window in plan_windows(300 + cut, [cut], keys, 90, overlap):
            begin = max([cut, *(k for k in keys if k <= window.start)]) if window.start >= cut else 0
            assert (window.start - begin) % 4 == 0
            end = max([cut, *(k for k in keys if k < window.stop)])
            assert window.stop in (cut, 300 + cut) or (window.stop - end) % 4 == 1


def test_what_leads_up_to_a_window_is_not_shown() -> None:
    """The less sure a frame is, the sooner it is thrown away: most at the beginning, none after a keyframe."""
    second = plan_windows(300, [], [], 125, 41)[1]
    assert (second.unused, second.blend, second.thrown_away) == (29, 4, 8)
    second = plan_windows(300, [], [90], 125, 41)[1]
    assert second.start == 90 and (second.unused, second.blend, second.thrown_away) == (0, 4, 9)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((10, [], [], 5, 3), "window"),
        ((10, [], [], -1, 0), "window"),
        ((10, [], [], 9, -1), "overlap"),
        ((10, [12], [], 9, 1), "cuts"),
        ((10, [], [10], 9, 1), "keyframes"),
    ],
)
def test_windows_that_cannot_be_are_refused(arguments: tuple[int, list[int], list[int], int, int], field: str) -> None:
    with pytest.raises(InputError) as caught:
        plan_windows(*arguments)
    assert caught.value.field == field


def test_tiles_cover_the_frame_on_whole_pixels_of_both_sizes() -> None:
    generator = np.random.default_rng(1)
    for _ in range(300):
        h, w = (int(v) for v in generator.integers(4, 150, 2))
        overlap, reach, align = (int(v) for v in generator.integers(0, 6, 3))
        align += 1
        top, bottom = (int(v) for v in generator.integers(1, 5, 2))
        size = (h * bottom, w * bottom)
        tiles = plan_tiles(size, (h * top, w * top), 120, overlap, reach=reach, align=align)
        for length, spans in zip(size, zip(*((t.rows, t.columns) for t in tiles), strict=True), strict=True):
            spans = sorted(set(spans), key=lambda span: span.first)
            assert spans[0].first == spans[0].start == 0 and spans[-1].last == spans[-1].stop == length
            assert all(s.stop - s.start <= 120 or len(spans) == 1 for s in spans)
            for before, after in pairwise(spans):
                assert before.stop - after.start >= overlap + 2 * reach
                assert after.shared == before.last - after.first >= min(overlap, 1)
                assert after.shared <= 16 + 2 * bottom or overlap == 0
                assert after.first - after.start >= reach and before.stop - before.last >= reach
            assert all(s.start % align == 0 for s in spans)
            assert all(v * top % bottom == 0 for s in spans for v in (s.start, s.first, s.last, s.stop))


def video(frames: int = 3, size: tuple[int, int] = (40, 72)) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(frames, 3, *size, generator=generator)


def whole(method: str, source: Tensor, size: tuple[int, int], tiling: Tiling | None = None) -> Tensor:
    return torch.cat(list(upscale_window(Interpolation(method), source, {}, size, tiling)))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(80, 144), (60, 108)])
def test_interpolation_in_tiles_is_that_of_the_whole_frame(method: str, size: tuple[int, int]) -> None:
    source = video()
    tiled = whole(method, source, size, Tiling(24, 4))
    assert len(plan_tiles((40, 72), size, 24, 4, reach=3)) > 4
    assert (tiled - whole(method, source, size)).abs().max() < 1e-5


class Drifting:
    """Bicubic with a colour cast that changes over the frame, as a network's may, and a reach of its own."""

    reach, align, keeps_colour = 2, 1, False

    def __call__(self, frames: Tensor, keyframes: Mapping[int, Tensor], size, report) -> Iterator[Tensor]:  # type: ignore[no-untyped-def]
        for i, frame in enumerate(frames):
            large = functional.interpolate(frame[None], size, mode="bicubic").clamp(0, 1)
            cast = torch.tensor([0.06, -0.04, 0.02]).view(1, 3, 1, 1) * torch.linspace(0.2, 1, size[1])
            yield keyframes[i][None] if i in keyframes else (large * 0.9 + 0.05 + cast).clamp(0, 1)


def test_colours_are_the_sources_and_detail_stays() -> None:
    source = functional.avg_pool2d(video(4, (160, 320)), 4) * 0.8 + 0.1
    drifted = torch.cat(list(Drifting()(source, {}, (80, 160), None)))
    kept = torch.cat(list(upscale_window(Drifting(), source, {}, (80, 160))))
    error = lambda frames: (frames.mean((0, 2, 3)) - source.mean((0, 2, 3))).abs().max() * 255  # noqa: E731
    assert error(drifted) > 5 and error(kept) < 0.5
    fine = lambda frames: frames - functional.avg_pool2d(frames, 5, 1, 2)  # noqa: E731
    assert (fine(kept) - fine(drifted))[..., 8:-8, 8:-8].abs().mean() < 0.004


def test_keyframes_are_cut_like_their_tiles() -> None:
    source = video()
    keyframe = torch.rand(3, 80, 144, generator=torch.Generator().manual_seed(4))
    tiled = torch.cat(list(upscale_window(Drifting(), source, {1: keyframe}, (80, 144), Tiling(24, 4), colour=0)))
    assert torch.equal(tiled[1], keyframe)


def test_windows_and_their_blend_join_to_the_whole_video() -> None:
    """Equal frames stay equal under the blend; different ones go over linearly, and only where windows overlap."""
    source = video(30, (8, 8))
    windows = plan_windows(30, [11], [], 12, 3)
    pieces = [[to_uint8(frame) for frame in source[w.start : w.stop]] for w in windows]
    joined = list(joined_windows(pieces, windows))
    assert all(np.array_equal(a, to_uint8(b)) for a, b in zip(joined, source, strict=True))
    other = [pieces[0], [255 - frame for frame in pieces[1]], *pieces[2:]]
    changed = [n for n, frame in enumerate(joined_windows(other, windows)) if (frame != joined[n]).any()]
    assert changed == list(range(windows[1].start + windows[1].unused, windows[1].stop - windows[1].tail))


def test_colour_of_a_frame_smaller_than_a_cell() -> None:
    source, large = torch.full((1, 3, 4, 4), 0.5), torch.full((1, 3, 8, 8), 0.4)
    assert keep_colour(large, source).mean().item() == pytest.approx(0.5)


@pytest.mark.parametrize("depth", [8, 12])
def test_kept_pieces_hold_every_code_and_are_the_same_bytes(depth: int, tmp_path: Path) -> None:
    levels = (1 << depth) - 1
    codes = torch.randint(0, levels + 1, (3, 3, 21, 35), generator=torch.Generator().manual_seed(5))
    for name in ("a.mkv", "b.mkv"):
        with open_lossless(tmp_path / name, depth) as writer:
            for frame in codes:
                writer.write(frame / levels)
    kept = list(read_lossless(tmp_path / "a.mkv"))
    assert all(np.array_equal(a, b.permute(1, 2, 0).numpy()) for a, b in zip(kept, codes, strict=True))
    assert (pixels_of(kept[0]) - codes[0] / levels).abs().max() < 1e-6
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(b"no video")
    with pytest.raises(InputError, match="damaged"):
        next(read_lossless(tmp_path / "a.mkv"))
