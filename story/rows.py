"""Rows of a shot list become shots, wherever they come from: tables, and lists of objects in JSON or YAML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from ..core.errors import InputError, closest, shorten
from ..core.limits import MAX_KEYFRAMES
from .brackets import transition_of
from .builder import Builder
from .columns import Roles, assign
from .headings import is_heading
from .lengths import read_length, read_span
from .terms import VOCABULARIES, camera_terms, near_term
from .timeline import TEMPORAL_STRIDE, frame_rate

__all__ = ["Row", "add_rows"]

Row = tuple[int, list[str]]
"""Number of a row (line or item), and its cells."""

_NOTHING = {"-", "--", "–", "—", "―", "/", "n/a", "n.a.", "tbd", "tba", "?", "k.a.", "keine angabe", "s.o."}
_RATE = re.compile(r"(\d{1,4}(?:[.,]\d{1,6})?)\s?(?:fps|p|hz|frames?\s?/\s?s(?:ec)?|[fbi]/s)?", re.IGNORECASE)
_BARE = {
    "travelling",
    "traveling",
    "panoramique",
    "schwenk",
    "fahrt",
    "kamerafahrt",
    "kran",
    "grue",
    "jib",
    "arc",
    "mixed",
}
_NOTES = 8  # most notes of one kind


def add_rows(header: Sequence[str], rows: Sequence[Row], first: int, build: Builder) -> None:
    """Add a shot for every row; what the columns are called says what they hold (`columns`).

    Args:
        header: names of the columns.
        rows: number of each row, and as many cells as the header has; of cells that say “none” (``-``, ``n/a``)
            nothing is taken.
        first: number of the header's row.
        build: the storyboard in the making; its notes tell what was left out.

    Raises:
        InputError: no column that says what is seen, a misspelt one, a value that cannot be read.
    """
    rows = [(line, ["" if cell.lower() in _NOTHING else cell for cell in cells]) for line, cells in rows]
    roles = assign(header, [cells for _, cells in rows], build.at(first))
    _rate(roles, header, rows, build)
    _frames_off_grid(roles, header, rows, build)
    for (line, cells), shot_id in zip(rows, _ids(roles, rows), strict=True):
        build.add(_shot(cells, roles, shot_id, build, line), line)
    _say_left_out(roles, build)


def _rate(roles: Roles, header: Sequence[str], rows: Sequence[Row], build: Builder) -> None:
    """Take the frame rate from a column of it; one that the list itself sets stands above it."""
    position = roles.at.get("fps")
    if position is None:
        return
    found: dict[object, tuple[str, int]] = {}
    for line, cells in rows:
        if cell := cells[position]:
            number = _RATE.fullmatch(cell)
            value = build.number(number[1] if number else cell, "fps", line)
            try:
                found.setdefault(frame_rate(value), (str(value), line))
            except InputError as error:
                raise InputError("fps", error.rule, cell, error.fix, build.at(line)) from None
    if "fps" in build.data:
        if found and list(found) != [build.rate]:
            roles.left_out.append(header[position])
        return
    if len(found) > 1:
        line = max(line for _, line in found.values())
        seen = ", ".join(text for text, _ in list(found.values())[:4])
        fix = "a film has one rate: write it as # fps: 24 before the list (in JSON as fps beside the shots)"
        raise InputError("fps", "must be the same in all rows", seen, fix, build.at(line))
    for text, line in found.values():
        build.setting(f"fps: {text}", line)


def _frames_off_grid(roles: Roles, header: Sequence[str], rows: Sequence[Row], build: Builder) -> None:
    """Where a column of frames holds what no 4n+1 is, it counts frames as production does: as a length of time."""
    position = roles.at.get("frames")
    if position is None:
        return
    counts = [cells[position] for _, cells in rows if re.fullmatch(r"[0-9]{1,9}", cells[position])]
    if all(int(count) % TEMPORAL_STRIDE == 1 for count in counts):
        return
    del roles.at["frames"]
    if "count" in roles.at:
        roles.left_out.append(header[position])
        return
    roles.at["count"] = position
    name = shorten(header[position], 30)
    build.notes.append(
        f"{name}: counts that are no 4n+1 become the nearest length of the grid, "
        f"by at most {TEMPORAL_STRIDE // 2} frames"
    )


def _ids(roles: Roles, rows: Sequence[Row]) -> list[str]:
    """An id for every row, or nothing; with the scene's number before it where shots count anew in each scene."""
    position, scene = roles.at.get("id"), roles.at.get("number")
    if position is None:
        return [""] * len(rows)
    raw = [cells[position] for _, cells in rows]
    if not any(raw):
        return raw
    ids = [_id(value) if _id(value) else value for value in raw]
    given = [value.lower() for value in ids if value]
    if scene is not None and len(set(given)) < len(given):
        number, joined = "", []
        for (_, cells), value in zip(rows, ids, strict=True):
            number = cells[scene] or number  # merged cells are empty from the second row on
            joined.append(_id(f"{number}-{value}") if value else "")
        return joined
    return ids


