"""What goes into a film besides its models: joined clips, pictures on the disk, the stories that come along."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anchorshot.media.image import read_image, write_image
from anchorshot.media.video import VideoReader, open_writer
from anchorshot.pipelines.join import join_clips, joined_clips
from anchorshot.story.storyboard import load_storyboard

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def clips(tmp_path: Path) -> Iterator[list[Path]]:
    """Three clips of one grey each: 4, 6 and 3 frames at 8 fps."""
    paths = []
    for i, (count, grey) in enumerate(((4, 0.2), (6, 0.6), (3, 1.0))):
        with open_writer(tmp_path / f"{i}.mkv", 8, lossless=True) as writer:
            for _ in range(count):
                writer.write(torch.full((3, 16, 16), grey))
        paths.append(tmp_path / f"{i}.mkv")
    yield paths


def test_a_blend_crosses_over_and_a_cut_does_not(clips: list[Path], tmp_path: Path) -> None:
    placed = joined_clips([4, 6, 3], ["blend", "blend", "cut"], Fraction(8))
    assert [(clip.start, clip.overlap) for clip in placed] == [(0, 0), (2, 2), (8, 0)]
    join_clips(tmp_path / "film.mp4", clips, placed, Fraction(8))
    greys = [frame.mean().item() for frame in VideoReader(tmp_path / "film.mp4")]
    third = 0.4 / 3
    expected = [0.2, 0.2, 0.2 + third, 0.2 + 2 * third, 0.6, 0.6, 0.6, 0.6, 1, 1, 1]
    assert greys == pytest.approx(expected, abs=0.012)


@given(
    st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["cut", "blend"])), min_size=1, max_size=8),
    st.sampled_from([Fraction(8), Fraction(24000, 1001), Fraction(1)]),
)
def test_dissolves_never_overlap_each_other(parts: list, fps: Fraction) -> None:
    """Every film frame belongs to one clip or to two neighbours, and all frames are there."""
    counts, transitions = [p[0] for p in parts], [p[1] for p in parts]
    placed = joined_clips(counts, transitions, fps)
    covered = [0] * (placed[-1].start + placed[-1].frames)
    for clip in placed:
        for frame in range(clip.start, clip.start + clip.frames):
            covered[frame] += 1
    assert set(covered) <= {1, 2}
    assert all(clip.overlap <= fps / 2 for clip in placed)
    assert sum(counts) - sum(clip.overlap for clip in placed) == len(covered)


def test_the_shipped_examples_are_good_stories(tmp_path: Path) -> None:
    """The examples, and the storyboard that the README shows, parse."""
    for path in (ROOT / "stories").iterdir():
        if path.suffix in {".yaml", ".csv", ".txt", ".json"}:
            assert load_storyboard(path).shots
    (shown,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "readme.yaml").write_text(shown)
    assert len(load_storyboard(tmp_path / "readme.yaml").shots) == 3


def test_pictures_go_through_the_disk_unchanged(tmp_path: Path) -> None:
    """What stage 2 reads is what stage 1 wrote, so a resumed film sees the same keyframes."""
    picture = torch.rand(3, 32, 64)
    written = read_image(write_image(tmp_path / "x.png", picture))
    assert (written - picture).abs().max() <= 0.5001 / 255
    assert torch.equal(read_image(write_image(tmp_path / "y.png", written)), written)


def test_a_match_shows_the_shared_frame_once() -> None:
    placed = joined_clips([9, 5, 5], ["cut", "match", "cut"], Fraction(8))
    assert [(clip.start, clip.overlap) for clip in placed] == [(0, 0), (8, 1), (13, 0)]
