"""What the columns of shot lists are called, and which part of a shot each one is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from .errors import InputError, closest
from .lengths import looks_like_number

__all__ = ["COLUMNS", "Roles", "assign", "column_name", "known_columns"]

COLUMNS = (
    "id", "place", "scene", "action", "scale", "angle", "movement", "seconds", "frames", "keyframes", "transition",
    "seed",
)  # fmt: skip
"""The columns by their own names."""

# Role: its names, the surest first. Of several columns for one role the surest counts.
_NAMES = {
    "id": "id, shot id, shot code, shot, shot number, shot no, shot nr, shot num, shot name, setup, nr, no, "
    "number, name",
    "number": "scene number, scene no, scene nr, scene num, scene id, sequence, seq, sequence name, sc",
    "place": "place, location, set, setting, loc, scene location, scene heading, slugline, where",
    "scene": "scene, description, shot description, scene description, visual description, visuals, visual, image, "
    "picture, what we see, prompt, content, synopsis, summary",
    "subject": "subject, subjects",
    "action": "action, actions, what happens",
    "scale": "scale, shot size, shot scale, size, framing, field size, image size",
    "angle": "angle, camera angle, shot angle",
    "movement": "movement, camera movement, camera move, camera motion, move, motion, movements",
    "camera": "shot type, camera, type, type of shot, camera work",
    "seconds": "seconds, duration, length, dur, secs, sec, shot length, shot duration, running time, est duration, "
    "estimated duration, screen time",
    "count": "nb frames, frame count, number of frames, num frames, no of frames, frames count, duration frames, "
    "length frames, total frames, cut duration",
    "first": "frame in, frames in, first frame, start frame, in frame, cut in, in",
    "last": "frame out, frames out, last frame, end frame, out frame, cut out, out",
    "start": "start, start time, tc in, timecode in, time in, begin",
    "end": "end, end time, tc out, timecode out, time out",
    "fps": "fps, frame rate, framerate",
    "frames": "frames",
    "keyframes": "keyframes",
    "transition": "transition, transitions, transition in, cut type",
    "seed": "seed",
}
_ROLE = {name.strip(): (role, rank) for role, names in _NAMES.items() for rank, name in enumerate(names.split(","))}
_SINGLE = ("scale", "angle", "movement", "frames", "keyframes", "transition", "seed", "fps")


def column_name(cell: str) -> str:
    """A header cell in small letters without signs: ``Shot #`` → ``shot number``, ``Duration (s)`` → ``duration``."""
    name = re.sub(r"\((?:s|sec|secs|seconds|in seconds|hh:mm:ss.{0,4})\)|\[(?:s|sec)\]", "", cell[:100].lower())
    name = re.sub(r"[#№]", " number ", name)
    return " ".join(re.sub(r"[^\w]+|_", " ", name).split())


def known_columns(cells: Sequence[str]) -> set[str]:
    """The roles that header cells name; a lone ``#`` is a number."""
    return {_ROLE[name][0] for name in map(column_name, cells) if name in _ROLE}


@dataclass
class Roles:
    """Which column is what.

    Attributes:
        at: role: position of its column; roles of texts are in `texts`.
        texts: positions of the columns whose words are the scene, and those whose words are the action.
        camera: positions of columns with camera words of any kind.
        left_out: names of the columns that nothing takes.
    """

    at: dict[str, int] = field(default_factory=dict)
    texts: dict[str, list[int]] = field(default_factory=lambda: {"scene": [], "action": []})
    camera: list[int] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def assign(header: Sequence[str], rows: Sequence[Sequence[str]], where: str) -> Roles:
    """Decide what each column is, by its name and, where a name means two things, by its cells.

    A column called Scene may hold scene numbers (of a screenplay) or what is seen. Unknown columns are left out and
    listed, unless they look like a misspelt one.

    Raises:
        InputError: a column twice, a misspelt one, or no column that says what is seen.
    """
    roles = Roles()
    found: dict[str, list[tuple[int, int]]] = {}
    seen: dict[str, int] = {}
    for position, cell in enumerate(header):
        name = column_name(cell)
        if not cell:
            if any(len(row) > position and row[position] for row in rows):
                roles.left_out.append(f"no. {position + 1} (no name)")
            continue
        if name in seen and name in _ROLE:
            raise InputError(where, "has a column twice", cell, "keep one of the two")
        seen[name] = position
        if name not in _ROLE:
            near = None if name == "frame" else closest(name, COLUMNS, 0.8)
            if near:
                raise InputError(where, "has an unknown column", cell, f"did you mean `{near}`?")
            roles.left_out.append(cell)
            continue
        role, rank = _ROLE[name]
        found.setdefault(role, []).append((rank, position))
    _place_texts(found, roles, header, rows)
    for role, columns in found.items():
        if role == "camera":
            roles.camera = [position for _, position in columns]
            continue
        columns.sort()
        if role in _SINGLE and len(columns) > 1:
            raise InputError(where, "has a column twice", header[columns[1][1]], "keep one of the two")
        roles.at[role] = columns[0][1]
        roles.left_out += [header[position] for _, position in columns[1:]]
    if not roles.texts["scene"] and not roles.texts["action"]:
        seen_names = ", ".join(cell for cell in header if cell)
        fix = (
            "name one scene, action or description in the first row; if this is no table, put empty lines between shots"
        )
        raise InputError(where, "must have a column scene or action, in words", seen_names, fix)
    return roles


def _place_texts(
    found: dict[str, list[tuple[int, int]]], roles: Roles, header: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Sort the columns of words into scene and action; take those that hold numbers out."""

    def cells(position: int) -> list[str]:
        return [row[position] for row in rows if len(row) > position and row[position]]

    words = []
    for rank, position in sorted(found.pop("scene", [])):
        values = cells(position)
        if column_name(header[position]) == "scene" and values and all(map(looks_like_number, values)):
            found.setdefault("number", []).append((rank, position))
        else:
            words.append(position)
    action = [position for _, position in sorted(found.pop("action", []))]
    subject = [position for _, position in sorted(found.pop("subject", []))]
    if not words and not action:  # who is in the picture is all there is
        words, subject = subject, []
    if not words and not action and (shots := found.get("id")):  # a list whose column Shot tells the shot
        position = min(shots)[1]
        if any(len(value.split()) > 3 for value in cells(position)):
            words = [position]
            shots.remove(min(shots))
            if not shots:
                del found["id"]
    if not action and len(words) > 1 and column_name(header[words[0]]) == "scene":
        words, action = words[:1], words[1:]
    roles.texts = {"scene": sorted(words), "action": sorted(action)}
    roles.left_out += [header[position] for position in subject]
