"""What an extension consists of: the size and rate that the model works at, and the parts it is made in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import InputError
from ..models.backbones.spec import Native
from ..models.layouts.chunks import plan_extension
from ..story.timeline import MAX_FRAMES, TEMPORAL_STRIDE, Timeline
from ..story.times import MAX_FPS, MIN_FPS
from .join import JoinedClip, overlap
from .stages.extension import picture_file

if TYPE_CHECKING:
    from ..models.studio import Studio

__all__ = ["Grid", "NewShot", "Part", "context_length", "native_of", "placed_parts", "plan_grid", "plan_parts"]

_SLOWER = 2
"""From this ratio of rates on, the model works at a fraction of the video's; at nearer ones motion is slow for it."""
_SAME_SHAPE = 0.04
"""Shapes that differ by less are the same to the eye."""
_SIDE = 8192
_MOST = 100_000
"""Frames of a shot; over an hour at 24 a second."""
_MORE_PIXELS, _FEWER_PIXELS = 1.25, 0.5
"""A video of so many times the pixels that the model was made for is worked on in its own size."""


@dataclass(frozen=True)
class Grid:
    """How a video meets its model.

    Attributes:
        size: (height, width) in pixels that the model works in.
        source_size: those of the video's frames; equal if nothing has to be scaled.
        source_rate: the video's frames per second.
        held: how many of the video's frames one frame of the model stays; 1 if the model works at the video's rate.
    """

    size: tuple[int, int]
    source_size: tuple[int, int]
    source_rate: Fraction
    held: int = 1

    @property
    def rate(self) -> Fraction:
        """Frames per second that the model works at."""
        return self.source_rate / self.held

    @property
    def notes(self) -> list[str]:
        """What is scaled or repeated, a line each."""
        found = []
        if self.size != self.source_size:
            (height, width), (h, w) = self.source_size, self.size
            found.append(f"made at {w}×{h} and scaled to the video's {width}×{height}")
        if self.held > 1:
            rates = f"{float(self.rate):.6g} of the video's {float(self.source_rate):.6g} frames per second"
            found.append(f"made at {rates}: each new frame stays for {self.held}")
        return found


@dataclass(frozen=True)
class NewShot:
    """What shall follow.

    Attributes:
        id: its name in the folder.
        prompt: what the video model reads.
        seconds: its length.
        pictures: keyframes: seconds after the shot's start, and the picture's file.
        seed: its noise comes from this number; the same for every take.
        dissolves: whether it comes in by a cross-dissolve from the shot before it; a picture must be its first frame.
    """

    id: str
    prompt: str
    seconds: float
    pictures: tuple[tuple[float, Path], ...] = ()
    seed: int = 0
    dissolves: bool = False


@dataclass(frozen=True)
class Part:
    """What is made in one go; a long shot has several.

    Attributes:
        shot: id of its shot.
        index: its number in the shot, from 0.
        prompt, seed: the shot's.
        timeline: see `plan_extension`.
        pictures: numbers of the shot's pictures that are this part's keyframes, in order.
        frames: new frames.
        overlap: how many of them dissolve with the last ones of the part before it.
    """

    shot: str
    index: int
    prompt: str
    seed: int
    timeline: Timeline
    pictures: tuple[int, ...]
    frames: int
    overlap: int = 0

    @property
    def key(self) -> str:
        """The name of its result."""
        return f"{self.shot}/extension-{self.index}"

    @property
    def file(self) -> str:
        """Where its frames lie in the folder."""
        return f"clips/{self.shot}_{self.index:02d}.mkv"

    @property
    def picture_files(self) -> list[str]:
        """Where its keyframes lie in the folder."""
        return [picture_file(self.shot, number) for number in self.pictures]

    @property
    def cuts(self) -> bool:
        """Whether a keyframe is its first frame."""
        return self.timeline.keyframe_frames[:1] == [0]


def native_of(studio: Studio) -> Native:
    """What the studio's video model was made for: what the file says, else what is known of its kind."""
    native, made = studio.backbone.native(studio.latent_pixel()[0]), studio.config.made_for
    size = native.size if made.size is None else (made.size[1], made.size[0])
    return Native(size, made.frames or native.frames, made.fps or native.fps)  # type: ignore[arg-type]


