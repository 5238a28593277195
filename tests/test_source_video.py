"""Any video in, the same video out: times, colours, shape and sound, through `SourceVideo` and `open_target`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from anchorshot.benchmarks.cuts import as_tensors, film
from anchorshot.benchmarks.foreign_clips import CLIPS, REFUSED, Clip, make_clip
from anchorshot.benchmarks.foreign_video import measure
from anchorshot.core.errors import InputError
from anchorshot.media.cuts import CutFinder, cuts_of_video, find_cuts
from anchorshot.media.source_video import SourceFrame, SourceVideo
from anchorshot.media.target_video import open_target
from anchorshot.media.video import open_writer


def copy(frames: Iterator[SourceFrame], source: SourceVideo, path: Path, size: tuple[int, int]) -> SourceVideo:
    """Write frames enlarged to `size` by repeating pixels."""
    with open_target(path, source, size) as target:
        for frame in frames:
            pixels = torch.nn.functional.interpolate(frame.pixels[None], size, mode="nearest")[0]
            target.write(pixels, frame.time, frame.duration)
    return SourceVideo(path)


@pytest.mark.parametrize("name", CLIPS)
def test_what_comes_out_is_what_went_in(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No frame lost or doubled, timing and sound within a millisecond, colours within 1.5 codes; seeking is exact."""
    monkeypatch.setenv("SVT_LOG", "1")
    clip = CLIPS[name]
    m = measure(clip, tmp_path)
    # a recording that begins within a group of pictures has no picture before the first keyframe
    assert m.order and m.seeks and m.frames == (14 if name == "recording, late start" else m.shown)
    assert m.times == 0 and m.duration < 1
    assert (m.offset is None) == (not clip.sound) and (m.offset or 0) < 1 and (m.clicked or 0) < 1
    assert m.read < (3 if name == "GIF" else 1.5) and m.colour < 1.5  # a GIF's palette has 256 colours
    upright = clip.size[::-1] if clip.turn and clip.turn[0] == 0 else clip.size
    assert m.size == upright and m.aspect == (1 / clip.aspect if upright != clip.size else clip.aspect)
    assert any("interlaced" in note for note in m.notes) == clip.interlaced
    assert any("no tag" in note for note in m.notes) == (clip.untagged and "yuv" in clip.pix_fmt)


@pytest.mark.parametrize("name", ["23.976", "variable rate MP4", "transport stream", "Opus, WebM"])
def test_matroska_is_right_to_the_millisecond(name: str, tmp_path: Path) -> None:
    m = measure(CLIPS[name], tmp_path, "mkv")
    assert m.order and max(m.times, m.duration, m.offset or 0) < 1


