"""New frames after a video's own: its packets copied where the codec allows it, and nothing of it changed."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from anchorshot.media import append
from anchorshot.media.append import append_frames, container_suffix, why_encoded
from anchorshot.media.avcc import Avcc, length_prefixed
from anchorshot.media.source_video import SourceVideo
from anchorshot.media.video import open_writer

RATE = Fraction(25)


def clip(path: Path, codec: str = "libx264", **options: str) -> SourceVideo:
    """15 frames with sound that is longer than they are; x264 reorders frames (B-frames)."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=RATE, options=options)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        sound = container.add_stream("aac", rate=16000, layout="mono")
        ramp = np.tile(np.arange(48, dtype=np.uint8)[None, :, None], (32, 1, 3))
        for n in range(15):
            picture = av.VideoFrame.from_ndarray(ramp * 2 + np.uint8(6 * n), format="rgb24").reformat(format="yuv420p")
            container.mux(video.encode(picture))
        for _ in range(12):
            tone = av.AudioFrame.from_ndarray(np.full((1, 1024), 0.1, np.float32), format="fltp", layout="mono")
            tone.sample_rate = 16000
            container.mux(sound.encode(tone))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    return SourceVideo(path)


def grey(count: int) -> Iterator[Tensor]:
    return (torch.full((3, 32, 48), n / 10) for n in range(1, count + 1))


def decoded(path: Path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray()) for frame in container.decode(video=0)]


def sound(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(audio=0) if p.size]
        return [(float(p.pts * p.time_base), bytes(p)) for p in packets]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_packets_are_copied_and_new_frames_follow(name: str, tmp_path: Path) -> None:
    source = clip(tmp_path / name)
    path = tmp_path / f"b{container_suffix(source)}"
    assert path.suffix == Path(name).suffix and why_encoded(source) is None
    told: list[int] = []
    assert append_frames(path, source, lambda: grey(6), RATE, progress=told.append) is None
    before, after = decoded(source.path), decoded(path)
    assert len(after) == 21 and told[-1] == 21
    for (old_time, old), (new_time, new) in zip(before, after, strict=False):
        assert abs(old_time - new_time) < 1e-3 and np.array_equal(old, new)
    assert [round(time, 3) for time, _ in after[15:]] == [pytest.approx(0.6 + n / 25, abs=1.1e-3) for n in range(6)]
    assert [round(float(np.median(frame[:32])) / 255, 2) for _, frame in after[15:]] == [
        pytest.approx((16 + 219 * n / 10) / 255, abs=0.01) for n in range(1, 7)
    ]
    assert [data for _, data in sound(path)] == [data for _, data in sound(source.path)]
    assert max(abs(a - b) for (a, _), (b, _) in zip(sound(path), sound(source.path), strict=True)) < 1e-3


def test_a_films_lossless_clip_goes_on_losslessly(tmp_path: Path) -> None:
    with open_writer(tmp_path / "a.mkv", RATE, lossless=True) as writer:
        for frame in grey(3):
            writer.write(frame)
    source = SourceVideo(tmp_path / "a.mkv")
    assert append_frames(tmp_path / "b.mkv", source, lambda: grey(4), RATE) is None
    frames = torch.stack([frame.pixels for frame in SourceVideo(tmp_path / "b.mkv").frames()])
    assert torch.allclose(frames, torch.stack([*grey(3), *grey(4)]), atol=0.5 / 255 + 1e-6)


def test_what_cannot_be_copied_is_encoded_again_and_told(tmp_path: Path) -> None:
    source, reason = clip(tmp_path / "a.mp4", "mpeg4"), "it is mpeg4"
    assert why_encoded(source) == reason
    assert append_frames(tmp_path / "b.mp4", source, lambda: grey(2), RATE) == reason
    before, after = list(source.frames()), list(SourceVideo(tmp_path / "b.mp4").frames())
    assert [frame.time for frame in after] == [Fraction(n, 25) for n in range(17)]
    assert all((a.pixels - b.pixels).abs().mean() < 2 / 255 for a, b in zip(before, after, strict=False))


def test_a_copy_that_shows_something_else_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is compared with the source: here another file's packets get into it."""
    source, other = clip(tmp_path / "a.mp4"), clip(tmp_path / "c.mp4", crf="40")
    copy = append._copy
    monkeypatch.setattr(append, "_copy", lambda path, _, *rest: copy(path, other, *rest))
    reason = append_frames(tmp_path / "b.mp4", source, lambda: grey(2), RATE)
    assert reason == "its packets do not decode to the same frames in a new file"
    before, after = list(source.frames()), list(SourceVideo(tmp_path / "b.mp4").frames())
    assert len(after) == 17
    assert all((a.pixels - b.pixels).abs().mean() < 2 / 255 for a, b in zip(before, after, strict=False))


def test_frames_of_another_size_leave_nothing_behind(tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"\[16, 48\] \(height, width\), the video's \[32, 48\]"):
        append_frames(tmp_path / "b.mp4", source, lambda: iter([torch.zeros(3, 16, 48)]), RATE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4"]


def test_parameter_sets_keep_their_numbers_apart() -> None:
    """Numbers are Exp-Golomb codes behind profile, flags and level: 1 is 0, 010 is 1, 011 is 2."""
    sps = [bytes([0x67, 100, 0, 10, code]) for code in (0b10000000, 0b01000000)]
    pps = [bytes([0x68, 0b10000000])]
    header = Avcc(100, 0, 10, 4, tuple(sps), tuple(pps), b"\xfd\xf8\xf8\0")
    assert Avcc.parse(header.to_bytes()) == header
    assert header.free_number() == 2
    more = header.with_sets([bytes([0x67, 100, 0, 31, 0b01100000]), bytes([0x68, 0b01100000])])
    assert (more.level, len(more.sps), len(more.pps), more.free_number()) == (31, 3, 2, 3)
    with pytest.raises(ValueError, match="of its profile"):
        header.with_sets([bytes([0x67, 66, 0, 31, 0x80])])
    for broken in (b"", b"\0\0\0\1g", header.to_bytes()[:12]):
        assert Avcc.parse(broken) is None
    assert length_prefixed(b"\0\0\0\1\x67abc\0\0\1\x65xyz", 4) == b"\0\0\0\4\x65xyz"