def _id(text: str) -> str:
    if re.search(r"\.\.|[/\\]", text):  # a path, not a number such as 1.1
        return text
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text[:80]).strip("-_")[:60]


def _shot(cells: Sequence[str], roles: Roles, shot_id: str, build: Builder, line: int) -> dict[str, Any]:
    def cell(role: str) -> str:
        return cells[roles.at[role]] if role in roles.at else ""

    shot: dict[str, Any] = {"id": shot_id} if shot_id else {}
    for column, positions in roles.texts.items():
        texts = [cells[position] for position in positions if cells[position]]
        if column == "scene" and len(texts) > 0 and is_heading(texts[0]) and not cell("place"):
            shot["place"] = build.place(texts.pop(0), line)
        for text in texts:
            build.refuse_number(text, column, line)
        if texts:
            shot[column] = build.prose(" ".join(_sentences(texts)), column, line)
    if camera := _camera(cells, roles, build, line):
        shot["camera"] = camera
    if cell("place"):
        shot["place"] = build.place(cell("place"), line)
    if cell("transition"):
        shot["transition"] = _transition(cell("transition"), build, line)
    for column in ("frames", "seed"):
        if cell(column):
            shot[column] = build.number(cell(column), column, line, whole=True)
    if "frames" not in shot and (seconds := _seconds(cell, build, line)) is not None:
        shot["seconds"] = seconds
    if cell("keyframes"):
        shot["keyframes"] = _keyframes(cell("keyframes"), build, line)
    return shot


def _sentences(texts: Sequence[str]) -> list[str]:
    return [text if text.endswith((".", "!", "?", "…")) or i == len(texts) - 1 else f"{text}."
            for i, text in enumerate(texts)]  # fmt: skip


def _camera(cells: Sequence[str], roles: Roles, build: Builder, line: int) -> dict[str, str]:
    """The camera by its own columns, then by what the columns of all kinds of camera words say."""
    camera: dict[str, str] = {}
    for kind in ("scale", "angle", "movement"):
        if kind in roles.at and (value := cells[roles.at[kind]]):
            terms = camera_terms(value, kind)
            for field, term in terms:
                camera.setdefault(field, term)  # OTS as a shot size is an angle
            if not terms and _misspelt(value, kind):
                camera[kind] = value  # refused with the term that it may mean
            elif not terms:
                _no_term(value, build, line)
    for position in roles.camera:
        for words in filter(None, (part.strip() for part in re.split(r"[;,/+|]", cells[position]))):
            if not (terms := camera_terms(words)):
                _no_term(words, build, line)
            for field, term in terms:
                camera.setdefault(field, term)
    return camera


def _misspelt(words: str, kind: str) -> bool:
    """Whether a cell for one term is a slip rather than words about the camera: “Pan” tells no side, “huge” nothing."""
    if near_term(words, VOCABULARIES[kind]):
        return True
    bare = words.lower() in _BARE or any(words.lower() in term.split() for term in VOCABULARIES[kind])
    return len(words.split()) == 1 and not bare