def context_length(native: Native, rate: Fraction, seconds: float | None) -> int:
    """Frames to look back at, 4n+1: so many seconds, by default half of what the model makes in one go.

    Raises:
        InputError: a negative, endless or very long time.
    """
    wanted = Fraction(native.frames, 2)
    if seconds is not None:
        if not 0 < seconds < math.inf:
            raise InputError("--context", "must be a number of seconds above 0", seconds, "use e.g. 1.5")
        wanted = Fraction(seconds) * rate
        if wanted > MAX_FRAMES:
            rule = f"must be at most {math.floor(MAX_FRAMES / rate)} s at {float(rate):.6g} frames per second"
            raise InputError("--context", rule, seconds, "use e.g. 1.5")
    steps = math.floor((wanted - 1) / TEMPORAL_STRIDE + Fraction(1, 2))
    return max(0, steps) * TEMPORAL_STRIDE + 1


def plan_grid(
    source_size: tuple[int, int],
    sample_aspect: Fraction,
    source_rate: Fraction,
    native: Native,
    multiple: int,
    *,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
) -> Grid:
    """Choose the size and rate that the model works at.

    A video of about the model's own number of pixels keeps its size, but for sides that must divide by `multiple`;
    others are worked on at the model's, in the video's shape. The rate is the video's, or every second, third … frame
    of it where it is at least twice the model's.

    Args:
        source_size: (height, width) in pixels.
        sample_aspect: width of its pixels by their height.
        source_rate: frames per second.
        native: what the model was made for.
        multiple: of which both sides must be.
        size, fps: asked for instead; of rates the nearest that the video's is a multiple of.

    Raises:
        InputError: a size that does not divide or is very large, a rate that no model works at.
    """
    if size is None:
        height, width = source_size[0], float(source_size[1] * sample_aspect)
        size = _near_native(height, width, native.size, multiple)
    elif max(size) > _SIDE:
        seen = f"{size[1]}x{size[0]}"
        raise InputError("--size", f"must be at most {_SIDE} pixels a side", seen, "use a smaller one")
    elif size[0] % multiple or size[1] % multiple or not min(size):
        near = "x".join(str(max(1, round(side / multiple)) * multiple) for side in reversed(size))
        seen = f"{size[1]}x{size[0]}"
        raise InputError("--size", f"must be multiples of {multiple} for this studio", seen, f"use {near}")
    ratio = float(source_rate) / (fps or native.fps)
    held = max(1, round(ratio)) if fps is not None or ratio >= _SLOWER else 1
    grid = Grid(size, source_size, source_rate, held)
    if not MIN_FPS <= grid.rate <= MAX_FPS:
        field, fix = ("VIDEO", "bring it to a usual rate first") if fps is None else ("--fps", "use e.g. 8, 16 or 24")
        rule = f"must be worked on at {MIN_FPS} to {MAX_FPS} frames per second"
        raise InputError(field, rule, round(float(grid.rate), 3), fix)
    return grid


