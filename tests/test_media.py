"""Pictures and videos: exact where they promise it, atomic, and one clear error for each kind of bad file."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anchorshot.media.contact_sheet import SHOTS_PER_PAGE, SheetKeyframe, SheetShot, write_contact_sheet
from anchorshot.media.frames import from_uint8, to_uint8
from anchorshot.media.picture import fit_picture, read_picture, write_picture
from anchorshot.media.video import VideoReader, open_writer
from anchorshot.story.errors import InputError


def noise(seed: int, height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def bars(height: int = 64, width: int = 96) -> torch.Tensor:
    """Six upright colour bars, wide enough that halved chroma leaves their middle alone."""
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0.5, 0.5, 0.5], [1, 0.5, 0.1]])
    return colours.repeat_interleave(width // 6, 0).T[:, None, :].expand(3, height, width).contiguous()


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def test_every_8_bit_value_survives_the_float_form() -> None:
    array = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    assert np.array_equal(to_uint8(from_uint8(array)), array)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_frame_is_never_written(bad: float, tmp_path: Path) -> None:
    frame = noise(0)
    frame[1, 2, 3] = bad
    with pytest.raises(ValueError, match="1 values that are NaN or infinite"):
        write_picture(tmp_path / "x.png", frame)
    with pytest.raises(ValueError, match="NaN"), open_writer(tmp_path / "x.mp4", 8) as writer:
        writer.write(noise(1))
        writer.write(frame)
    assert list(tmp_path.iterdir()) == []


def test_png_round_trip_is_exact(tmp_path: Path) -> None:
    frame = from_uint8(to_uint8(noise(1)))
    assert torch.equal(read_picture(write_picture(tmp_path / "a" / "x.png", frame)), frame)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_common_modes_are_read_as_rgb(mode: str, tmp_path: Path) -> None:
    Image.new("RGB", (20, 16), (255, 255, 255)).convert(mode).save(tmp_path / "x.png")
    assert torch.equal(read_picture(tmp_path / "x.png"), torch.ones(3, 16, 20))


def test_transparent_pixels_become_white_and_exif_turns(tmp_path: Path) -> None:
    Image.new("RGBA", (20, 16), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_picture(tmp_path / "clear.png").min() == 1
    picture = Image.new("RGB", (20, 16))
    exif = picture.getexif()
    exif[0x0112] = 6  # lying on its side
    picture.save(tmp_path / "side.jpg", exif=exif)
    assert read_picture(tmp_path / "side.jpg").shape == (3, 20, 16)


def _bad_pictures(folder: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    floats = rng.random((20, 20), dtype=np.float32)
    Image.fromarray(floats).save(folder / "float.tiff")
    floats[3, 3] = np.nan
    Image.fromarray(floats).save(folder / "nan.tiff")
    Image.new("CMYK", (20, 20)).save(folder / "cmyk.jpg")
    Image.fromarray(rng.integers(0, 65535, (20, 20), dtype=np.uint16)).save(folder / "deep.png")
    Image.new("RGB", (20, 4)).save(folder / "small.png")
    whole = folder / "whole.png"
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole)
    (folder / "cut.png").write_bytes(whole.read_bytes()[:2000])
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "folder.png").mkdir()
    return {p.stem: p for p in folder.iterdir()} | {"missing": folder / "nowhere.png"}


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("missing", "existing picture file"),
        ("folder", "existing picture file"),
        ("text", "must be a picture"),
        ("empty", "must be a picture"),
        ("cut", "readable picture"),
        ("nan", "NaN"),
        ("float", "8-bit"),
        ("deep", "8-bit"),
        ("cmyk", "8-bit"),
        ("small", "sides from 16"),
    ],
)
def test_bad_pictures_are_refused_in_one_line(kind: str, rule: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_picture(_bad_pictures(tmp_path)[kind], field="shots[0].keyframes[0].image")
    assert rule in str(caught.value)
    assert str(caught.value).startswith("shots[0].keyframes[0].image: ")
    assert "\n" not in str(caught.value)


def test_a_decompression_bomb_is_refused_before_it_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (400, 400)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    with pytest.raises(InputError, match="pixels"):
        read_picture(tmp_path / "bomb.png")


@given(st.integers(16, 90), st.integers(16, 90), st.sampled_from([(16, 32), (32, 16), (24, 24)]))
def test_fit_keeps_the_aspect_and_the_centre(height: int, width: int, size: tuple[int, int]) -> None:
    """A cross through the centre stays there, and nothing leaves 0…1, whatever the shapes."""
    frame = torch.zeros(3, height, width)
    frame[:, :, width // 2 - 2 : width - width // 2 + 2] = 1
    fitted = fit_picture(frame, size)
    assert fitted.shape == (3, *size)
    assert 0 <= fitted.min() and fitted.max() <= 1
    columns = fitted[0].mean(0)
    centre = float((columns * torch.arange(size[1])).sum() / columns.sum())
    assert abs(centre - (size[1] - 1) / 2) < 1
    assert torch.equal(fit_picture(frame, (height, width)), frame)


def test_lossless_video_is_exact_and_reproducible(tmp_path: Path) -> None:
    frames = [noise(i, 31, 47) for i in range(5)]
    for name in ("a.mkv", "b.mkv"):
        with open_writer(tmp_path / name, 12, lossless=True) as writer:
            for frame in frames:
                writer.write(frame)
    reader = VideoReader(tmp_path / "a.mkv")
    assert (reader.fps, reader.size, reader.frames) == (12, (31, 47), 5)
    for _ in range(2):  # it can be read again
        assert all(np.array_equal(a, to_uint8(f)) for a, f in zip(reader.arrays(), frames, strict=True))
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()
    assert leftovers(tmp_path) == []


def test_mp4_plays_in_a_browser(tmp_path: Path) -> None:
    """H.264, 4:2:0, marked BT.709, the index before the pictures, right rate and length, right colours."""
    for name in ("a.mp4", "b.mp4"):
        with open_writer(tmp_path / name, 24000 / 1001) as writer:
            for shift in range(9):
                writer.write(bars().roll(shift, -1))
    data = (tmp_path / "a.mp4").read_bytes()
    assert data == (tmp_path / "b.mp4").read_bytes()
    assert data[4:8] == b"ftyp" and 0 < data.find(b"moov") < data.find(b"mdat")
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, context.colorspace, context.color_range) == ("h264", "yuv420p", 1, 1)
        assert float(stream.duration * stream.time_base) == pytest.approx(9 * 1001 / 24000)
    reader = VideoReader(tmp_path / "a.mp4")
    assert (float(reader.fps), reader.size, reader.frames) == (pytest.approx(24000 / 1001), (64, 96), 9)
    first = next(iter(reader))
    middles = slice(8, None, 16)
    assert (first - bars())[:, 32, middles].abs().max() < 4 / 255


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), open_writer(path, 8) as writer:
        writer.write(noise(0))
        raise RuntimeError("stopped in the middle")
    with pytest.raises(ValueError, match="frame 1 is"), open_writer(path, 8) as writer:
        writer.write(noise(0))
        writer.write(noise(0, 16, 16))
    with pytest.raises(ValueError, match="no frame"), open_writer(path, 8):
        pass
    with pytest.raises(InputError, match="even"), open_writer(path, 8) as writer:
        writer.write(noise(0, 31, 48))
    assert path.read_bytes() == b"old" and leftovers(tmp_path) == []


def test_bad_videos_are_refused(tmp_path: Path) -> None:
    with open_writer(tmp_path / "good.mp4", 8) as writer:
        for i in range(30):
            writer.write(noise(i, 64, 64))
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "good.mp4").read_bytes()[:600])
    (tmp_path / "text.mp4").write_text("nothing")
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    for name, rule in [
        ("nowhere.mp4", "existing"),
        ("text.mp4", "readable"),
        ("cut.mp4", "readable"),
        ("sound.wav", "picture track"),
    ]:
        with pytest.raises(InputError, match=rule):
            list(VideoReader(tmp_path / name))


def test_contact_sheet_shows_every_picture(tmp_path: Path) -> None:
    """Each shot's pure colour is found on the sheet; the sheet takes odd titles; long films go on to a second page."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
    shots = []
    for i, colour in enumerate(colours):
        Image.new("RGB", (64, 32), colour).save(tmp_path / f"{i}.png")
        keyframes = [SheetKeyframe(tmp_path / f"{i}.png", 0.0, 0.0)] * (1 + i)
        shots.append(SheetShot(f"s{i:02d}", "the dunes", "a long caption " * 30, i * 2.0, 2.0, keyframes))
    (page,) = write_contact_sheet(tmp_path / "sheet.png", "Zwei Freunde – 二人の友 " * 9, "4 shots", shots)
    seen = {colour for _, colour in Image.open(page).getcolors(1 << 24)}
    assert set(colours) <= seen
    many = [shots[0]] * (SHOTS_PER_PAGE + 1)
    pages = write_contact_sheet(tmp_path / "long.png", "t", "s", many)
    assert [p.name for p in pages] == ["long.png", "long_02.png"]
    assert Image.open(pages[1]).height < Image.open(pages[0]).height / 4


def test_three_pictures_stand_in_a_row_where_their_times_fit(tmp_path: Path) -> None:
    Image.new("RGB", (64, 32)).save(tmp_path / "0.png")

    def height(count: int, name: str = "frame") -> int:
        shown = [SheetKeyframe(tmp_path / "0.png", 0.0, 0.0, name)] * count
        shots = [SheetShot("s01", "dunes", "caption", 0.0, 2.0, shown)]
        return Image.open(*write_contact_sheet(tmp_path / "sheet.png", "t", "s", shots)).height

    assert height(3) < height(2) < height(4) and height(3) < height(6)
    assert height(3, "a picture with a long name") == height(4, "a picture with a long name")