def test_sound_that_a_container_cannot_hold(tmp_path: Path) -> None:
    source = SourceVideo(make_clip(CLIPS["Opus, WebM"], tmp_path / "x"))
    with (
        pytest.raises(InputError, match=r"hold the sound.*opus.*write y\.mkv"),
        open_target(tmp_path / "y.mov", source),
    ):
        pass
    with pytest.raises(InputError, match=r"must end in \.mp4"), open_target(tmp_path / "y.avi", source):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["x.webm"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused(name: str, tmp_path: Path) -> None:
    path = make_clip(REFUSED[name], tmp_path / "x")
    with pytest.raises(InputError, match=r"dynamic range|whole|readable"):
        for _ in SourceVideo(path).frames():
            pass


def test_a_larger_video_keeps_its_shape_on_the_screen(tmp_path: Path) -> None:
    source = SourceVideo(make_clip(CLIPS["wide pixels"], tmp_path / "x"))
    same = copy(source.frames(0, 2), source, tmp_path / "same.mp4", (64, 96))
    other = copy(source.frames(0, 2), source, tmp_path / "other.mp4", (64, 48))
    assert (same.size, same.sample_aspect) == ((64, 96), Fraction(16, 11))
    assert (other.size, other.sample_aspect) == ((64, 48), Fraction(32, 11))


def test_equal_frames_give_equal_files_and_depth_can_be_chosen(tmp_path: Path) -> None:
    source = SourceVideo(make_clip(CLIPS["MP4, AAC"], tmp_path / "x"))
    for name, depth in (("a", None), ("b", None), ("c", 10)):
        with open_target(tmp_path / f"{name}.mp4", source, depth=depth) as target:
            for frame in source.frames():
                target.write(frame.pixels, frame.time, frame.duration)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert SourceVideo(tmp_path / "c.mp4").colour.depth == 10


def test_bad_frames_leave_no_file(tmp_path: Path) -> None:
    source = SourceVideo(make_clip(Clip(count=2), tmp_path / "x"))
    first, second = source.frames()
    for frames, rule in [
        ([(first.pixels[:, 1:], first.time)], r"must be \[3, 32, 48\]"),
        ([(first.pixels, second.time), (second.pixels, first.time)], "does not follow"),
        ([(first.pixels * float("nan"), first.time)], "finite"),
        ([], "no frame"),
    ]:
        with pytest.raises(ValueError, match=rule), open_target(tmp_path / "y.mp4", source) as target:
            for pixels, time in frames:
                target.write(pixels, time)
        assert [path.name for path in tmp_path.iterdir()] == ["x.mp4"]


def test_known_times_are_not_sought_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_clip(Clip(options={"g": "4"}), tmp_path / "x")
    times = SourceVideo(path).times
    known = SourceVideo(path, times=times)
    monkeypatch.setattr(known, "_whole", lambda: pytest.fail("read from the beginning"))
    assert [frame.index for frame in known.frames(9)] == [9, 10, 11]
    assert list(known.frames(12)) == []


def test_fields_of_a_moving_picture_are_not_woven(tmp_path: Path) -> None:
    """A bar moves 6 pixels from field to field: woven, every second line of its edges differs."""
    lines = np.zeros((24, 32, 64), np.uint8)
    for field in range(24):
        lines[field, :, 2 * field : 2 * field + 12] = 255
    woven = lines[0::2].copy()
    woven[:, 1::2] = lines[1::2, 1::2]
    import av

    with av.open(str(tmp_path / "x.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        stream.options = {"qp": "4", "x264-params": "tff=1"}
        for n, picture in enumerate(woven):
            frame = av.VideoFrame.from_ndarray(np.stack([picture] * 3, -1), format="rgb24").reformat(format="yuv420p")
            frame.pts = n
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    source = SourceVideo(tmp_path / "x.mp4")
    assert source.interlaced
    combed = torch.from_numpy(woven).float() / 255
    for frame, raw in itertools.islice(zip(source.frames(), combed, strict=True), 1, 11):
        rows = frame.pixels[1]
        assert float((rows[1:] - rows[:-1]).abs().mean()) < 0.3 * float((raw[1:] - raw[:-1]).abs().mean())


def test_cuts_are_found_and_slow_changes_are_none() -> None:
    for kind, rate in (("cuts", 12), ("short shots", 12), ("dissolves", 24)):
        frames, cuts = film(kind, 1, shots=4)
        assert find_cuts(as_tensors(frames), rate) == cuts
    frames, cuts = film("cuts", 2, shots=4)
    on_threes = [frame for frame in frames for _ in range(3)]  # drawings that stay for three frames
    finder = CutFinder(36)
    found = [finder.push(frame) for frame in as_tensors(on_threes)]
    assert list(itertools.chain(*found, finder.finish())) == [3 * cut for cut in cuts]
    late = [n - cut for n, some in enumerate(found) for cut in some]
    assert max(late) <= 18  # half a second


def test_stills_are_shots_of_their_own_and_files_need_no_conversion(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stills = np.kron(rng.integers(0, 256, (3, 4, 6, 3)), np.ones((1, 16, 16, 1))).astype(np.uint8)
    with open_writer(tmp_path / "x.mp4", 12) as writer:
        for frame in np.repeat(stills, 10, 0):
            writer.write_array(frame)
    source = SourceVideo(tmp_path / "x.mp4")
    assert cuts_of_video(source) == find_cuts((frame.pixels for frame in source.frames()), 12) == [10, 20]
    assert len(source.times) == 30
