"""Keyframes that a user gives for a video: pictures whose names, or a list beside them, say where they belong."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor

from ...core.documents import read_bytes
from ...core.errors import InputError
from ...core.yaml_text import read_yaml
from ...media.image import fit_image, read_image
from ...story.times import Time, frame_rate

__all__ = ["LIST", "Picture", "find_keyframes", "read_keyframe"]

LIST = "keyframes.yaml"
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_BYTES = 1 << 20
_MOST = 4000
_SECONDS = re.compile(r"(?:.*[_\- ])?(\d+(?:\.\d+)?)s")
_TIMECODE = re.compile(r"(?:.*?[_ ])?(\d\d[-_.]\d\d[-_.]\d\d[-_.]\d\d)")
_FRAME = re.compile(r"(?:[^-].*?\D|[^-\d])?(\d{1,9})", re.ASCII)  # what begins with a minus is no number from 0
_ASPECT = 0.02

Picture = Path


def find_keyframes(
    folder: Path, times: Sequence[Fraction], rate: Fraction, field: str = "--keyframes"
) -> dict[int, Picture]:
    """The pictures of a folder by the frame of the video that each stands for.

    ``keyframes.yaml`` lists them: ``- {image: a.png, frame: 12}``, or `at` with seconds or a timecode in place of
    `frame`. Without it the names of the pictures tell: a number is a frame, counted from 0 (``0012.png``,
    ``shot_12.png``), one with an s after it seconds (``1.5s.png``), four pairs of digits a timecode
    (``00-00-01-12.png``). A time belongs to the frame that is shown then.

    Args:
        folder: where the pictures are.
        times: when each frame appears, in seconds.
        rate: frames per second, for timecodes.
        field: what errors call the folder.

    Raises:
        InputError: no folder, no picture in it, a name that says nothing, two pictures for one frame, or one outside
            of the video.
    """
    if not folder.is_dir():
        raise InputError(field, "must be a folder of pictures, auto or none", str(folder), "give a folder's path")
    listed = folder / LIST
    entries = _listed(listed) if listed.exists() else _named(folder, field)
    found: dict[int, Picture] = {}
    for name, kind, value in entries:
        frame = _frame(kind, value, times, rate, f"{field}, {name}")
        if frame in found:
            rule = f"must have one picture for frame {frame}"
            raise InputError(field, rule, f"{found[frame].name} and {name}", "remove one of them")
        path = folder / name
        if not path.is_file():
            raise InputError(f"{listed.name}, image", "must be a picture in its folder", name, f"put it into {folder}")
        found[frame] = path
    if not found:
        fix = "name them by frame, such as 0012.png, or give none"
        raise InputError(field, "must hold PNG, JPEG or WebP pictures", f"no picture in {folder}", fix)
    return dict(sorted(found.items()))


def _named(folder: Path, field: str) -> list[tuple[str, str, str]]:
    entries = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in _SUFFIXES or path.name.startswith("."):
            continue
        for kind, pattern in (("timecode", _TIMECODE), ("seconds", _SECONDS), ("frame", _FRAME)):
            if match := pattern.fullmatch(path.stem):
                entries.append((path.name, kind, match[1]))
                break
        else:
            rule = "must name its pictures by frame, seconds or timecode"
            raise InputError(field, rule, path.name, f"write e.g. 0012.png, 1.5s.png, 00-00-01-12.png, or a {LIST}")
        if len(entries) > _MOST:
            raise InputError(field, f"must hold at most {_MOST} pictures", str(folder), "give fewer keyframes")
    return entries


def _listed(path: Path) -> list[tuple[str, str, str]]:
    data, lines = read_yaml(read_bytes(path, LIST, limit=_BYTES).decode("utf-8", "replace"), LIST)
    rows = data.get("keyframes") if isinstance(data, dict) else data
    if not isinstance(rows, list) or not rows:
        raise InputError(LIST, "must be a list of keyframes", data, "write e.g. - {image: a.png, frame: 12}")
    entries = []
    for i, row in enumerate(rows):
        line = lines.get((i,)) or lines.get(("keyframes", i))
        where = f"{LIST} line {line}" if line else LIST
        if not isinstance(row, dict) or set(row) not in ({"image", "frame"}, {"image", "at"}):
            fix = "write e.g. - {image: a.png, frame: 12} or - {image: b.png, at: 1.5}"
            raise InputError(f"keyframes[{i}]", "must have an image and either frame or at", row, fix, where)
        if not isinstance(row["image"], str) or not row["image"]:
            raise InputError(f"keyframes[{i}].image", "must be a file's name", row["image"], "write a name", where)
        entries.append((row["image"], *_value(row, f"keyframes[{i}]", where)))
    return entries


def _value(row: dict[str, Any], field: str, where: str) -> tuple[str, str]:
    if "frame" in row:
        frame = row["frame"]
        if isinstance(frame, bool) or not isinstance(frame, int) or frame < 0:
            raise InputError(f"{field}.frame", "must be a whole number from 0", frame, "count frames from 0", where)
        return "frame", str(frame)
    at = row["at"]
    if isinstance(at, int | float) and not isinstance(at, bool) and 0 <= at < 1e6:
        return "seconds", repr(at)
    if isinstance(at, str) and ":" in at:
        return "timecode", at
    fix = "write e.g. 1.5 or '00:00:01:12'"
    raise InputError(f"{field}.at", "must be seconds from 0 or a timecode", at, fix, where)


def _frame(kind: str, value: str, times: Sequence[Fraction], rate: Fraction, field: str) -> int:
    if kind == "frame":
        frame = int(value)
    elif kind == "seconds":
        frame = _shown_at(Fraction(value), times, rate)
    else:
        fps = frame_rate(rate)
        at = Time.from_timecode(value if ":" in value else re.sub(r"[-_.]", ":", value), fps, field)
        frame = _shown_at(at.exact, times, rate)
    if not 0 <= frame < len(times):
        rule = f"must lie in the video, in its frames 0 to {len(times) - 1}"
        raise InputError(field, rule, value, "give another place, or leave it out")
    return frame


def _shown_at(time: Fraction, times: Sequence[Fraction], rate: Fraction) -> int:
    """The frame that begins nearest to a time; a time after the last frame is no frame's."""
    if time > times[-1] + 1 / rate:
        return len(times)
    after = bisect_left(times, time)
    near = [i for i in (after - 1, after) if 0 <= i < len(times)]
    return min(near, key=lambda i: abs(times[i] - time))


def read_keyframe(path: Path, size: tuple[int, int], field: str = "--keyframes", crop: bool = False) -> Tensor:
    """Read a keyframe and bring it to the size of the upscaled video.

    Args:
        path: the picture.
        size: (H, W).
        field: what errors call it.
        crop: cut another shape to the video's around the centre, as films do with pictures.

    Returns:
        `[3, H, W]` in 0…1.

    Raises:
        InputError: it cannot be read, or is of another shape than the video: nothing would lie where it belongs.
    """
    picture = read_image(path, field)
    height, width = picture.shape[-2:]
    if not crop and abs(width * size[0] / (height * size[1]) - 1) > _ASPECT:
        seen, fix = f"{width}×{height} in {path.name}", "crop it to the same part of the picture"
        raise InputError(field, f"must have the shape of the video, {size[1]}×{size[0]}", seen, fix)
    return fit_image(picture, size)
