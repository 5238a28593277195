"""Times, and the grid that a causal video VAE puts them on (SmartDirector §3.2, Multi-Chunk VAE).

A clip is cut into chunks at its keyframes. Each chunk is encoded on its own by a VAE that turns 4n+1 frames into n+1
latents, so chunk lengths are 1, 5, 9, … and chunk k starts at a frame ≡ k (mod 4). A wished-for time therefore moves to
the nearest frame of its chunk's grid, by at most 2 frames (the paper's bound, its Limitations); both times are kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate
from typing import Any

from ..core.errors import InputError
from .times import LONGEST, MAX_FPS, MIN_FPS, Time, at_most, frame_rate, plain_fps, within_resolution

__all__ = [
    "TEMPORAL_STRIDE",
    "LONGEST",
    "MAX_FPS",
    "MAX_FRAMES",
    "MIN_FPS",
    "Keyed",
    "Time",
    "Timeline",
    "frame_rate",
    "plain_fps",
    "snap_length",
    "within_resolution",
]

TEMPORAL_STRIDE = 4
"""Frames per latent after a chunk's first (the temporal stride of the VAEs that make video through keyframes)."""
MAX_FRAMES = 4 * 1200 + 1
"""Longest single shot, in frames: 200 s at 24 fps. Longer than any video model takes; guards memory, not taste."""


@dataclass(frozen=True)
class Keyed:
    """One keyframe on the timeline.

    Attributes:
        requested: the time that was asked for.
        snapped: the time it got, a whole frame.
        frame: that frame, counted from 0; always the first of a chunk.
    """

    requested: Time
    snapped: Time
    frame: int

    @classmethod
    def at_frame(cls, requested: Time, frame: int) -> Keyed:
        """A keyframe asked for at `requested` that lands on `frame`."""
        return cls(requested, Time.from_frames(frame, requested.rate), frame)

    @property
    def error(self) -> Fraction:
        """How far snapping moved it, in frames, exactly; at most 2 for a planned timeline."""
        return abs(self.snapped.position - self.requested.position)


def _snap(position: Fraction, chunk: int, grid: int = TEMPORAL_STRIDE) -> int:
    """The frame ≡ chunk (mod `grid`) nearest to `position`; halves go up.

    Always up, because then two positions at least one frame apart can never land on one frame or change their order.
    """
    return grid * math.floor((position - chunk) / grid + Fraction(1, 2)) + chunk


def snap_length(length: Time, grid: int = TEMPORAL_STRIDE) -> int:
    """Frames of an uncut clip of about this length: the nearest grid · n + 1; halves go up."""
    return _snap(max(length.position, Fraction(1)), 1, grid)


