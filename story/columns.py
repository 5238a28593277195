"""What the columns of shot lists are called, and which part of a shot each one is."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..core.errors import InputError, closest
from .lengths import looks_like_number, span_like
from .terms import camera_term

__all__ = ["COLUMNS", "Roles", "assign", "column_name", "column_role", "known_columns"]

COLUMNS = (
    "id", "place", "scene", "action", "scale", "angle", "movement", "seconds", "frames", "keyframes", "transition",
    "seed",
)  # fmt: skip
"""The columns by their own names."""

# Role: its names, the surest first. Of several columns for one role the surest counts. The one table of all readers:
# of tables, and of lists of objects (`records`). Behind the English names the German, French and Spanish ones.
_NAMES = {
    "id": "id, shot id, shot code, shot, shot number, shot no, shot nr, shot num, shot name, setup, nr, no, number, "
    "name, panel, panel number, clip, clip number, einstellung, einstellung nr, einstellungsnummer, shot nummer, "
    "nummer, plan, plan n, plan no, n de plan, no de plan, numéro de plan, numéro, n, plano, número de plano, número",
    "number": "scene number, scene no, scene nr, scene num, scene id, sequence, seq, sequence name, sc, szene nr, "
    "szenennummer, sequenz, séquence, scène n, numéro de scène, secuencia",
    "place": "place, location, set, setting, loc, scene location, scene heading, slugline, where, environment, ort, "
    "drehort, schauplatz, motiv, lieu, décor, lieu de tournage, lugar, localización",
    "scene": "scene, description, shot description, scene description, visual description, visuals, visual, image, "
    "picture, what we see, prompt, content, synopsis, summary, shot content, image prompt, video prompt, "
    "visual prompt, text prompt, image description, picture description, szene, beschreibung, "
    "bildbeschreibung, bildinhalt, inhalt, "
    "scène, description du plan, description visuelle, contenu, escena, descripción",
    "subject": "subject, subjects",
    "action": "action, actions, what happens, handlung, aktion, geschehen, acción",
    "scale": "scale, shot size, shot scale, size, framing, field size, image size, einstellungsgröße, "
    "einstellungsgrösse, bildausschnitt, valeur de plan, valeur, échelle de plan, cadrage, tamaño de plano",
    "angle": "angle, camera angle, shot angle, kamerawinkel, perspektive, kameraperspektive, winkel, angle de caméra, "
    "angle caméra, angle de prise de vue, ángulo, ángulo de cámara",
    "movement": "movement, camera movement, camera move, camera motion, move, motion, movements, kamerabewegung, "
    "bewegung, mouvement, mouvement de caméra, mouvement caméra, mouvements de caméra, movimiento, "
    "movimiento de cámara",
    "camera": "shot type, camera, type, type of shot, camera work, camerawork, camera shot, camera shot type, "
    "camera type, camera direction, camera directions, camera setup, cinematography, kamera, caméra, type de plan, "
    "cámara, tipo de plano",
    "seconds": "seconds, duration, length, dur, secs, sec, shot length, shot duration, running time, est duration, "
    "estimated duration, screen time, duration seconds, duration sec, duration secs, duration s, duration in seconds, "
    "length seconds, length in seconds, dauer, länge, sekunden, dauer sek, dauer in sekunden, durée, "
    "durée estimée, durée s, durée sec, duración",
    "count": "nb frames, frame count, number of frames, num frames, no of frames, frames count, duration frames, "
    "length frames, total frames, cut duration, anzahl bilder, anzahl frames, nb images, nombre d images",
    "first": "frame in, frames in, first frame, start frame, in frame, cut in, in",
    "last": "frame out, frames out, last frame, end frame, out frame, cut out, out",
    "start": "start, start time, tc in, timecode in, time in, begin, anfang, beginn, début, inicio",
    "end": "end, end time, tc out, timecode out, time out, ende, fin",
    "span": "timestamp, timestamps, time range, timing, time, timecode, tc, zeit, minutage",
    "fps": "fps, frame rate, framerate, frames per second, bildrate, cadence, images par seconde",
    "frames": "frames",
    "keyframes": "keyframes",
    "transition": "transition, transitions, transition in, cut type, übergang, raccord, transición",
    "seed": "seed",
}
_ROLE = {name.strip(): (role, rank) for role, names in _NAMES.items() for rank, name in enumerate(names.split(","))}
_EITHER = ("scene", "szene", "scène", "escena")  # numbers of scenes, or what is seen
_UNIT = re.compile(
    r"[(\[](?:in |en )?(?:s|secs?|seconds?|sek|sekunden|secondes?|segundos?|hh:mm:ss.{0,4}|mm:ss)\.?[)\]]"
)
_SINGLE = ("scale", "angle", "movement", "frames", "keyframes", "transition", "seed", "fps")


def column_name(cell: str) -> str:
    """A header cell in small letters without signs: ``Shot #`` → ``shot number``, ``Duration (s)`` → ``duration``,
    ``shotType`` → ``shot type``.
    """
    cell = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", unicodedata.normalize("NFC", cell[:100]))
    name = _UNIT.sub("", cell.lower())
    name = re.sub(r"[#№]", " number ", name)
    return " ".join(re.sub(r"[^\w]+|_", " ", name).split())


def column_role(cell: str) -> str | None:
    """What a column of this name holds, as `Roles.at` calls it; None for a name that nothing knows."""
    return _ROLE.get(column_name(cell), (None, 0))[0]


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
    for rank, position in found.pop("span", []):  # a column Time may hold times of the day, too
        values = [row[position] for row in rows if len(row) > position and row[position]]
        if values and all(map(span_like, values)):
            found.setdefault("span", []).append((rank, position))
        else:
            roles.left_out.append(header[position])
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
        if column_name(header[position]) in _EITHER and values and all(map(looks_like_number, values)):
            found.setdefault("number", []).append((rank, position))
        else:
            words.append(position)
    for column in list(found.get("id", [])):  # a list whose column Shot tells how it is framed
        values = cells(column[1])
        if values and all(map(camera_term, values)):
            found["id"].remove(column)
            found.setdefault("camera", []).append(column)
    if not found.get("id", True):
        del found["id"]
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
    if not action and len(words) > 1 and column_name(header[words[0]]) in _EITHER:
        words, action = words[:1], words[1:]
    roles.texts = {"scene": sorted(words), "action": sorted(action)}
    roles.left_out += [header[position] for position in subject]