def _no_term(words: str, build: Builder, line: int) -> None:
    note_text = f"“{shorten(words, 40)}” is no camera term and was left out"
    if (
        sum(note_text in note for note in build.notes) == 0
        and sum("camera term" in note for note in build.notes) < _NOTES
    ):
        build.notes.append(f"{build.unit} {line}: {note_text}")


def _transition(words: str, build: Builder, line: int) -> str:
    """`cut` or `blend`; other ways to join shots are left out and told, misspelt words passed on to be refused."""
    if transition := transition_of(words):
        return transition
    if closest(words, ("cut", "blend", "dissolve", "fade", "crossfade"), 0.7):
        return words
    build.notes.append(
        f"{build.unit} {line}: the transition “{shorten(words, 40)}” is no cut or blend and was left out"
    )
    return "cut"


def _seconds(cell: Any, build: Builder, line: int) -> float | None:
    """The length: as time, as a number of frames, or from first to last."""
    if cell("seconds"):
        return build.seconds(cell("seconds"), line)
    if cell("count"):
        return _frames(int(build.number(cell("count"), "frames", line, whole=True)), build)
    if cell("first") and cell("last"):
        first, last = (cell(role) for role in ("first", "last"))
        if all(re.fullmatch(r"[0-9]{1,9}", value) for value in (first, last)):
            return _frames(int(last) - int(first) + 1, build)  # both are seen: 1001 to 1048 are 48 frames
        return _difference(first, last, build, line)
    if cell("start") and cell("end"):
        return _difference(cell("start"), cell("end"), build, line)
    if cell("span"):
        return _span(cell("span"), build, line)
    return None


def _span(text: str, build: Builder, line: int) -> float | None:
    try:
        span = read_span(text, build.rate, "time")
        length = read_length(text, build.rate, "time", plain=False) if span is None else span[1] - span[0]
    except InputError as error:
        raise InputError(error.field, error.rule, error.value, error.fix, build.at(line)) from None
    if length is not None and length <= 0:
        raise InputError("time", "must end after its start", text, "check the times", build.at(line))
    return None if length is None else float(length)


def _frames(count: int, build: Builder) -> float:
    if "fps" not in build.data:
        note = f"frames are counted at {build.rate} a second; write # fps: 24, or what it is, if they are others"
        if note not in build.notes:
            build.notes.append(note)
    return float(Fraction(count) / build.rate)


def _difference(start: str, end: str, build: Builder, line: int) -> float:
    try:
        length = build.seconds(end, line, "end") - build.seconds(start, line, "start")
    except InputError as error:
        if "fps" in build.data:
            raise
        fix = f"{error.fix}; times of a project with another rate need a line `# fps: 24` before the header"
        raise InputError(error.field, error.rule, error.value, fix, error.where) from None
    if length <= 0:
        raise InputError("end", "must come after the start", f"{start} – {end}", "check the times", build.at(line))
    return length


def _keyframes(text: str, build: Builder, line: int) -> list[dict[str, Any]]:
    parts = [part.strip() for part in re.split(r"[;|]|,\s", text)]
    found: list[dict[str, Any]] = []
    for part in filter(None, parts):
        if len(found) >= MAX_KEYFRAMES:
            rule = f"must hold at most {MAX_KEYFRAMES}"
            raise InputError("keyframes", rule, "more", "split the shot in two", build.at(line))
        at, equals, image = (p.strip() for p in part.partition("="))
        seconds = (
            build.seconds(at, line, "keyframes") if ":" in at else build.number(at.rstrip("s "), "keyframes", line)
        )
        found.append({"at": seconds} | ({"image": image} if equals else {}))
    return found


def _say_left_out(roles: Roles, build: Builder) -> None:
    if roles.left_out:
        names = ", ".join(shorten(name, 30) for name in roles.left_out[:20])
        more = f" and {len(roles.left_out) - 20} more" if len(roles.left_out) > 20 else ""
        build.notes.insert(0, f"left out the column{'s' * (len(roles.left_out) > 1)} {names}{more}")