@dataclass(frozen=True)
class Timeline:
    """A shot's frames, cut into 4n+1 chunks at its keyframes (SmartDirector §3.2).

    Attributes:
        fps: frames per second, an int where it is whole; `rate` is the exact fraction.
        chunks: frames in each chunk, every one ≡ 1 (mod 4).
        keyframes: in order of time; each on the first frame of a chunk. A chunk may have none (the first chunk of a
            shot whose first keyframe comes later).
        requested: the length that was asked for; `length` is the one it got.
        part: number, count and id of its shot, where it is one of a film; for people, it changes nothing.
    """

    fps: float
    chunks: list[int]
    keyframes: list[Keyed] = field(default_factory=list)
    requested: Time | None = None
    part: tuple[int, int, str] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        rate = frame_rate(self.fps, "timeline.fps")
        object.__setattr__(self, "fps", plain_fps(rate))
        object.__setattr__(self, "chunks", list(self.chunks))
        object.__setattr__(self, "keyframes", list(self.keyframes))
        if not self.chunks:
            raise InputError("timeline.chunks", "must hold at least one chunk", self.chunks, "give one length, e.g. 17")
        for k, chunk in enumerate(self.chunks):
            if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1 or chunk % TEMPORAL_STRIDE != 1:
                raise InputError(f"timeline.chunks[{k}]", "must be 4n+1 frames", chunk, "use 1, 5, 9, 13, 17, …")
        if self.frames > MAX_FRAMES:
            raise InputError("timeline.chunks", f"must sum to at most {MAX_FRAMES}", self.frames, "split the shot")
        if self.requested is None:
            object.__setattr__(self, "requested", self.length)
        starts = self.chunk_starts
        for k, key in enumerate(self.keyframes):
            if key.frame not in starts:
                rule = f"must be the first frame of a chunk (chunks start at {starts})"
                raise InputError(f"timeline.keyframes[{k}].frame", rule, key.frame, "cut the chunks at the keyframes")
            if k and key.frame <= self.keyframes[k - 1].frame:
                rule = f"must come after keyframe {k - 1} at frame {self.keyframes[k - 1].frame}"
                raise InputError(f"timeline.keyframes[{k}].frame", rule, key.frame, "order keyframes by time")
            if key.snapped != Time.from_frames(key.frame, rate):
                rule = f"must be the time of frame {key.frame}"
                raise InputError(f"timeline.keyframes[{k}].snapped", rule, str(key.snapped), "build it with at_frame")

    @classmethod
    def plan(
        cls,
        fps: float | Fraction,
        seconds: float | Fraction | Time,
        keyframe_times: Sequence[float | Fraction | Time] = (0.0,),
        *,
        where: str = "",
        length_field: str = "seconds",
    ) -> Timeline:
        """Put a length and keyframe times on the grid; every one moves by at most 2 frames.

        Args:
            fps: frames per second.
            seconds: length of the shot, greater than 0.
            keyframe_times: seconds from the start of the shot, in order, at least one frame apart, at most the time of
                the last frame; what lies beyond it by half a frame or less was meant as it. A first keyframe within 2
                frames of the start becomes frame 0; a later one leaves the frames before it as a chunk without a
                keyframe.
            where: put before field names in errors, e.g. ``shots[2]``.
            length_field: what the length is called in errors.

        Raises:
            InputError: a length or time out of range, out of order, or two keyframes less than a frame apart.
        """
        prefix = f"{where}." if where else ""
        rate = frame_rate(fps, f"{prefix}fps")
        length_name = f"{prefix}{length_field}"
        asked = seconds if isinstance(seconds, Time) else Time.from_seconds(seconds, rate, length_name)
        if asked.exact <= 0:
            raise InputError(length_name, "must be greater than 0", seconds, "give the shot a length such as 2.125")
        if asked.position > MAX_FRAMES:
            longest = math.floor(MAX_FRAMES / rate)
            rule = f"must be at most {MAX_FRAMES} frames ({longest} s at {plain_fps(rate)} fps)"
            raise InputError(length_name, rule, asked.seconds, "split the shot in two")
        end = max(asked.position, Fraction(1))
        times: list[Time] = []
        for k, wish in enumerate(keyframe_times):
            name = f"{prefix}keyframes[{k}].at"
            time = wish if isinstance(wish, Time) else Time.from_seconds(wish, rate, name)
            if end - 1 < time.position <= end - Fraction(1, 2):
                time = Time(at_most((end - 1) / rate), rate)
            if time.position > end - 1:
                last = float((end - 1) / rate)
                rule = f"must not lie beyond the shot's last frame at {last:.6g} s"
                raise InputError(name, rule, time.seconds, f"use at most {last:.6g} or make the shot longer")
            if times and time.position < times[-1].position + 1:
                if time.position < times[-1].position:
                    raise InputError(name, "must be in order of time", time.seconds, "sort the keyframes by `at`")
                rule = f"must be at least one frame ({float(1 / rate):.6g} s) after the keyframe before it"
                earliest = float(times[-1].exact + 1 / rate)
                fix = f"both fall on frame {times[-1].frame}: move it to {earliest:.6g} or remove it"
                raise InputError(name, rule, time.seconds, fix)
            times.append(time)
        bounds = _snap_all([time.position for time in times], end)
        chunks = [b - a for a, b in zip(bounds, bounds[1:], strict=False)]
        frames = bounds[len(bounds) - 1 - len(times) : -1]
        keyframes = [Keyed.at_frame(t, f) for t, f in zip(times, frames, strict=True)]
        return cls(plain_fps(rate), chunks, keyframes, asked)

    @property
    def rate(self) -> Fraction:
        """Exact frames per second."""
        return frame_rate(self.fps)

    @property
    def frames(self) -> int:
        """Frames in the whole shot."""
        return sum(self.chunks)

    @property
    def length(self) -> Time:
        """Duration of the shot on the grid."""
        return Time.from_frames(self.frames, self.rate)

    @property
    def chunk_starts(self) -> list[int]:
        """First frame of every chunk."""
        return [0, *accumulate(self.chunks[:-1])] if self.chunks else []

    @property
    def latent_chunks(self) -> list[int]:
        """Latents in every chunk: (n − 1) / 4 + 1 for n frames."""
        return [(n - 1) // TEMPORAL_STRIDE + 1 for n in self.chunks]

    @property
    def latents(self) -> int:
        """Latents in the whole shot."""
        return sum(self.latent_chunks)

    @property
    def keyframe_frames(self) -> list[int]:
        """Frame of every keyframe."""
        return [k.frame for k in self.keyframes]

    @property
    def keyframe_latents(self) -> list[int]:
        """Latent of every keyframe: the first of its chunk, which encodes that frame alone."""
        starts = [0, *accumulate(self.latent_chunks)]
        first = dict(zip(self.chunk_starts, starts, strict=False))
        return [first[f] for f in self.keyframe_frames]

    def describe(self) -> str:
        """One line for people: the length and every keyframe, asked for and snapped."""
        asked = self.requested or self.length
        text = f"{self.frames} frames at {self.fps:g} fps ({self.length}, asked {asked})"
        keys = [f"{k.requested} → {k.snapped} (frame {k.frame})" for k in self.keyframes]
        return f"{text}; keyframes {', '.join(keys)}" if keys else text

    def to_dict(self) -> dict[str, Any]:
        """The timeline as plain JSON types; `from_json` reads it back to an equal timeline."""
        return {
            "fps": self.fps,
            "requested": (self.requested or self.length).seconds,
            "frames": self.frames,
            "chunks": list(self.chunks),
            "keyframes": [
                {"requested": k.requested.seconds, "snapped": k.snapped.seconds, "frame": k.frame}
                for k in self.keyframes
            ],
        }

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, data: str | Mapping[str, Any]) -> Timeline:
        """Read what `to_json` or `to_dict` gave. Raises InputError when it is not such a timeline."""
        fix = "pass what Timeline.to_json wrote"
        try:
            plain = json.loads(data) if isinstance(data, str) else data
            rate = frame_rate(plain["fps"], "timeline.fps")
            keyframes = [
                Keyed.at_frame(Time.from_seconds(k["requested"], rate), k["frame"]) for k in plain["keyframes"]
            ]
            asked = Time.from_seconds(plain["requested"], rate)
            timeline = cls(plain_fps(rate), plain["chunks"], keyframes, asked)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError("timeline", f"is not a timeline ({type(error).__name__}: {error})", data, fix) from error
        if timeline.frames != plain.get("frames", timeline.frames):
            rule = f"must be the sum {timeline.frames} of the chunks"
            raise InputError("timeline.frames", rule, plain["frames"], fix)
        return timeline


