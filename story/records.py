"""Lists of objects as chat programs and other tools write shots in JSON or YAML, by the names that tables may have.

A storyboard in its own words is not touched here: it is checked as it stands, so that a misspelt field is found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.errors import InputError, shorten
from ..core.limits import MAX_NAMED, MAX_SHOTS
from .builder import Builder, Story
from .columns import column_name, column_role
from .rows import Row, add_rows
from .shot import Camera, Shot

__all__ = ["records_like", "records_story"]

_LISTS = (
    "shots",
    "shot list",
    "shotlist",
    "scenes",
    "panels",
    "clips",
    "storyboard",
    "segments",
    "plans",
    "einstellungen",
)
_FILMS = ("storyboard", "film", "movie", "video", "project", "story")
_TITLES = ("title", "film title", "project title", "project", "name", "titel", "titre")
_CAST = ("characters", "character", "cast")
_LOOKS = ("looks", "appearance", "visual description", "description", "look", "visual")
_INHERITED = ("number", "id", "place")  # what a scene tells its shots
_KINDS = ("scale", "angle", "movement")
_MAX_COLUMNS = 200

Lines = Mapping[tuple[Any, ...], int]


def records_like(data: Any) -> bool:
    """Whether plain data is a film whose shots are told in other words than a storyboard's own.

    One that names its places by keys is a storyboard, whatever its shots hold.
    """
    found = _film(data)
    if found is None or isinstance(found[0].get("places"), Mapping):
        return False
    film, key, shots = found
    other = key != "shots" or not (film is data or isinstance(data, list))
    return other or any(map(_foreign, shots))


def _film(data: Any) -> tuple[Mapping[str, Any], str, list[Any]] | None:
    """The film's mapping, the name of its list, and the list; None if there is no list of objects."""
    if isinstance(data, list):
        data = {"shots": data}
    if not isinstance(data, Mapping):
        return None
    for key, value in data.items():
        named = isinstance(key, str) and column_name(key) in _LISTS
        if named and isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            return data, key, value
    if "shots" not in data:
        for key, value in data.items():
            if isinstance(key, str) and column_name(key) in _FILMS and isinstance(value, Mapping):
                return _film(value)
    return None


def _foreign(shot: Mapping[Any, Any]) -> bool:
    """Whether a shot has a field that only the names of tables explain."""
    for key, value in shot.items():
        if not isinstance(key, str):
            continue
        if key not in Shot.model_fields:
            if column_role(key) or (column_name(key) in _LISTS and isinstance(value, list)):
                return True
        elif key == "camera" and isinstance(value, str | list):
            return True
        elif key == "camera" and isinstance(value, Mapping):
            if any(isinstance(k, str) and k not in Camera.model_fields and column_role(k) for k in value):
                return True
        elif key == "place" and isinstance(value, str) and " " in value:  # words, where keys are meant
            return True
    return False


def records_story(data: Any, name: str, title: str, lines: Lines) -> Story:
    """Read such a film. What a name means is told by the table of `columns`; all else is left out and listed.

    The film's own fields may stand beside the list; scenes may hold their shots; a camera may be words or an object;
    characters may be a list of objects with a name and looks.

    Args:
        data: plain values that `records_like` knows.
        name: what the text is called in errors.
        title: the film's title where the text has none.
        lines: line of each value of `data` by its location, as far as it is known.

    Returns: see `builder.Story`.

    Raises:
        InputError: as for tables; errors tell the number of the shot.
    """
    found = _film(data)
    if found is None:
        raise InputError(name, "must hold a list of shots", None, "write shots: and one object for each")
    film, key, shots = found
    build = Builder(name, title, "shot")
    _settings(film, key, build)
    flat = _flatten(shots, build)
    if len(flat) > MAX_SHOTS:
        fix = "split the film into several storyboards"
        raise InputError("shots", f"must hold at most {MAX_SHOTS}", f"{len(flat)} items", fix, name)
    rows, header = _table(flat, build)
    add_rows(header, rows, 1, build)
    for shot, fields in zip(build.data["shots"], flat, strict=True):
        if isinstance(fields.get("keyframes"), list) and fields["keyframes"]:
            shot["keyframes"] = [at if isinstance(at, Mapping) else {"at": at} for at in fields["keyframes"]]
    data, _, notes = build.done("write one object for each shot")
    known = {("shots", i): lines[at] for i in range(len(shots)) if (at := ("shots", i)) in lines}
    return data, known if len(flat) == len(shots) else {}, notes


