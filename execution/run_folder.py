"""The folder of a film: what is done, from what, and whether it is still whole.

Every finished output is written atomically and then entered in `manifest.json` with its SHA-256 and with everything it
was made from. So a run can be killed at any moment: what the manifest lists is whole, anything else is made again.

A film that is rendered again takes the place of the one before it file by file: each old output stays, and stays in the
manifest, until its successor is written; what has none goes when the new film is complete. A run that fails on the way,
for whatever reason, has so replaced no more than it has made.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from ..core.errors import InputError
from ..core.files import is_temporary, sha256_file, write_atomic
from .folder_check import LOCK, SCRATCH, check_run, in_the_way
from .manifest import FORMAT, LISTS, MANIFEST
from .stage import Kinds, Record

__all__ = ["MANIFEST", "SCRATCH", "RunFolder", "open_run"]

# What a manifest has besides the facts of `describe`.
_FIELDS = ("format", "task", "stages", "takes", "earlier", *LISTS)


class RunFolder:
    """An open, locked run folder; `open_run` makes it. Nothing in it changes before its first output is written.

    Results are named ``<shot>/<what>``, e.g. ``s01/keyframe-0``, or ``film`` for the whole; the manifest lists them as
    "stages", its word from the time when a stage made one thing.

    Attributes:
        path: the folder.
        made: the results finished since it was opened.
        begun: whether this run has changed anything in the folder.
        on_finish: told the name of every result that is finished, and the seconds that it took.
    """

    def __init__(
        self, path: Path, manifest: dict[str, Any], kinds: Kinds, field: str = "--out", replaces: bool = False
    ) -> None:
        self.path = path
        self.made: set[str] = set()
        self.begun = False
        self.on_finish: Callable[[str, float], None] = lambda result, seconds: None
        self._manifest = manifest
        self._kinds = kinds
        self._field = field
        self._replaces = replaces
        self._verified: dict[str, Record] = {}
        self._results: dict[str, dict[str, Any]] = manifest.setdefault("stages", {})
        self._takes: dict[str, int] = manifest.setdefault("takes", {})
        # Results to make again whatever they were made from, and results of an earlier film.
        self._redo = {result for result in manifest.get("again", ()) if result in self._results}
        self._stale = {result for result in manifest.get("stale", ()) if result in self._results}
        if replaces and self._results:
            facts = {name: value for name, value in manifest.items() if name not in _FIELDS}
            manifest["earlier"] = {"facts": facts, "takes": dict(self._takes)}
            self._takes.clear()
            self._redo.clear()
            self._stale = set(self._results)

    def file(self, name: str) -> Path:
        """The path of an output, e.g. ``clips/s01.mkv``, which is about to be written; its folder is made.

        Raises:
            InputError: a folder stands there.
        """
        path = self.path / name
        if not (self.path / MANIFEST).exists():  # a folder without one would be taken for somebody else's
            self._save()
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise in_the_way(self._field, name, path)
        return path

    def describe(self, **facts: Any) -> None:
        """Enter what the whole run is made from (story, studio, settings …) in the manifest, with its next change.

        Where a film that was being rendered again was interrupted, and these are the facts of the film before it, that
        film is resumed: what is there of it counts again, and what took its place does not.
        """
        plain, earlier = _plain(facts), self._manifest.get("earlier")
        if (
            not self._replaces
            and earlier
            and earlier["facts"] == plain != {name: self._manifest.get(name) for name in plain}
        ):
            for result in self._results.keys() - self._stale:
                del self._results[result]
            self._stale.clear()
            self._takes.clear()
            self._takes.update(earlier["takes"])
        self._manifest.update(plain)

    def why(
        self, result: str, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None, info: Sequence[str] = ()
    ) -> str | None:
        """Why `result` has to be made (again), in a few words, or None if it is done, unchanged and whole.

        Args:
            result: its name.
            inputs: everything it is made from.
            outputs: the files that it writes; None takes those that the manifest has.
            info: names of the figures that are read later.
        """
        record = self.record(result)
        if record is None:
            return "not made yet"
        wanted = _plain(inputs)
        changed = [name for name in {**wanted, **record.inputs} if wanted.get(name) != record.inputs.get(name)]
        if changed:
            return f"{', '.join(_what(name, record.inputs.get(name), wanted.get(name)) for name in changed)} changed"
        if result in self._redo:
            return "it was asked for"
        if self._verified.get(result) == record:
            return None
        if outputs is not None and set(outputs) != set(record.outputs):
            return "its files have other names"
        if lost := [name for name in info if name not in record.info]:
            return f"its {lost[0]} is missing"
        for name, digest in record.outputs.items():
            path = self.path / name
            if not path.is_file():
                return f"{name} is missing"
            if sha256_file(path) != digest:
                return f"{name} is damaged"
        self._verified[result] = record
        return None

    def record(self, result: str) -> Record | None:
        """What the manifest knows about `result`, if it was ever finished.

        A film that is rendered again knows nothing at first.
        """
        entry = self._results.get(result)
        return None if entry is None or self._hidden(result) else Record(**entry)

    def finish(
        self, result: str, inputs: Mapping[str, Any], outputs: Sequence[str], seconds: float, **info: Any
    ) -> Record:
        """Enter a finished result; its files must be written. From here on it survives a kill."""
        digests = {name: sha256_file(self.path / name) for name in outputs}
        record = Record(_plain(inputs), digests, round(seconds, 3), _plain(info))
        self._results[result] = vars(record)
        self._verified[result] = record
        self.made.add(result)
        self._redo.discard(result)
        self._stale.discard(result)
        self._save()
        self.on_finish(result, seconds)
        return record

    def complete(self, files: Sequence[str], whole: bool = True) -> None:
        """The film is done: what an earlier one left goes, but for what the two share.

        The manifest forgets it first, and keeps the names of the files until they are gone: a kill in between leaves
        files that the next run removes, never a manifest that vouches for what is not there.

        Args:
            files: what the film has besides its results' outputs, such as ``contact_sheet.png``.
            whole: whether it has all of its shots. One that resumes some of them leaves the others as they are.
        """
        if self._stale and (self._replaces or whole):
            old = {name for result in self._stale for name in self._results[result]["outputs"]} | set(self._kinds.files)
            for result in self._stale:
                del self._results[result]
            self._stale.clear()
            self._manifest["removed"] = sorted(old - set(files))
        self._save()
        if _remove(self.path, self._manifest, self._kinds):
            self._save()

    def drop(self, results: Sequence[str]) -> None:
        """Forget finished results and remove their files: what was made of them is there.

        As in `complete`, the manifest forgets them first.
        """
        files = {name for result in results for name in self._results.pop(result)["outputs"]}
        if not files:
            return
        self._manifest["removed"] = sorted(files | set(self._manifest.get("removed", ())))
        self._save()
        if _remove(self.path, self._manifest, self._kinds):
            self._save()

    def restate(self, results: Sequence[str], **inputs: Any) -> None:
        """Enter other values for some inputs of finished results, which stay: for values that now mean the same."""
        for result in results:
            entry = self._results[result]
            self._results[result] = {**entry, "inputs": entry["inputs"] | _plain(inputs)}

    @property
    def results(self) -> dict[str, Record]:
        """Every finished result."""
        return {name: Record(**entry) for name, entry in self._results.items() if not self._hidden(name)}

    def results_of(self, shot: str) -> dict[str, Record]:
        """Finished results of one shot, by their name after the slash."""
        found = {}
        for name in self._results:
            owner, _, result = name.rpartition("/")
            if owner == shot and not self._hidden(name):
                found[result] = Record(**self._results[name])
        return found

    def take(self, shot: str) -> int:
        """Which take of `shot` this is, from 1; it enters the shot's seeds."""
        return int(self._takes.get(shot, 1))

    def new_takes(self, shots: Sequence[str], dependents: Sequence[str] = ()) -> None:
        """Have every result of `shots` made as a new take, and of `dependents` once more as the same take.

        The takes that are there stay until their successors are written. All this is entered with the first of those,
        in one write, because a kill between two would make a second call count some shots up twice. A shot whose new
        take was interrupted goes on with that one: what was asked for twice is made once.
        """
        fresh = [shot for shot in shots if not self._unfinished(shot)]
        for shot in fresh:
            self._takes[shot] = self.take(shot) + 1
        self._redo |= {name for shot in (*fresh, *dependents) for name in self._results if name.startswith(f"{shot}/")}

    def _unfinished(self, shot: str) -> bool:
        """Whether a result of an earlier take than the shot's waits for its successor."""
        takes = [Record(**self._results[name]).info.get("take") for name in self._redo if name.startswith(f"{shot}/")]
        return any(isinstance(take, int) and take < self.take(shot) for take in takes)

    def _hidden(self, result: str) -> bool:
        """Whether it is of an earlier film. Equal inputs do not tell: its keyframes may remember others."""
        return result in self._stale

    def _save(self) -> None:
        if not self._stale:
            self._manifest.pop("earlier", None)
        for name, results in (("again", self._redo), ("stale", self._stale)):
            self._manifest.pop(name, None)
            if results:
                self._manifest[name] = sorted(results)
        _write(self.path, self._manifest)
        self.begun = True


