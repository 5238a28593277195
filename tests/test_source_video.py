"""Any video in, the same video out: times, colours, shape and sound, through `SourceVideo` and `open_target`."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch

from anchorshot.media.source_video import SourceVideo
from anchorshot.media.target_video import open_target
from anchorshot.media.video import open_writer


def copy(source: SourceVideo, path: Path) -> SourceVideo:
    with open_target(path, source) as target:
        for frame in source.frames():
            target.write(frame.pixels, frame.time, frame.duration)
    return SourceVideo(path)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_a_clip_keeps_its_times_and_colours(suffix: str, tmp_path: Path) -> None:
    with open_writer(tmp_path / "x.mp4", Fraction(24000, 1001)) as writer:
        for n in range(12):
            writer.write(torch.full((3, 32, 48), n / 12))
    source = SourceVideo(tmp_path / "x.mp4")
    assert (source.size, source.rate, source.times[3]) == ((32, 48), Fraction(24000, 1001), Fraction(1001, 8000))
    target = copy(source, tmp_path / f"y.{suffix}")
    tolerance = 0 if suffix != "mkv" else Fraction(1, 2000)
    assert max(abs(a - b) for a, b in zip(source.times, target.times, strict=True)) <= tolerance
    for a, b in zip(source.frames(), target.frames(), strict=True):
        assert float((a.pixels - b.pixels).mean(dim=(1, 2)).abs().max()) < 1.5 / 255
    assert next(target.frames(7)).index == 7