def _near_native(height: float, width: float, native: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The size to work in for pictures of (`height`, `width`) square pixels."""
    ratio = height * width / (native[0] * native[1])
    near = _FEWER_PIXELS <= ratio <= _MORE_PIXELS
    if near and not height % multiple and not width % multiple:
        return int(height), int(width)
    if abs(math.log(native[1] * height / (native[0] * width))) < _SAME_SHAPE:
        return native
    scale = 1.0 if near else math.sqrt(1 / ratio)
    return _whole(height * scale, width * scale, multiple)


def _whole(height: float, width: float, multiple: int) -> tuple[int, int]:
    """Sides that divide by `multiple`, of nearly the same shape and area."""

    def fault(sides: tuple[int, int]) -> float:
        shape, area = sides[1] * height / (sides[0] * width), sides[0] * sides[1] / (height * width)
        return abs(math.log(shape)) + 0.25 * abs(math.log(area))

    def near(side: float) -> set[int]:
        return {max(1, math.floor(side / multiple) + step) * multiple for step in (0, 1)}

    return min(sorted((h, w) for h in near(height) for w in near(width)), key=fault)


def plan_parts(shots: Sequence[NewShot], rate: Fraction, context: int, native: Native) -> list[Part]:
    """Cut the shots into parts that the model makes in one go together with the context before them.

    Args:
        shots: in order.
        rate: frames per second that the model works at.
        context: frames that every part looks back at.
        native: what the model was made for: context and part together have at most its frames, but a part at least
            one latent's.

    Raises:
        InputError: a length or a picture's time that cannot be, or a dissolve with nothing to dissolve with.
    """
    most = max(TEMPORAL_STRIDE, (native.frames - context) // TEMPORAL_STRIDE * TEMPORAL_STRIDE)
    parts: list[Part] = []
    for shot in shots:
        wanted = _length(shot, rate)
        _check_times(shot, rate)
        count = max(1, math.ceil(wanted / most - Fraction(1, 2 * most)))
        begin, used = Fraction(0), 0
        for index in range(count):
            length = (wanted - begin) / (count - index)
            times: list[Fraction] = []
            for at, _ in shot.pictures[used:]:
                position = Fraction(at) * rate - begin
                if index < count - 1 and position >= length:
                    break
                # The part before may have ended a little later than asked, and this one ends with a whole frame.
                times.append(max(min(position, length - 1), times[-1] + 1 if times else Fraction(0)))
            numbers = tuple(range(used, used + len(times)))
            part = _part(shot, index, [time / rate for time in times], numbers, length / rate, rate)
            if shot.dissolves and not index:
                part = _dissolved(part, parts, rate)
            parts.append(part)
            begin, used = begin + part.frames, used + len(times)
    return parts


def _dissolved(part: Part, before: Sequence[Part], rate: Fraction) -> Part:
    """The first part of a shot that dissolves with the new shot before it."""
    field = f"{part.shot}.transition"
    if not before:
        rule = "blend needs a new shot before this one: the video's own frames stay as they are"
        raise InputError(field, rule, "blend", "use cut, or begin with a short shot that goes on from the video")
    if not part.cuts:
        rule = "blend needs a picture that the shot begins with: without one it goes on from the shot before it"
        raise InputError(field, rule, "blend", "use cut, or add keyframes: [{at: 0, image: …}]")
    return replace(part, overlap=overlap(before[-1].frames, part.frames, rate))


def placed_parts(parts: Sequence[Part]) -> list[JoinedClip]:
    """Where each part lies among the new frames, counted at the model's rate."""
    placed: list[JoinedClip] = []
    end = 0
    for part in parts:
        placed.append(JoinedClip(part.frames, part.overlap, end - part.overlap))
        end += part.frames - part.overlap
    return placed


def _check_times(shot: NewShot, rate: Fraction) -> None:
    """Refuse pictures outside of their shot, and two in one frame."""
    before = -math.inf
    for at, _ in shot.pictures:
        if not 0 <= at < shot.seconds:  # nor is NaN
            rule = f"must lie inside the {shot.seconds:g} s of {shot.id}"
            raise InputError("keyframe", rule, at, "use an earlier time or make it longer")
        if (at - before) * float(rate) < 1 - 1e-6:
            rule = f"must come at least a frame after the one before it in {shot.id}, {float(1 / rate):.3g} s"
            raise InputError("keyframe", rule, at, "use a later time, or leave one out")
        before = at


def _length(shot: NewShot, rate: Fraction) -> Fraction:
    """Frames that a shot shall have."""
    if not 0 < shot.seconds < math.inf:
        raise InputError("--seconds", "must be a number above 0", shot.seconds, "use e.g. 3")
    wanted = Fraction(shot.seconds) * rate
    if wanted > _MOST:
        rule = f"must be at most {math.floor(_MOST / rate)} s at {float(rate):.6g} frames per second"
        raise InputError("--seconds", rule, shot.seconds, "extend what comes out once more")
    return wanted


def _part(
    shot: NewShot, index: int, times: list[Fraction], pictures: tuple[int, ...], length: Fraction, rate: Fraction
) -> Part:
    """One part. Its timeline's clock starts at the frame before it, unless a picture is its first frame."""
    one = 1 / rate
    if times and times[0] * rate <= TEMPORAL_STRIDE // 2:
        timeline = Timeline.plan(rate, max(length, one), times, where=shot.id)
    else:
        # The frame before is the timeline's first. At least one latent is new.
        longer = max(length, TEMPORAL_STRIDE * one) + one
        timeline = Timeline.plan(rate, longer, [time + one for time in times], where=shot.id)
    frames = plan_extension(1, timeline).frames
    return Part(shot.id, index, shot.prompt, shot.seed, timeline, pictures, frames)
