"""A story for tiny random models, and what a film of it shows."""

from __future__ import annotations

from pathlib import Path

from anchorshot.story.storyboard import Storyboard

STORY = {
    "title": "Tiny",
    "fps": 8,
    "size": [64, 32],
    "characters": {"Mira": "a yellow square with a crown", "Pip": "a pink circle with a bow"},
    "places": {"dunes": "the desert", "town": "the town"},
    "shots": [
        {"id": "s01", "place": "dunes", "action": "<Mira> waves on the left.", "seconds": 0.625},
        {"id": "s02", "place": "town", "action": "<Pip> jumps on the right.", "seconds": 0.625, "transition": "blend"},
        {
            "id": "s03",
            "place": "dunes",
            "action": "<Pip> waves on the right.",
            "seconds": 1.125,
            "keyframes": [{"at": 0.0}, {"at": 0.7}],
        },
    ],
}


def story(**shots: dict) -> Storyboard:
    """The story with fields of some shots changed, e.g. `story(s02={"seed": 3})`."""
    return Storyboard.parse(STORY | {"shots": [shot | shots.get(shot["id"], {}) for shot in STORY["shots"]]})


def frames(folder: Path) -> dict[str, bytes]:
    """Everything that a viewer sees, by file: keyframes, clips, film, contact sheet."""
    files = [*folder.glob("keyframes/*"), *folder.glob("clips/*"), folder / "film.mp4", folder / "contact_sheet.png"]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def made(summary: dict) -> set[str]:
    return set(summary["timings"]["made"])


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
