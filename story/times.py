"""Times and frame rates: exact fractions, so that no frame is lost between seconds, frames and timecode."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from ..core.errors import InputError

__all__ = ["LONGEST", "MAX_FPS", "MIN_FPS", "Time", "at_most", "frame_rate", "plain_fps", "within_resolution"]

MIN_FPS, MAX_FPS = 1, 120

# Times are exact fractions, so that the bound of 2 frames holds without a tolerance. This denominator resolves every
# frame of every rate up to 120 fps, NTSC's 1000/1001 included, and 2 microseconds otherwise.
_RESOLUTION = 240_000
LONGEST = 100 * 3600 - 1
"""Latest time in seconds: what a timecode of two-digit hours can write."""
_NTSC = (24, 30, 48, 60, 120)
_DROPPED = {Fraction(30_000, 1001): 2, Fraction(60_000, 1001): 4}  # frame numbers that drop-frame timecode leaves out


def _number(value: object, name: str) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | float | Fraction):
        raise InputError(name, "must be a number", value, "write a plain number such as 2.125")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(name, "must be a finite number", value, "write a plain number such as 2.125")
    return Fraction(value)


def frame_rate(fps: float | Fraction, name: str = "fps") -> Fraction:
    """Return the exact rate in frames per second; 23.976, 29.97, 59.94, … become n·1000/1001.

    Raises:
        InputError: not a finite number, or outside `MIN_FPS`…`MAX_FPS`.
    """
    rate = _number(fps, name)
    if not MIN_FPS <= rate <= MAX_FPS:
        raise InputError(name, f"must be between {MIN_FPS} and {MAX_FPS}", fps, "use a usual rate such as 8, 16 or 24")
    for nominal in _NTSC:
        ntsc = Fraction(nominal * 1000, 1001)
        # 29.97 is 30000/1001 rounded to two places; a rate that near to it was meant as it.
        if abs(rate - ntsc) < Fraction(1, 200):
            return ntsc
    return rate.limit_denominator(1000)


def plain_fps(rate: Fraction) -> int | float:
    """Return `rate` as an int where it is one, else as a float: the form that files and printed lines show."""
    return rate.numerator if rate.denominator == 1 else float(rate)


def within_resolution(seconds: Fraction) -> Fraction:
    """The nearest time that times are told apart to: every frame of every rate, and 2 microseconds otherwise."""
    return seconds.limit_denominator(_RESOLUTION)


def at_most(seconds: Fraction) -> Fraction:
    """`seconds`, or the next earlier time that survives the way through JSON exactly."""
    if seconds.denominator <= _RESOLUTION:
        return seconds
    return Fraction(math.floor(seconds * _RESOLUTION), _RESOLUTION)


@dataclass(frozen=True)
class Time:
    """A point in time or a duration at a frame rate; the only type that converts seconds, frames and timecode.

    Build it with `from_seconds`, `from_frames` or `from_timecode`. Seconds are held as an exact fraction.

    Attributes:
        exact: seconds, ≥ 0.
        rate: frames per second.
    """

    exact: Fraction
    rate: Fraction

    @classmethod
    def from_seconds(cls, seconds: float | Fraction, fps: float | Fraction, name: str = "seconds") -> Time:
        """A time in seconds. Raises InputError when it is not a finite number from 0 to 359999."""
        exact = within_resolution(_number(seconds, name))
        if not 0 <= exact <= LONGEST:
            raise InputError(name, f"must be between 0 and {LONGEST} seconds", seconds, "use a time inside the shot")
        return cls(exact, frame_rate(fps))

    @classmethod
    def from_frames(cls, frames: int, fps: float | Fraction) -> Time:
        """The start of frame `frames` (counted from 0), or the duration of that many frames."""
        if isinstance(frames, bool) or not isinstance(frames, int) or frames < 0:
            raise InputError("frames", "must be a whole number from 0", frames, "count frames from 0")
        rate = frame_rate(fps)
        return cls(Fraction(frames) / rate, rate)

    @classmethod
    def from_timecode(cls, timecode: str, fps: float | Fraction, name: str = "timecode") -> Time:
        """A SMPTE timecode ``HH:MM:SS:FF``; with ``;`` (before the frames, or throughout) drop-frame.

        Drop-frame timecode leaves out the frame numbers 0 and 1 (0 to 3 at 59.94) of every minute but each tenth, so
        that it keeps up with the clock (SMPTE ST 12-1).

        Raises:
            InputError: any other form, a part out of range, or drop-frame at a rate that has none.
        """
        rate = frame_rate(fps)
        per_second = math.ceil(rate)
        parts = timecode.strip().replace(";", ":").split(":")
        fix = f"write HH:MM:SS:FF with MM and SS below 60 and FF below {per_second}, e.g. 00:00:02:01"
        if len(parts) != 4 or not all(p.isascii() and p.isdigit() and len(p) <= 3 for p in parts):
            raise InputError(name, "must be a timecode", timecode, fix)
        hours, minutes, seconds, frames = map(int, parts)
        if hours > 99 or minutes > 59 or seconds > 59 or frames >= per_second:
            raise InputError(name, "has a part out of range", timecode, fix)
        dropped = 0
        if ";" in timecode:
            dropped = _DROPPED.get(rate, 0)
            if not dropped:
                rule = f"is drop-frame, which {plain_fps(rate):g} fps does not have"
                raise InputError(name, rule, timecode, "set fps to 29.97 or 59.94, or write : before the frames")
            if frames < dropped and seconds == 0 and minutes % 10:
                rule = "is a frame number that drop-frame timecode leaves out"
                raise InputError(name, rule, timecode, f"use {frames + dropped:02d} as the frame")
        whole = hours * 60 + minutes
        return cls.from_frames((whole * 60 + seconds) * per_second + frames - dropped * (whole - whole // 10), rate)

    @property
    def seconds(self) -> float:
        """Seconds as a float."""
        return float(self.exact)

    @property
    def position(self) -> Fraction:
        """Exact position in frames; whole when the time lies on a frame."""
        return self.exact * self.rate

    @property
    def frame(self) -> int:
        """The nearest frame, counted from 0 (halves go up)."""
        return math.floor(self.position + Fraction(1, 2))

    @property
    def timecode(self) -> str:
        """Non-drop-frame timecode ``HH:MM:SS:FF`` of the nearest frame."""
        per_second = math.ceil(self.rate)
        whole, frames = divmod(self.frame, per_second)
        return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}:{frames:02d}"

    def __str__(self) -> str:
        return f"{self.seconds:.3f} s"
