"""Pictures into sRGB: embedded profiles, and the shorter ways in which files say what their numbers mean.

Models and films know sRGB only. A picture that means something else by its numbers is converted, or refused where that
cannot be done; nothing is taken for sRGB that says it is not.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from ..core.errors import InputError

__all__ = ["to_srgb"]

Pair = tuple[float, float]
_D65: Pair = (0.3127, 0.3290)
_SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
_ADOBE = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
_ADOBE_GAMMA = 563 / 256
_FLAGS = ImageCms.Flags.NOOPTIMIZE | ImageCms.Flags.BLACKPOINTCOMPENSATION  # the short cut is off by a code
_EXIF_IFD, _COLOUR_SPACE, _INTEROP_IFD, _INTEROP_INDEX = 0x8769, 0xA001, 0xA005, 1


@dataclass(frozen=True)
class _Space:
    """An RGB colour space by its primaries and white (CIE 1931 x, y) and its curve; no `gamma` means sRGB's curve."""

    primaries: tuple[Pair, Pair, Pair]
    white: Pair = _D65
    gamma: float | None = None

    def matrix(self) -> np.ndarray:
        """Linear RGB of this space → linear sRGB, `[3, 3]`; white stays white (Bradford)."""
        bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
        ratio = (bradford @ _xyz(_D65)) / (bradford @ _xyz(self.white))
        adapt = np.linalg.inv(bradford) @ np.diag(ratio) @ bradford
        return np.linalg.inv(_to_xyz(_SRGB, _D65)) @ adapt @ _to_xyz(self.primaries, self.white)

    def convert(self, array: np.ndarray) -> np.ndarray:
        """uint8 `[H, W, 3]` of this space → uint8 sRGB, a band of rows at a time."""
        codes = np.arange(256) / 255
        if self.gamma is None:
            linear = np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)
        else:
            linear = codes**self.gamma
        matrix, out = self.matrix().T, np.empty_like(array)
        for top in range(0, array.shape[0], 64):
            light = np.clip(linear[array[top : top + 64]] @ matrix, 0, 1)
            curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
            out[top : top + 64] = np.rint(255 * curve)
        return out


def to_srgb(picture: Image.Image, file: Path, field: str) -> Image.Image:
    """Convert a decoded picture to 8-bit sRGB, mode RGB or RGBA (where it has transparency).

    Looked at in the order in which viewers do: PNG's cICP, an ICC profile, PNG's sRGB, gAMA and cHRM, a camera's
    note that it wrote Adobe RGB. Without any of these the numbers are sRGB already.

    Args:
        picture: the decoded picture, in any mode that Pillow gives for PNG, JPEG and WebP.
        file: where it came from; PNG's cICP is read there.
        field: what an error calls the input.

    Raises:
        InputError: CMYK without a profile, a profile that is broken or not of this kind of picture, high dynamic range.
    """
    code_points = _png_cicp(file) if picture.format == "PNG" else None
    profile = picture.info.get("icc_profile") or None
    if code_points is not None:
        return _convert(_plain(picture), _cicp_space(code_points, file, field))
    if profile is not None:
        return _through_profile(picture, profile, file, field)
    if picture.mode == "CMYK":
        rule = "must carry a colour profile if it is CMYK"
        raise InputError(field, rule, str(file), "save it as 8-bit RGB PNG, or with its profile")
    return _convert(_plain(picture), _noted_space(picture))


def _plain(picture: Image.Image) -> Image.Image:
    """RGB, or RGBA with transparency; 16-bit grey is rounded to 8 bits."""
    if picture.mode.startswith("I"):
        grey = np.asarray(picture).astype(np.float64).clip(0, 65535)
        picture = Image.fromarray(np.rint(grey / 257).astype(np.uint8))
    clear = picture.mode in {"LA", "PA", "RGBA", "La", "RGBa"} or "transparency" in picture.info
    return picture.convert("RGBA" if clear else "RGB")


def _convert(picture: Image.Image, space: _Space | None) -> Image.Image:
    if space is None:
        return picture
    array = np.asarray(picture)
    converted = Image.fromarray(space.convert(array[..., :3]), "RGB")
    if picture.mode == "RGBA":
        converted.putalpha(picture.getchannel("A"))
    return converted