@contextlib.contextmanager
def open_run(
    path: str | os.PathLike[str], kinds: Kinds, *, resume: bool, task: str = "film", field: str = "--out"
) -> Iterator[RunFolder]:
    """Open the folder of a film for one run, and keep other runs out of it until the `with` block ends.

    A block that ends with an error before anything is written leaves the folder as it was found.

    Args:
        path: the folder; made if it does not exist.
        kinds: all kinds of film that may be in it.
        resume: resume what the folder holds. Otherwise a film that is there is rendered again: each of its files goes
            when its successor is written, or when the new film is complete. A folder that holds no film yet is fine
            with both.
        task: which kind of film; the other kind cannot be resumed.
        field: what errors call the folder.

    Raises:
        InputError: the path cannot be a folder, another run is working in it, it holds files of the same names that are
            not ours or folders in their place, or (when resuming) its manifest cannot be read or is of the other kind
            of film.
    """
    folder = Path(path)
    check_run(path, kinds, resume=resume, task=task, field=field)  # before a lock is left in a folder that is not ours
    new = [parent for parent in (folder, *folder.parents) if not os.path.lexists(parent)]
    unlocked = not os.path.lexists(folder / LOCK)
    lock = _lock(folder, field, str(path))
    run: RunFolder | None = None
    try:  # the system frees the lock even after a kill -9
        manifest = check_run(path, kinds, resume=resume, task=task, field=field)
        if manifest is not None or not unlocked:  # or killed before its manifest was there
            _sweep(folder, kinds)
        if manifest is not None and _remove(folder, manifest, kinds):
            _write(folder, manifest)
        replaces = manifest is not None and not resume
        run = RunFolder(folder, (manifest or {"format": FORMAT}) | {"task": task}, kinds, field, replaces)
        yield run
    finally:
        if (run is None or not run.begun) and unlocked:
            with contextlib.suppress(OSError):
                (folder / LOCK).unlink()
                for parent in new:
                    parent.rmdir()
        lock.release()


