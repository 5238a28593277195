"""Pictures and videos: exact where they promise it, atomic, and one clear error for each kind of bad file."""

from __future__ import annotations

import struct
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anchorshot.core.errors import InputError
from anchorshot.media.contact_sheet import PAGE_HEIGHT, SHOTS_PER_PAGE, SheetKeyframe, SheetShot, write_contact_sheet
from anchorshot.media.frames import from_uint8, to_uint8
from anchorshot.media.image import fit_image, read_image, write_image
from anchorshot.media.video import VideoReader, open_writer


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
    with pytest.raises(ValueError, match="frame: must make finite pictures .got .NaN or infinity in 1 of "):
        write_image(tmp_path / "x.png", frame)
    with pytest.raises(ValueError, match="NaN"), open_writer(tmp_path / "x.mp4", 8) as writer:
        writer.write(noise(1))
        writer.write(frame)
    assert list(tmp_path.iterdir()) == []


def test_png_round_trip_is_exact(tmp_path: Path) -> None:
    frame = from_uint8(to_uint8(noise(1)))
    assert torch.equal(read_image(write_image(tmp_path / "a" / "x.png", frame)), frame)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_common_modes_are_read_as_rgb(mode: str, tmp_path: Path) -> None:
    Image.new("RGB", (20, 16), (255, 255, 255)).convert(mode).save(tmp_path / "x.png")
    assert torch.equal(read_image(tmp_path / "x.png"), torch.ones(3, 16, 20))