@dataclass(frozen=True)
class _Way:
    """A way to cut the frames up to `frame`: how many chunks are glued, how many halves went down, the way before."""

    frame: int
    glued: int = 0
    down: int = 0
    before: _Way | None = None


def _snap_all(positions: Sequence[Fraction], end: Fraction) -> list[int]:
    """Bounds of the chunks, from 0 to the length, for keyframes that are in order and at least one frame apart.

    A bound half-way between two frames of its grid may go to either. Up, except where down leaves fewer chunks of one
    frame between keyframes that were asked for two frames apart or more: glued together they would show one picture.
    """
    # A first keyframe within the bound belongs to frame 0: a one-frame chunk of nothing before it would serve nobody.
    opens = bool(positions) and positions[0] <= TEMPORAL_STRIDE // 2
    asked = [positions[0] if opens else Fraction(0), *positions[opens:], end]
    ways = [_Way(0)]
    for chunk, position in enumerate(asked[1:], 1):
        up = _snap(position, chunk)
        choices = [up, up - TEMPORAL_STRIDE] if up - position == Fraction(TEMPORAL_STRIDE, 2) else [up]
        apart = position - asked[chunk - 1] >= 2
        ways = [
            min(reached, key=lambda way: (way.glued, way.down))
            for frame in choices
            if (
                reached := [
                    _Way(frame, way.glued + (apart and frame - way.frame == 1), way.down + (frame < up), way)
                    for way in ways
                    if way.frame < frame
                ]
            )
        ]
    way: _Way | None = min(ways, key=lambda way: (way.glued, way.down))
    bounds = []
    while way is not None:
        bounds.append(way.frame)
        way = way.before
    return bounds[::-1]