def _lock(folder: Path, field: str, shown: str) -> BaseFileLock:
    lock = folder / LOCK
    try:
        if lock.is_symlink() or (lock.exists() and not lock.is_file()):
            raise InputError(field, "must have a plain file as its .lock", str(lock), "remove it")
        folder.mkdir(parents=True, exist_ok=True)
        file_lock = FileLock(lock, timeout=0)
        file_lock.acquire()
        return file_lock
    except Timeout:
        fix = "wait for that run or choose another folder"
        raise InputError(field, "must not be in use by another run", shown, fix) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(field, "must be a writable folder", shown, f"choose another ({reason})") from None


def _what(name: str, before: Any, now: Any) -> str:
    """What changed, with the names of what changed in it."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return name
    inner = [_what(key, before.get(key), now.get(key)) for key in {**now, **before} if before.get(key) != now.get(key)]
    return f"{name} ({', '.join(inner)})"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON would give it back, so that tuples equal lists when inputs are compared."""
    plain: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    return plain


def _write(folder: Path, manifest: Mapping[str, Any]) -> None:
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def _sweep(folder: Path, kinds: Kinds) -> None:
    """Remove half-written files of a killed run. The folder is ours and so is the lock, so nobody is writing them."""
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    for place in (folder, *(folder / name for name in kinds.folders)):
        if place.is_dir() and (place == folder or not place.is_symlink()):
            for leftover in filter(is_temporary, list(place.iterdir())):
                leftover.unlink(missing_ok=True)


def _remove(folder: Path, manifest: dict[str, Any], kinds: Kinds) -> bool:
    """Remove an earlier film's files that the manifest names as removed and no result has; True if it named any."""
    names = manifest.pop("removed", ())
    kept = {name for entry in manifest.get("stages", {}).values() for name in entry["outputs"]}
    for name in names:
        if kinds.owns(name) and name not in kept and not (folder / name).is_dir():
            (folder / name).unlink(missing_ok=True)
    if names:
        for name in kinds.folders:  # an empty one of the other kind of film would stay for good
            with contextlib.suppress(OSError):
                (folder / name).rmdir()
    return bool(names)