def test_transparent_pixels_become_white_and_exif_turns(tmp_path: Path) -> None:
    Image.new("RGBA", (20, 16), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").min() == 1
    picture = Image.new("RGB", (20, 16))
    exif = picture.getexif()
    exif[0x0112] = 6  # lying on its side
    picture.save(tmp_path / "side.jpg", exif=exif)
    assert read_image(tmp_path / "side.jpg").shape == (3, 20, 16)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "notes",
    [b"Exif\0\0MM\0\x2a\xff\xff\xff\xff", b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x02\x01\x12"],
    ids=["no directory", "cut"],
)
def test_damaged_notes_of_a_camera_are_left_out_quietly(form: str, notes: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"x.{form.lower()}"
    Image.new("RGB", (20, 16), (255, 255, 255)).save(path, form, exif=notes, lossless=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(read_image(path), torch.ones(3, 16, 20))


def _bad_pictures(folder: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    floats = rng.random((20, 20), dtype=np.float32)
    Image.fromarray(floats).save(folder / "float.tiff")
    floats[3, 3] = np.nan
    Image.fromarray(floats).save(folder / "nan.tiff")
    Image.new("CMYK", (20, 20)).save(folder / "cmyk.jpg")
    Image.new("RGB", (20, 20)).save(folder / "profile.png", icc_profile=b"no profile")
    Image.new("RGB", (20, 20)).save(
        folder / "turn.png", save_all=True, append_images=[Image.new("RGB", (20, 20), "red")]
    )
    Image.new("RGB", (20, 20)).save(folder / "ps.eps")
    (folder / "ps.eps").rename(folder / "ps.png")
    Image.new("RGB", (20, 20)).save(folder / "gif.gif")
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
        ("folder", "regular picture file"),
        ("text", "must be a picture"),
        ("empty", "must be a picture"),
        ("cut", "readable picture"),
        ("nan", "PNG, JPEG or WebP"),
        ("float", "PNG, JPEG or WebP"),
        ("gif", "PNG, JPEG or WebP"),
        ("ps", "PNG, JPEG or WebP"),
        ("turn", "single picture"),
        ("profile", "colour profile"),
        ("cmyk", "colour profile"),
        ("small", "sides from 16"),
    ],
)
def test_bad_pictures_are_refused_in_one_line(kind: str, rule: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_image(_bad_pictures(tmp_path)[kind], field="shots[0].keyframes[0].image")
    assert rule in str(caught.value)
    assert str(caught.value).startswith("shots[0].keyframes[0].image: ")
    assert "\n" not in str(caught.value)


def test_a_decompression_bomb_is_refused_before_it_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (400, 400)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    with pytest.raises(InputError, match="pixels"):
        read_image(tmp_path / "bomb.png")


def test_only_named_formats_reach_a_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's PostScript plugin, which starts another program, must not even look at a file."""
    from PIL import EpsImagePlugin

    Image.new("RGB", (20, 20)).save(tmp_path / "x.eps")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("PostScript was run"))
    for name in ("x.png", "x.jpg", "x.webp", "x.eps"):
        (tmp_path / name).write_bytes((tmp_path / "x.eps").read_bytes())
        with pytest.raises(InputError, match="PNG, JPEG or WebP"):
            read_image(tmp_path / name)
    import anchorshot

    root = Path(anchorshot.__file__).parent
    own = [path.parent for path in root.glob("*/__init__.py") if path.parent.name != "tests"]
    for source in (source for folder in own for source in folder.rglob("*.py")):
        opens = "Image.open(" in source.read_text(encoding="utf-8")
        assert not opens or source == root / "media" / "image.py", f"{source} opens images of any format"


def test_16_bit_grey_is_rounded_and_cameras_pictures_are_single(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert (read_image(tmp_path / "deep.png")[0] - torch.from_numpy(deep / 65535)).abs().max() <= 0.5 / 255 + 1e-6
    photo, depth = Image.new("RGB", (40, 20), (10, 200, 30)), Image.new("RGB", (40, 20))
    photo.save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[depth], quality=95)
    assert (255 * read_image(tmp_path / "x.jpg") - torch.tensor([10.0, 200, 30])[:, None, None]).abs().max() < 4


def test_huge_pictures_come_back_smaller(tmp_path: Path) -> None:
    """Cheap in memory, and the same picture: a quarter red at any factor, also from a palette."""
    picture = Image.new("RGB", (8000, 4200), "white")
    picture.paste("red", (0, 0, 4000, 2100))
    for name, mode in (("rgb.png", "RGB"), ("palette.png", "P")):
        picture.convert(mode).save(tmp_path / name, compress_level=1)
        frame = read_image(tmp_path / name)
        assert frame.shape == (3, 2100, 4000)
        assert frame[:, 500, 900].tolist() == [1, 0, 0] and frame[:, 1500, 3000].tolist() == [1, 1, 1]


@given(st.integers(16, 90), st.integers(16, 90), st.sampled_from([(16, 32), (32, 16), (24, 24)]))
def test_fit_keeps_the_aspect_and_the_centre(height: int, width: int, size: tuple[int, int]) -> None:
    """A cross through the centre stays there, and nothing leaves 0…1, whatever the shapes."""
    frame = torch.zeros(3, height, width)
    frame[:, :, width // 2 - 2 : width - width // 2 + 2] = 1
    fitted = fit_image(frame, size)
    assert fitted.shape == (3, *size)
    assert 0 <= fitted.min() and fitted.max() <= 1
    columns = fitted[0].mean(0)
    centre = float((columns * torch.arange(size[1])).sum() / columns.sum())
    assert abs(centre - (size[1] - 1) / 2) < 1
    assert torch.equal(fit_image(frame, (height, width)), frame)


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


def test_colours_stay_over_ten_rounds_of_writing_and_reading(tmp_path: Path) -> None:
    """Patches of random colours, their middles (4:2:0 mixes at edges, a little further each round)."""
    patches = np.random.default_rng(0).integers(16, 240, (6, 6, 3)).astype(np.uint8)
    start = np.kron(patches, np.ones((48, 48, 1), np.uint8))
    frame = start
    for _ in range(10):
        with open_writer(tmp_path / "x.mp4", 25, crf=0) as writer:
            writer.write_array(frame)
        frame = next(VideoReader(tmp_path / "x.mp4").arrays())
    middle = np.zeros((6, 48, 6, 48), bool)
    middle[:, 20:28, :, 20:28] = True
    error = (frame.astype(int) - start)[middle.reshape(288, 288)]
    assert np.abs(error.mean(0)).max() < 0.5 and np.abs(error).max() <= 4


def test_colours_stay_in_place_over_rounds_of_writing_and_reading(tmp_path: Path) -> None:
    """4:2:0 has a colour for four pixels, and the file says where it lies: else colours move, while grey stays."""
    across, period = np.arange(160), 40
    wave = np.cos(2 * np.pi * across / period)
    frame = np.stack([128 + 80 * wave, 128 - 40 * wave, np.full(160, 128)], -1).round().astype(np.uint8)
    frame = start = np.broadcast_to(frame, (64, 160, 3)).copy()
    for _ in range(5):
        with open_writer(tmp_path / "x.mp4", 25, crf=0) as writer:
            writer.write_array(frame)
        frame = next(VideoReader(tmp_path / "x.mp4").arrays())
    before, after = ((x[..., 0] - 128.0) @ np.exp(-2j * np.pi * across / period) for x in (start, frame))
    moved = np.angle(after.sum() / before.sum()) * period / (2 * np.pi)
    assert abs(moved) < 0.25  # pixels; half of one in each round where the file does not say it


def flat(rgb: tuple[int, int, int], height: int = 96, width: int = 160) -> np.ndarray:
    return np.full((height, width, 3), rgb, np.uint8)


def foreign(path: Path, pictures: list[np.ndarray], ticks: list[int] | None = None, untag: bool = False) -> Path:
    """A clip as other programs write them: 25 ticks a second, frames at `ticks`, BT.709 pixels with or without tags."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "yuv420p"
        stream.options = {"qp": "1", "g": "10"}
        for n, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if untag:
                frame = frame.reformat(format="yuv420p", dst_colorspace=1, src_color_range=2, dst_color_range=1)
                frame.colorspace, frame.color_range = 2, 0
            frame.pts, frame.time_base = n if ticks is None else ticks[n], Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def test_turned_clips_are_refused(tmp_path: Path) -> None:
    path = foreign(tmp_path / "x.mp4", [flat((200, 30, 30))] * 3)
    assert VideoReader(path).frames == 3
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    turns = {"quarter": (0, 65536, -65536, 0), "mirror": (-65536, 0, 0, 65536), "half": (-65536, 0, 0, -65536)}
    for a, b, c, d in turns.values():
        data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
        path.write_bytes(data)
        with pytest.raises(InputError, match="turned or mirrored"):
            list(VideoReader(path))


def test_varying_frame_rates_are_refused(tmp_path: Path) -> None:
    stills = [flat((20 * n,) * 3) for n in range(8)]
    for ticks in ([0, 2, 5, 6, 9, 12, 14, 20], [0, 1, 2, 3, 10, 11, 12, 13], [0, 1, 2, 4, 5, 6, 7, 8]):
        path = foreign(tmp_path / "x.mp4", stills, [5 * tick for tick in ticks])
        with pytest.raises(InputError, match="constant frame rate"):
            list(VideoReader(path))


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30000, 1001), 24, 12.5])
@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_constant_rates_are_read_from_both_containers(rate: Fraction, suffix: str, tmp_path: Path) -> None:
    """Matroska rounds times to milliseconds; that is no varying rate."""
    with open_writer(tmp_path / f"x.{suffix}", rate, lossless=suffix == "mkv") as writer:
        for n in range(40):
            writer.write_array(flat((n, n, n), 16, 16))
    assert VideoReader(tmp_path / f"x.{suffix}").frames == 40


def test_frames_are_counted_where_the_header_counts_what_is_cut_away(tmp_path: Path) -> None:
    whole = foreign(tmp_path / "whole.mp4", [flat((2 * n,) * 3) for n in range(100)])
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mp4"), "w") as out:
        stream = source.streams.video[0]
        target = out.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.size:
                second = int(1 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - second, packet.dts - second, target
                out.mux(packet)
    reader = VideoReader(tmp_path / "cut.mp4")
    assert reader.frames == len(list(reader.arrays())) == 75


def test_a_clip_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with open_writer(tmp_path / "x.mkv", 25, lossless=True) as writer:
        for _ in range(40):
            writer.write_array(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8))
    data = (tmp_path / "x.mkv").read_bytes()
    (tmp_path / "x.mkv").write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(InputError, match=r"whole|readable"):
        list(VideoReader(tmp_path / "x.mkv"))


def test_untagged_pictures_are_read_as_players_do(tmp_path: Path) -> None:
    """HD without tags is BT.709's: green stays green."""
    path = foreign(tmp_path / "x.mp4", [flat((0, 255, 0), 720, 128)], untag=True)
    assert np.abs(next(VideoReader(path).arrays())[300, 60].astype(int) - [0, 255, 0]).max() <= 2


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


def test_a_contact_sheet_is_of_bounded_size_whatever_the_pictures(tmp_path: Path) -> None:
    """Tall pictures, and many in one shot: more pages, none of them taller; memory is one page's."""
    tall = write_image(tmp_path / "tall.png", noise(0, 1024, 16))
    one = SheetShot("s01", "dunes", "tall", 0, 1, [SheetKeyframe(tall, 0, 0)])
    many = SheetShot("s02", "dunes", "many", 1, 1, [SheetKeyframe(tall, i, i) for i in range(64)])
    drawn: list[int] = []
    pages = write_contact_sheet(tmp_path / "sheet.png", "t", "s", [one] * 29 + [many], lambda: drawn.append(1))
    sizes = [Image.open(page).size for page in pages]
    assert len(pages) == 2 and len(drawn) == 30
    assert all(height <= PAGE_HEIGHT and width * height * 3 <= 40e6 for width, height in sizes)
    wide = SheetShot("s03", "", "w", 0, 1, [SheetKeyframe(write_image(tmp_path / "w.png", noise(1, 16, 1024)), 0, 0)])
    (page,) = write_contact_sheet(tmp_path / "wide.png", "t", "s", [wide])
    assert Image.open(page).height < 400


def test_a_contact_sheet_can_be_stopped(tmp_path: Path) -> None:
    picture = write_image(tmp_path / "x.png", noise(0))
    shots = [SheetShot("s01", "", "", 0, 1, [SheetKeyframe(picture, 0, 0)])] * 3
    calls = iter([None, None])
    with pytest.raises(StopIteration):
        write_contact_sheet(tmp_path / "sheet.png", "t", "s", shots, lambda: next(calls))
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
