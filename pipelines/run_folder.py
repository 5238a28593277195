"""The folder of a film: what is done, from what, and whether it is still whole.

Every finished output is written atomically and then entered in `manifest.json` with its SHA-256 and with everything it
was made from. So a run can be killed at any moment: what the manifest lists is whole, anything else is made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from filelock import FileLock, Timeout

from ..story.errors import InputError
from ..story.files import sha256_file, write_atomic

__all__ = ["MANIFEST", "Record", "RunFolder", "open_run"]

MANIFEST = "manifest.json"
FORMAT = 1
Task = Literal["film", "tell"]
_KINDS: dict[str, str] = {"film": "a film with keyframes", "tell": "a told film"}
# Only these may ever be removed, whatever a damaged or hostile manifest lists.
_OURS = re.compile(
    r"(keyframes|clips|latents|stills)/[\w-]+\.(png|mkv|safetensors)"
    r"|film\.mp4|summary\.json|contact_sheet(_\d+)?\.png|weights\.png"
)
_FOLDERS = ("keyframes", "clips", "latents", "stills")
_FILES = ("film.mp4", "contact_sheet.png", "weights.png", "summary.json")


@dataclass(frozen=True)
class Record:
    """One finished stage.

    Attributes:
        inputs: everything the stage was made from, as plain JSON values by name.
        outputs: SHA-256 of each file it wrote, by path relative to the folder.
        seconds: how long it took.
        info: figures to report (tokens, times, seeds …).
    """

    inputs: dict[str, Any]
    outputs: dict[str, str]
    seconds: float = 0.0
    info: dict[str, Any] = field(default_factory=dict)


class RunFolder:
    """An open, locked run folder; `open_run` makes it.

    Stages are named ``<shot>/<stage>``, e.g. ``s01/keyframe-0``, or ``film`` for the whole.

    Attributes:
        made: the stages finished since it was opened.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self._manifest = manifest
        self._verified: dict[str, Record] = {}
        self.made: set[str] = set()

    def file(self, name: str) -> Path:
        """The path of an output, e.g. ``clips/s01.mkv``; its folder is made."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def describe(self, **facts: Any) -> None:
        """Enter what the whole run is made from (story, studio, settings …) in the manifest."""
        self._manifest.update(_plain(facts))
        self._save()

    def why(self, stage: str, inputs: Mapping[str, Any]) -> str | None:
        """Why `stage` has to be made (again), in a few words, or None if it is done, unchanged and whole."""
        record = self.record(stage)
        if record is None:
            return "not made yet"
        wanted = _plain(inputs)
        changed = [name for name in {**wanted, **record.inputs} if wanted.get(name) != record.inputs.get(name)]
        if changed:
            return f"{', '.join(_what(name, record.inputs.get(name), wanted.get(name)) for name in changed)} changed"
        if self._verified.get(stage) == record:
            return None
        for name, digest in record.outputs.items():
            path = self.path / name
            if not path.is_file():
                return f"{name} is missing"
            if sha256_file(path) != digest:
                return f"{name} is damaged"
        self._verified[stage] = record
        return None

    def record(self, stage: str) -> Record | None:
        """What the manifest knows about `stage`, if it was ever finished."""
        entry = self._stages.get(stage)
        return None if entry is None else Record(**entry)

    def finish(
        self, stage: str, inputs: Mapping[str, Any], outputs: Sequence[str], seconds: float, **info: Any
    ) -> Record:
        """Enter a finished stage; its files must be written. From here on it survives a kill."""
        digests = {name: sha256_file(self.path / name) for name in outputs}
        record = Record(_plain(inputs), digests, round(seconds, 3), _plain(info))
        self._stages[stage] = vars(record)
        self._verified[stage] = record
        self.made.add(stage)
        self._save()
        return record

    def restate(self, stages: Sequence[str], **inputs: Any) -> None:
        """Enter other values for some inputs of finished stages, which stay: for values that now mean the same."""
        for stage in stages:
            entry = self._stages[stage]
            self._stages[stage] = {**entry, "inputs": entry["inputs"] | _plain(inputs)}
        self._save()

    @property
    def stages(self) -> dict[str, Record]:
        """Every finished stage."""
        return {name: Record(**entry) for name, entry in self._stages.items()}

    def stages_of(self, shot: str) -> dict[str, Record]:
        """Finished stages of one shot, by their name after the slash."""
        found = {}
        for name in self._stages:
            owner, _, stage = name.rpartition("/")
            if owner == shot:
                found[stage] = Record(**self._stages[name])
        return found

    def take(self, shot: str) -> int:
        """Which take of `shot` this is, from 1; it enters the shot's seeds."""
        return int(self._manifest.setdefault("takes", {}).get(shot, 1))

    def new_takes(self, shots: Sequence[str], again: Sequence[str] = ()) -> None:
        """Have every stage of `shots` made as a new take, and of `again` once more as the same take.

        One write for all, because a kill between two would make a second call count some of them up twice.
        """
        takes = self._manifest.setdefault("takes", {})
        for shot in shots:
            takes[shot] = self.take(shot) + 1
        for shot in (*shots, *again):
            for stage in [name for name in self._stages if name.startswith(f"{shot}/")]:
                del self._stages[stage]
        self._save()

    @property
    def _stages(self) -> dict[str, Any]:
        stages: dict[str, Any] = self._manifest.setdefault("stages", {})
        return stages

    def _save(self) -> None:
        write_atomic(self.path / MANIFEST, json.dumps(self._manifest, indent=1, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def open_run(
    path: str | os.PathLike[str], *, resume: bool, task: Task = "film", field: str = "--out"
) -> Iterator[RunFolder]:
    """Open the folder of a film for one run, and keep other runs out of it until the `with` block ends.

    Args:
        path: the folder; made if it does not exist.
        resume: go on with what the folder holds. Otherwise a film that is there is made anew: its files are removed.
            A folder that holds no film yet is fine with both.
        task: which kind of film; the other kind cannot be gone on with.
        field: what errors call the folder.

    Raises:
        InputError: the path cannot be a folder, another run is working in it, it holds files of the same names that are
            not ours, or (when resuming) its manifest cannot be read or is of the other kind of film.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0).acquire()
    except Timeout:
        fix = "wait for that run or choose another folder"
        raise InputError(field, "must not be in use by another run", str(path), fix) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(field, "must be a writable folder", str(path), f"choose another ({reason})") from None
    with lock:  # the system frees it even after a kill -9
        _sweep(folder)
        manifest = _read_manifest(folder, field, resume)
        if manifest is None:
            taken = [name for name in (*_FILES, *_FOLDERS) if (folder / name).exists()]
            if taken:
                fix = "choose an empty folder"
                raise InputError(field, "holds files that no film of ours left there", f"{path}: {taken[0]}", fix)
        elif not resume:
            _remove_outputs(folder, manifest)
            manifest = None
        elif (other := _task(manifest, task)) != task:
            fix = "choose another folder, or leave --resume out to make it anew"
            raise InputError(field, f"must hold {_KINDS[task]}", f"{path}: {_KINDS[other]}", fix)
        run = RunFolder(folder, (manifest or {"format": FORMAT}) | {"task": task})
        run.describe()
        yield run


def _what(name: str, before: Any, now: Any) -> str:
    """What changed, with the names of what changed in it."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return name
    inner = [_what(key, before.get(key), now.get(key)) for key in {**now, **before} if before.get(key) != now.get(key)]
    return f"{name} ({', '.join(inner)})"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON would give it back, so that tuples equal lists when inputs are compared."""
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def _read_manifest(folder: Path, field: str, resume: bool) -> dict[str, Any] | None:
    """The manifest, None if there is none; a broken one is refused on resuming, and as good as empty to a fresh run."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for entry in manifest.get("stages", {}).values():
            Record(**entry)
        if manifest.get("format") != FORMAT:
            raise ValueError(f"its format is {manifest.get('format')}, not {FORMAT}")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        if not resume:
            return {}
        fix = "start over without --resume, or choose another folder"
        raise InputError(field, "has a manifest that cannot be resumed", f"{path}: {error}", fix) from None
    return dict(manifest)


def _task(manifest: Mapping[str, Any], wanted: Task) -> Task:
    """Which kind of film a manifest is of; those without stages are of any."""
    stages = manifest.get("stages", {})
    if not stages:
        return wanted
    told: Task = "tell" if any(name.endswith("/segment") for name in stages) else "film"
    return cast(Task, manifest.get("task", told))


def _sweep(folder: Path) -> None:
    """Remove half-written files of a killed run. The lock is ours, so nobody is writing them."""
    for place in (folder, *(folder / name for name in _FOLDERS)):
        for leftover in place.glob(".tmp-*"):
            leftover.unlink(missing_ok=True)


def _remove_outputs(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Remove what a finished or broken-off run left, by its manifest; the manifest goes first.

    In this order a kill in between leaves files that no manifest vouches for, never a manifest that vouches for files
    that are gone.
    """
    names = {name for entry in manifest.get("stages", {}).values() for name in entry["outputs"]} | set(_FILES)
    write_atomic(folder / MANIFEST, json.dumps({"format": FORMAT}))
    for name in filter(_OURS.fullmatch, names):
        (folder / name).unlink(missing_ok=True)
    for name in _FOLDERS:  # an empty one of the other kind of film would stay for good
        with contextlib.suppress(OSError):
            (folder / name).rmdir()
