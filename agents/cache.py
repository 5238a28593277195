"""Good answers, kept in a folder by the hash of what was asked: the same question costs nothing a second time."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from ..core.documents import as_object, as_text, read_json
from ..core.errors import InputError
from ..core.files import check_folder, write_atomic

__all__ = ["AnswerCache", "Kept"]

_VERSION = 1


@dataclass(frozen=True)
class Kept:
    """An answer's text, and whether it was the last try that took it."""

    text: str
    last: bool


class AnswerCache:
    """A folder with one JSON file for each question. Questions, keys and addresses are not in it.

    Args:
        folder: made when the first answer is kept.

    Raises:
        InputError: no folder that can be written to.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        check_folder(folder, "cache")
        self.folder = Path(folder)

    def get(self, key: str) -> Kept | None:
        """What was kept for the question of this hash; None if there is nothing, or nothing sound."""
        path = self._path(key)
        if not path.exists():
            return None
        with contextlib.suppress(InputError):
            data = as_object(read_json(path, "cache"), "cache")
            if data.get("version") == _VERSION:
                return Kept(as_text(data.get("answer"), "cache.answer"), data.get("last") is True)
        return None

    def put(self, key: str, text: str, last: bool, who: str) -> None:
        """Keep an answer; a disk that is full keeps nothing, and the answer is good all the same."""
        data = {"version": _VERSION, "answered_by": who, "last": last, "answer": text}
        with contextlib.suppress(OSError):
            write_atomic(
                self._path(key), json.dumps(data, ensure_ascii=False, indent=1).encode("utf-8", "replace") + b"\n"
            )

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"