def _through_profile(picture: Image.Image, profile: bytes, file: Path, field: str) -> Image.Image:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        kind = source.profile.xcolor_space.strip()
        alpha = None
        if kind == "GRAY":
            # Transparency is not a colour: it goes around the profile.
            if "A" in picture.getbands() or "transparency" in picture.info:
                alpha = picture.convert("RGBA").getchannel("A")
            picture = picture if picture.mode.startswith("I") else picture.convert("L")
        elif kind == "RGB":
            picture = _plain(picture)
            alpha = picture.getchannel("A") if picture.mode == "RGBA" else None
            picture = picture.convert("RGB")
        elif kind != picture.mode:
            rule = "must have a colour profile of its own kind"
            raise InputError(field, rule, f"{kind} profile in a {picture.mode} picture, {file}", "save it as sRGB PNG")
        target = ImageCms.createProfile("sRGB")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        transform = ImageCms.buildTransform(source, target, picture.mode, "RGB", intent, _FLAGS)
        if kind == "RGB" and _is_identity(transform):
            converted = picture  # exact, where rounding through a profile would move single codes
        else:
            moved = ImageCms.applyTransform(picture, transform)
            assert moved is not None  # None comes from conversions in place only
            converted = moved
    except (OSError, ImageCms.PyCMSError) as error:
        fix = "the profile is damaged; save the picture as sRGB PNG"
        raise InputError(field, "must have a readable colour profile", f"{error} in {file}", fix) from None
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _is_identity(transform: ImageCms.ImageCmsTransform) -> bool:
    steps = np.linspace(0, 255, 6).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(6, 36, 3)
    moved = ImageCms.applyTransform(Image.fromarray(cube, "RGB"), transform)
    return int(np.abs(np.asarray(moved).astype(int) - cube).max()) <= 1


def _noted_space(picture: Image.Image) -> _Space | None:
    """The space that the file notes without a profile, or None for sRGB."""
    if picture.format == "PNG":
        if "srgb" in picture.info or not {"gamma", "chromaticity"} & picture.info.keys():
            return None
        gamma = 1 / picture.info.get("gamma", 1 / 2.2)
        corners = picture.info.get("chromaticity", (*_D65, *_SRGB[0], *_SRGB[1], *_SRGB[2]))
        if not 0.5 <= gamma <= 4 or len(corners) != 8:
            return None
        white, *primaries = [(float(corners[i]), float(corners[i + 1])) for i in (0, 2, 4, 6)]
        plain = np.allclose([white, *primaries], [_D65, *_SRGB], atol=2e-3) and abs(gamma - 2.2) < 0.02
        usable = min(y for _, y in (white, *primaries)) > 0.01
        return None if plain or not usable else _Space((primaries[0], primaries[1], primaries[2]), white, gamma)
    exif = picture.getexif().get_ifd(_EXIF_IFD) if picture.format in {"JPEG", "MPO", "WEBP"} else {}
    interop = picture.getexif().get_ifd(_INTEROP_IFD) if exif else {}
    adobe = exif.get(_COLOUR_SPACE) == 2 or str(interop.get(_INTEROP_INDEX, "")).startswith("R03")
    return _Space(_ADOBE, gamma=_ADOBE_GAMMA) if adobe else None


def _png_cicp(file: Path) -> tuple[int, int, int, int] | None:
    """PNG's coding-independent code points (primaries, transfer, matrix, range), which Pillow does not report."""
    with file.open("rb") as opened:
        opened.seek(8)
        for _ in range(64):  # they come before the pixels, after a handful of others
            head = opened.read(8)
            if len(head) < 8 or head[4:] in (b"IDAT", b"IEND"):
                return None
            length = struct.unpack(">I", head[:4])[0]
            if head[4:] == b"cICP" and length == 4:
                data = opened.read(4)
                return (data[0], data[1], data[2], data[3]) if len(data) == 4 else None
            opened.seek(length + 4, 1)
    return None


def _cicp_space(points: tuple[int, int, int, int], file: Path, field: str) -> _Space | None:
    primaries, transfer, matrix, full = points
    if transfer in (13, 1, 6) and matrix == 0 and full == 1 and primaries in (1, 12):
        # 1 and 6 are television's curves, meant for a display of about sRGB's.
        return None if primaries == 1 else _Space(_P3)
    rule = "must be of standard dynamic range, in sRGB or with a colour profile"
    seen = f"cICP primaries {primaries}, transfer {transfer} in {file}"
    raise InputError(field, rule, seen, "save it as 8-bit sRGB PNG")


def _xyz(point: Pair) -> np.ndarray:
    x, y = point
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _to_xyz(primaries: tuple[Pair, Pair, Pair], white: Pair) -> np.ndarray:
    columns = np.stack([_xyz(point) for point in primaries], 1)
    return columns * np.linalg.solve(columns, _xyz(white))
