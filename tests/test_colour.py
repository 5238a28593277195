"""Every way in which a picture file says what its numbers mean ends in the same sRGB colours."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from anchorshot.core.errors import InputError
from anchorshot.media.colour import _ADOBE, _ADOBE_GAMMA, _D65, _P3, _SRGB, _Space
from anchorshot.media.image import read_image

#: Display P3 numbers and the sRGB ones of the same colours (the last is out of sRGB's reach, so it is clipped)
P3 = {(60, 180, 90): (0, 183, 78), (200, 60, 50): (217, 42, 39), (128, 128, 128): (128, 128, 128)}
#: the same of Adobe RGB
ADOBE = {(90, 120, 60): (72, 121, 53), (210, 170, 138): (224, 172, 138), (128, 128, 128): (129, 129, 129)}


def profile(primaries: tuple[tuple[float, float], ...], gamma: float) -> bytes:
    """A display profile (ICC version 2, matrix and one curve), written by hand: Pillow can make sRGB's only."""
    columns = adapted(primaries)

    def xyz(values: np.ndarray) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(4 + 4 + 2 + 1 + 67)
    white = np.array([0.9642, 1.0, 0.8249])
    tags = {b"desc": text, b"wtpt": xyz(white), b"cprt": b"text\0\0\0\0none\0\0\0\0"}
    tags |= {name: xyz(columns[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    tags |= {name: curve for name in (b"rTRC", b"gTRC", b"bTRC")}
    offset, table, data = 128 + 4 + 12 * len(tags), b"", b""
    for name, body in tags.items():
        body += bytes(-len(body) % 4)
        table += name + struct.pack(">2I", offset + len(data), len(body))
        data += body
    head = bytearray(128)
    head[0:4] = struct.pack(">I", offset + len(data))
    head[8:12], head[12:24], head[36:40] = b"\x02\x10\0\0", b"mntrRGB XYZ ", b"acsp"
    head[68:80] = struct.pack(">3i", *(round(v * 65536) for v in white))
    return bytes(head) + struct.pack(">I", len(tags)) + table + data


def adapted(primaries: tuple[tuple[float, float], ...]) -> np.ndarray:
    """RGB → XYZ at D50, as profiles hold it."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    to_xyz = columns * np.linalg.solve(columns, white)
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    ratio = (bradford @ [0.9642, 1.0, 0.8249]) / (bradford @ white)
    return np.linalg.inv(bradford) @ np.diag(ratio) @ bradford @ to_xyz


def patches(colours: dict) -> Image.Image:
    return Image.fromarray(np.kron(np.array([list(colours)], np.uint8), np.ones((24, 24, 1), np.uint8)))


def read(path: Path, count: int = 3) -> np.ndarray:
    return np.rint(255 * read_image(path)[:, 12, 12 : 24 * count : 24].numpy().T)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("wide", ["adobe", "p3"])
def test_profiles_are_applied(wide: str, suffix: str, tmp_path: Path) -> None:
    colours, primaries, gamma = (ADOBE, _ADOBE, _ADOBE_GAMMA) if wide == "adobe" else (P3, _P3, 2.2)
    how = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}, "png": {}}[suffix]
    patches(colours).save(tmp_path / f"x.{suffix}", icc_profile=profile(primaries, gamma), **how)
    # JPEG's own rounding is worth two codes; gamma 2.2 in the place of Display P3's curve up to four in the shadows.
    near = (1 if suffix != "jpg" else 3) + (4 if wide == "p3" else 0)
    assert np.abs(read(tmp_path / f"x.{suffix}") - list(colours.values())).max() <= near


def test_srgb_profiles_change_nothing(tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture.save(tmp_path / "x.png", icc_profile=srgb)
    assert np.array_equal(np.rint(255 * read_image(tmp_path / "x.png").permute(1, 2, 0).numpy()), np.asarray(picture))


def test_transparency_and_grey_go_around_the_profile(tmp_path: Path) -> None:
    clear = patches(ADOBE).convert("RGBA")
    clear.putalpha(0)
    clear.save(tmp_path / "clear.png", icc_profile=profile(_ADOBE, _ADOBE_GAMMA))
    assert read_image(tmp_path / "clear.png").min() == 1
    # a grey picture with a profile for colours: some programs write that
    Image.new("L", (24, 24), 100).save(tmp_path / "grey.png", icc_profile=profile(_ADOBE, _ADOBE_GAMMA))
    assert np.abs(read(tmp_path / "grey.png", 1) - 101).max() <= 1


def png_with(chunks: list[tuple[bytes, bytes]], picture: Image.Image, path: Path) -> Path:
    info = PngImagePlugin.PngInfo()
    for name, data in chunks:
        info.add(name, data)
    picture.save(path, pnginfo=info)
    return path


def insert(path: Path, name: bytes, data: bytes) -> None:
    """Put a chunk right behind the header (Pillow puts private ones there only)."""
    raw = path.read_bytes()
    chunk = struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(raw[:33] + chunk + raw[33:])


def test_notes_without_a_profile(tmp_path: Path) -> None:
    patches(ADOBE).save(tmp_path / "x.png")
    plain = read(tmp_path / "x.png")
    assert np.array_equal(plain, list(ADOBE))
    corners = [round(1e5 * v) for pair in (_D65, *_ADOBE) for v in pair]
    insert(tmp_path / "x.png", b"cHRM", struct.pack(">8I", *corners))
    insert(tmp_path / "x.png", b"gAMA", struct.pack(">I", round(1e5 / _ADOBE_GAMMA)))
    assert np.abs(read(tmp_path / "x.png") - list(ADOBE.values())).max() <= 1
    insert(tmp_path / "x.png", b"sRGB", b"\0")
    assert np.array_equal(read(tmp_path / "x.png"), plain)  # sRGB is named, so it counts
    patches(P3).save(tmp_path / "p3.png")
    insert(tmp_path / "p3.png", b"cICP", bytes([12, 13, 0, 1]))
    assert np.abs(read(tmp_path / "p3.png") - list(P3.values())).max() <= 1
    patches(P3).save(tmp_path / "hdr.png")
    insert(tmp_path / "hdr.png", b"cICP", bytes([9, 16, 0, 1]))
    with pytest.raises(InputError, match="standard dynamic range"):
        read_image(tmp_path / "hdr.png")


def test_a_cameras_note_of_adobe_rgb(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 2
    patches(ADOBE).save(tmp_path / "x.jpg", exif=exif, quality=100, subsampling=0)
    assert np.abs(read(tmp_path / "x.jpg") - list(ADOBE.values())).max() <= 3


def test_16_bit_grey_goes_through_its_profile(tmp_path: Path) -> None:
    linear = bytearray(profile(_SRGB, 1.0))
    linear[16:20] = b"GRAY"
    linear = bytearray(bytes(linear).replace(b"rTRC", b"kTRC"))
    deep = np.full((24, 24), round(0.2159 * 65535), np.uint16)  # linear light of sRGB's 128
    Image.fromarray(deep).save(tmp_path / "deep.png")
    insert(tmp_path / "deep.png", b"iCCP", b"linear\0\0" + zlib.compress(bytes(linear)))
    assert np.abs(read(tmp_path / "deep.png", 1) - 128).max() <= 1


def test_spaces_keep_white_and_invert() -> None:
    for primaries in (_SRGB, _P3, _ADOBE):
        assert np.allclose(_Space(primaries).matrix() @ np.ones(3), 1, atol=1e-9)
    assert np.allclose(_Space(_SRGB).matrix(), np.eye(3), atol=1e-9)
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2)
    assert np.array_equal(_Space(_SRGB).convert(ramp), ramp)
