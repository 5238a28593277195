"""The JSON of the Keyframe Timeline's widget, and the timeline that it plans."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.documents import parse_json
from ..core.errors import InputError
from ..story.timeline import LONGEST, Time, Timeline, frame_rate, within_resolution

if TYPE_CHECKING:
    from ..story.storyboard import Storyboard

__all__ = ["EXAMPLE", "MAX_MARKS", "MAX_TEXT", "Edit", "plan", "read_edit"]

EXAMPLE = '{"keyframes": [{"requested": 0.0}]}'
"""The least that the widget writes: one keyframe, at the start."""
MAX_MARKS = 500
"""Most keyframes, and most shots, in the text: more could not be told apart on the widget's time axis."""
MAX_DEPTH = 8
MAX_TEXT = 200_000
"""Most characters of the text; the widget writes about a hundred for a keyframe."""


@dataclass(frozen=True)
class Edit:
    """What the widget asks for.

    Attributes:
        times: seconds of the keyframes; None if nothing is said.
        durations: seconds of each shot of a video of several shots; None for one shot.
    """

    times: list[float] | None = None
    durations: list[float] | None = None


# Strings and words of an object as Python writes it. A string that does not end is taken to the end of its line and
# never given back: else every quote in it would be tried as the start of another, in quadratic time.
_PYTHON = re.compile(r"""'((?:[^'\\\n]|\\.)*+)'?|"(?:[^"\\\n]|\\.)*+"?|\b(?:True|False|None)\b""")


def read_edit(text: Any) -> Edit:
    """Read the widget's JSON; an object or list in its place is taken as if it were written down.

    It is what the TIMELINE socket holds as JSON (`Timeline.to_json`); of it only ``keyframes[].requested`` counts, the
    rest is planned anew. ``durations``, a list of seconds, makes a video of several shots. A plain list of seconds is
    taken as the keyframes. Empty text says nothing.

    Raises:
        InputError: no JSON, not of this form, or more than `MAX_TEXT` characters or `MAX_MARKS` keyframes or shots.
    """
    data = _parsed(text) if isinstance(text, str) else text
    if data is None:
        return Edit()
    if isinstance(data, list):
        return Edit(_numbers(data, "timeline"))
    if not isinstance(data, Mapping):
        raise InputError("timeline", "must be an object or a list of seconds", data, f"write e.g. {EXAMPLE}")
    times, durations = data.get("keyframes"), data.get("durations")
    return Edit(
        None if times is None else _numbers(times, "keyframes"),
        _numbers(durations, "durations") if durations else None,
    )


def _parsed(text: str) -> Any:
    if not text.strip():
        return None
    if len(text) > MAX_TEXT:
        raise InputError("timeline", f"must be at most {MAX_TEXT} characters", f"{len(text)}", "write times only")
    if text.lstrip().startswith(("{'", "[{'")):
        # ComfyUI makes a text of an object that an API graph gives, and does so in Python's way.
        text = _PYTHON.sub(_as_json, text)
    return parse_json(text, "timeline", max_depth=MAX_DEPTH)


def _as_json(found: re.Match[str]) -> str:
    words = {"True": "true", "False": "false", "None": "null"}
    inner = found[1]
    return words.get(found[0], found[0]) if inner is None else '"' + inner.replace("\\'", "'").replace('"', '\\"') + '"'


def plan(edit: Edit, fps: float, seconds: float, storyboard: Storyboard | None = None, shot: str = "") -> Timeline:
    """The timeline that a node's inputs ask for.

    Args:
        edit: the widget. Its keyframes win over the storyboard's, its durations over every other length.
        fps: frames per second, if no storyboard is given.
        seconds: length, if neither a storyboard nor durations are given.
        storyboard: gives rate, length and keyframes.
        shot: id or number (from 1) of its shot; empty takes all shots as one video.

    Raises:
        InputError: a length, a time, or a shot that cannot be.
    """
    base = None if storyboard is None else _of_storyboard(storyboard, shot)
    rate = frame_rate(fps) if base is None else base.rate
    if edit.durations is not None:
        starts = _starts(edit.durations, rate)
        times = starts[:-1] if edit.times is None else [Time.from_seconds(t, rate) for t in edit.times]
        return Timeline.plan(rate, starts[-1], times, length_field="durations")
    if base is None:
        return Timeline.plan(rate, seconds, [0.0] if edit.times is None else edit.times)
    if edit.times is None:
        return base
    return Timeline.plan(rate, base.requested or base.length, edit.times)


def _of_storyboard(storyboard: Storyboard, shot: str) -> Timeline:
    from .story import film_timeline, shot_at

    return (
        storyboard.shots[shot_at(storyboard, shot)].timeline(storyboard.fps)
        if shot.strip()
        else film_timeline(storyboard)
    )


def _starts(durations: Sequence[float], rate: Any) -> list[Time]:
    """Where each shot starts, and the end."""
    starts = [Time.from_frames(0, rate)]
    for k, seconds in enumerate(durations):
        length = Time.from_seconds(seconds, rate, f"durations[{k}]")
        if not length.exact:
            raise InputError(f"durations[{k}]", "must be greater than 0", seconds, "give the shot a length such as 2.5")
        # A sum of many odd fractions would grow digits without end; what no frame rate can tell apart is let go.
        end = within_resolution(starts[-1].exact + length.exact)
        if end > LONGEST:
            raise InputError("durations", f"must sum to at most {LONGEST} seconds", float(end), "split the video")
        starts.append(Time(end, rate))
    return starts


def _numbers(values: Any, field: str) -> list[float]:
    """Seconds, each given plainly or as an object's `requested` (or `at`)."""
    if not isinstance(values, list):
        raise InputError(field, "must be a list of seconds", values, "write e.g. [0, 1.5]")
    if len(values) > MAX_MARKS:
        raise InputError(field, f"must be at most {MAX_MARKS}", f"{len(values)}", "split the video")
    found = []
    for k, value in enumerate(values):
        plain = value.get("requested", value.get("at")) if isinstance(value, Mapping) else value
        if isinstance(plain, bool) or not isinstance(plain, int | float):
            raise InputError(f"{field}[{k}]", "must be a number of seconds", value, "write e.g. 1.5")
        try:
            found.append(float(plain))
        except OverflowError:
            raise InputError(f"{field}[{k}]", "must be a finite number", value, "write e.g. 1.5") from None
    return found