def _settings(film: Mapping[str, Any], key: str, build: Builder) -> None:
    """The film's own fields, in their own form or as people write them; others are listed."""
    left_out = []
    for name, value in film.items():
        plain = column_name(str(name))
        if name == key or value is None:
            continue
        if plain in _TITLES and isinstance(value, str):
            build.data["title"] = " ".join(value.split())[:200] or build.data["title"]
        elif column_role(plain) == "fps" and isinstance(value, str):
            build.setting(f"fps: {value.lower().removesuffix('fps').strip()}", 1)
        elif column_role(plain) == "fps":
            build.data["fps"] = value
        elif plain == "size" and isinstance(value, list):
            build.data["size"] = value
        elif plain == "size" and isinstance(value, str):
            build.setting(f"size: {value}", 1)
        elif plain in _CAST and isinstance(value, Mapping):
            build.data["characters"] = dict(value)
        elif plain in _CAST and isinstance(value, list) and (cast := _cast(value)):
            build.data["characters"] = cast
        else:
            left_out.append(shorten(str(name), 30))
    if left_out:
        build.notes.append(f"left out of the film: {', '.join(left_out[:20])}")


def _cast(people: Sequence[Any]) -> dict[str, str]:
    """Names and looks of a list of objects; empty if that is not what it is."""
    cast = {}
    for person in people[: MAX_NAMED + 1]:
        fields = {column_name(str(k)): v for k, v in person.items()} if isinstance(person, Mapping) else {}
        looks = next((fields[word] for word in _LOOKS if isinstance(fields.get(word), str)), None)
        if not isinstance(fields.get("name"), str) or looks is None:
            return {}
        cast[fields["name"].strip()] = looks
    return cast


def _flatten(shots: Sequence[Mapping[str, Any]], build: Builder) -> list[dict[str, Any]]:
    """Shots that stand within scenes, each with its scene's place and number; others as they are."""
    flat: list[dict[str, Any]] = []
    left_out: dict[str, None] = {}
    for scene in shots:
        inner = next((k for k, v in scene.items() if column_name(str(k)) in _LISTS and _objects(v)), None)
        if inner is None:
            flat.append({str(k): v for k, v in scene.items()})
            continue
        inherited: dict[str, Any] = {}
        for name, value in scene.items():
            role = column_role(str(name))
            if name == inner or value is None:
                continue
            if isinstance(value, str | int) and (role in _INHERITED or (role == "scene" and isinstance(value, int))):
                inherited["place" if role == "place" else "scene number"] = value
            else:
                left_out[shorten(str(name), 30)] = None
        for shot in scene[inner]:
            own = {column_role(str(k)) for k in shot}
            passed = {k: v for k, v in inherited.items() if (k if k == "place" else "number") not in own}
            flat.append({**passed, **{str(k): v for k, v in shot.items()}})
    if left_out:
        build.notes.append(f"left out of the scenes: {', '.join(list(left_out)[:20])}")
    return flat


def _objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _table(flat: Sequence[Mapping[str, Any]], build: Builder) -> tuple[list[Row], list[str]]:
    """The shots as rows of text under one header."""
    columns: dict[str, int] = {}
    rows: list[dict[str, str]] = []
    for number, shot in enumerate(flat, 1):
        row: dict[str, str] = {}
        for name, value in shot.items():
            if name == "keyframes" and isinstance(value, list):
                continue
            if column_role(name) == "camera" and isinstance(value, Mapping):
                for part, words in value.items():
                    role = column_role(str(part))
                    column = role if role in _KINDS else f"camera {part}"
                    row[column if column_role(column) else "camera"] = _cell(words, column, build.at(number))
            else:
                row[name] = _cell(value, name, build.at(number))
        rows.append(row)
        for name in row:
            columns.setdefault(name, len(columns))
        if len(columns) > _MAX_COLUMNS:
            rule = f"must have at most {_MAX_COLUMNS} different fields"
            raise InputError("shots", rule, "more", "remove fields", build.at(number))
    return [(i, [row.get(name, "") for name in columns]) for i, row in enumerate(rows, 1)], list(columns)


def _cell(value: Any, name: str, where: str) -> str:
    """A value as the text of a cell; objects in the place of words are refused where anything takes them."""
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, list) and not any(isinstance(item, list | Mapping) for item in value):
        return "; ".join(_cell(item, name, where) for item in value[:100])
    if isinstance(value, list | Mapping):
        if column_role(name) is None:
            return "…"  # a column that nothing takes is listed only where it holds something
        raise InputError(name, "must be words or a number", value, "write it as text", where)
    return " ".join(str(value).split())
