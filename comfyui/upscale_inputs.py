"""Which frames of a video have a large keyframe, and where its shots begin, by Keyframe SR's inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..core.errors import InputError
from ..pipelines.join import joined_clips
from ..story.lengths import read_length
from ..story.timeline import frame_rate
from .host import tell
from .images import fitted, frames_of
from .upscale_source import Source

if TYPE_CHECKING:
    from ..story.storyboard import Storyboard
    from ..story.timeline import Timeline

__all__ = ["Film", "film_of", "keyframes_of", "positions", "rate_of", "read_times"]

_MOMENTS = "write moments such as 0, 2.5, 48 frames or 00:00:03:12, with commas between them"


@dataclass(frozen=True)
class Film:
    """What a storyboard says of its film.

    Attributes:
        frames: its length.
        cuts: frames that a shot begins at, after a hard cut.
        keyframes: the frame of each keyframe in film order; None for one within a dissolve, which shows two pictures.
    """

    frames: int
    cuts: list[int]
    keyframes: list[int | None]


def film_of(storyboard: Storyboard) -> Film:
    """The film that the Film node makes of a storyboard's shots."""
    timelines = [shot.timeline(storyboard.fps) for shot in storyboard.shots]
    paired = storyboard.mode == "pairs"
    joins = [shot.transition if paired else shot.joined for shot in storyboard.shots]
    placed = joined_clips([each.frames for each in timelines], joins, storyboard.rate)
    keyframes: list[int | None] = []
    for i, (timeline, clip) in enumerate(zip(timelines, placed, strict=True)):
        end = placed[i + 1].start if i + 1 < len(placed) and joins[i + 1] == "blend" else clip.start + clip.frames
        first = clip.overlap if joins[i] == "blend" else 0
        for frame in timeline.keyframe_frames:
            keyframes.append(clip.start + frame if frame >= first and clip.start + frame < end else None)
    cuts = [clip.start for clip, join in zip(placed[1:], joins[1:], strict=True) if join == "cut"]
    return Film(placed[-1].start + placed[-1].frames, cuts, keyframes)


def rate_of(fps: float, timeline: Timeline | None, storyboard: Storyboard | None) -> Fraction:
    """Frames per second of pictures: the storyboard's, else the timeline's, else the widget's."""
    if storyboard is not None:
        return storyboard.rate
    return frame_rate(fps) if timeline is None else timeline.rate


def keyframes_of(
    keyframes: Any,
    source: Source,
    size: tuple[int, int],
    fit: str,
    times: str,
    timeline: Timeline | None,
    film: Film | None,
) -> dict[int, Tensor]:
    """Keyframes `[3, H, W]` in the large size, by frame of the video.

    Their frames come from the first of these that says something: `times`, the timeline, the film of a storyboard. A
    single picture of which nobody says anything is the first frame.

    Args:
        keyframes: IMAGE, or lists of them; None without any.
        source: the video.
        size: (H, W) of what comes out.
        fit: of pictures of another shape, one of `images.FITS`. Those that are then enlarged as much as the video
            show no more than it, and are left out.
        times: moments in words.
        timeline: of the video. If it has another length, the times that were asked for count, not the snapped ones.
        film: of a storyboard.

    Raises:
        InputError: another number of pictures than moments, moments out of order or behind the end, another size with
            ``off``.
    """
    pictures = frames_of(keyframes, "keyframes")
    if not len(pictures):
        if times.strip():
            tell("keyframe_times: there are no keyframes, so they say nothing", warn=True)
        return {}
    at = _frames(len(pictures), source, times, timeline, film)
    enlarged = [want / have for want, have in zip(size, pictures.shape[-2:], strict=True)]
    by = min(enlarged) if fit == "contain" else max(enlarged)
    if by >= min(want / have for want, have in zip(size, source.size, strict=True)):
        seen = f"{pictures.shape[-1]}x{pictures.shape[-2]}"
        tell(f"keyframes of {seen} show no more than the video itself: they are left out", warn=True)
        return {}
    large = frames_of(fitted(keyframes, size, fit, "keyframes"), "keyframes")
    if tuple(large.shape[-2:]) != size:
        rule = f"must be {size[1]}x{size[0]}, as the video that comes out"
        raise InputError("keyframes", rule, f"{large.shape[-1]}x{large.shape[-2]}", "set fit to cover")
    return {frame: picture for frame, picture in zip(at, large, strict=True) if frame is not None}


def _frames(
    count: int, source: Source, times: str, timeline: Timeline | None, film: Film | None
) -> Sequence[int | None]:
    """The frame of each of `count` pictures."""
    at: Sequence[int | None]
    if times.strip():
        field = "keyframe_times"
        at = [source.index_of(moment) for moment in read_times(times, source.rate)]
    elif timeline is not None:
        field, snapped = "timeline", timeline.frames == source.count
        if not snapped:
            seen = f"timeline: has {timeline.frames} frames, and the video {source.count}"
            tell(f"{seen}; keyframes come at the times that were asked for", warn=True)
        at = timeline.keyframe_frames if snapped else [
            source.index_of(key.requested.exact) for key in timeline.keyframes
        ]  # fmt: skip
    elif film is not None:
        field, at = "storyboard", film.keyframes
        if film.frames != source.count:
            fix = "connect the whole film, or leave the storyboard out and give keyframe_times"
            raise InputError("storyboard", f"must be the video's, of {source.count} frames", film.frames, fix)
    else:
        field, at = "keyframe_times", [0]
    if len(at) != count:
        rule = f"must be as many as the moments of {field}, {len(at)}"
        fix = "give one moment for each picture, e.g. keyframe_times 0, 2.5"
        raise InputError("keyframes", rule, count, fix)
    real = [frame for frame in at if frame is not None]
    if any(later <= earlier for earlier, later in pairwise(real)):
        raise InputError(field, "must rise from keyframe to keyframe", real, "put the pictures in order of time")
    if real and real[-1] >= source.count:
        rule = f"must lie within the video's {source.count} frames"
        raise InputError(field, rule, f"frame {real[-1]}", "give an earlier moment")
    return at


def read_times(text: str, rate: Fraction) -> list[Fraction]:
    """Seconds of moments in words, with commas or line breaks between them.

    Raises:
        InputError: something that is no moment.
    """
    found = []
    for part in re.split(r"[,\n]", text):
        if not part.strip():
            continue
        seconds = read_length(part, rate, "keyframe_times")
        if seconds is None or seconds < 0:
            raise InputError("keyframe_times", "must be moments", part.strip(), _MOMENTS)
        found.append(seconds)
    return found


def positions(keyframes: Mapping[int, Tensor]) -> str:
    """The keyframes' frames in words."""
    return ", ".join(map(str, sorted(keyframes))) or "none"
