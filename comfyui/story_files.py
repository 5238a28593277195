"""Reads a Storyboard node's text once, and knows the files that it read.

The text of a prompt is validated, fingerprinted and executed: the same text is parsed once, as long as no file that it
names has changed. A LINKED text is unknown to a fingerprint: ComfyUI gives it links as None. So a run notes what files
its text led to, and the fingerprint of the same node tells whether one of them has changed since.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import InputError
from ..core.limits import MAX_BYTES
from ..story.formats import KINDS, named_file
from ..story.load import story_bytes
from ..story.storyboard import Storyboard, load_storyboard, parse_storyboard
from .host import input_folder, input_path

__all__ = ["LINKED", "LinkedFiles", "StoryFiles", "read_story", "story_files"]

StoryFiles = dict[Path, str]
"""Files that a storyboard was read from or names, and what tells their content: see `identity`."""

_KEPT = 8  # storyboards; a prompt seldom has more than one, a user seldom more than a few tabs
_NODES = 256
_FILES = 2000

_storyboards: OrderedDict[str, tuple[Storyboard, StoryFiles]] = OrderedDict()
_lock = threading.Lock()  # one parse at a time: validation runs beside the server, and threads share one interpreter


def identity(path: Path) -> str:
    """Changes when the file does: the hash of a story file, size and time of a picture, empty where it is missing."""
    try:
        if path.suffix.lower() in KINDS:
            return hashlib.sha256(story_bytes(path)).hexdigest()
        found = path.stat()
        return f"{found.st_mtime_ns}:{found.st_size}:{found.st_ino}"
    except (InputError, OSError, ValueError):
        return ""


def read_story(story: str) -> Storyboard:
    """Read a storyboard from text in any of its formats, or from a file in ComfyUI's input folder.

    Pictures that it names are looked for beside its file, or in the input folder.

    Raises:
        InputError: anything in it is wrong. Paths in it are relative to the input folder.
    """
    return _read(story)[0]


def story_files(story: str) -> StoryFiles:
    """The files that a storyboard's text leads to: the one that it names, and its pictures. Raises as `read_story`."""
    return _read(story)[1]


def _read(story: str) -> tuple[Storyboard, StoryFiles]:
    name = named_file(story)
    file = None if name is None else input_path(name, "story")
    raw = None if file is None else story_bytes(file, shown=name or "")
    folder = input_folder() if file is None else file.parent
    if raw is None and len(story) > MAX_BYTES:  # too long to hash for nothing: the reader refuses it by its length
        return parse_storyboard(story, "auto", folder=folder), {}
    content = story.encode("utf-8", "surrogatepass") if raw is None else raw
    key = f"{file or folder}\0{hashlib.sha256(content).hexdigest()}"
    with _lock:
        if (known := _storyboards.get(key)) is not None:
            if all(identity(path) == seen for path, seen in known[1].items()):
                _storyboards.move_to_end(key)
                return known
            del _storyboards[key]
        if file is None:
            storyboard = parse_storyboard(story, "auto", folder=folder)
        else:
            storyboard = load_storyboard(file, shown=name or "", raw=raw)
        files = {} if file is None else {file: hashlib.sha256(content).hexdigest()}
        named = {k.image for shot in storyboard.shots for k in shot.keyframes if k.image is not None}
        files |= {folder / image: identity(folder / image) for image in sorted(named)}
        _storyboards[key] = storyboard, files
        while len(_storyboards) > _KEPT:
            _storyboards.popitem(last=False)
    return storyboard, files


@dataclass
class _Node:
    files: OrderedDict[Path, str] = field(default_factory=OrderedDict)
    version: int = 0


class LinkedFiles:
    """What files the linked texts of each node led to, and whether they have changed since."""

    def __init__(self) -> None:
        self._nodes: OrderedDict[str, _Node] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, node: str, files: StoryFiles) -> None:
        """Remember what a run of `node` has read. Nodes of other graphs may have the same id: files add up."""
        with self._lock:
            known = self._nodes.setdefault(node, _Node())
            self._nodes.move_to_end(node)
            for path, seen in files.items():
                known.files[path] = seen
                known.files.move_to_end(path)
            while len(known.files) > _FILES:
                known.files.popitem(last=False)
            while len(self._nodes) > _NODES:
                self._nodes.popitem(last=False)

    def version(self, node: str) -> int:
        """A number that is another one each time a file that `node` has read was found changed."""
        with self._lock:
            known = self._nodes.get(node)
            if known is None:
                return 0
            now = {path: identity(path) for path in known.files}
            if any(now[path] != seen for path, seen in known.files.items()):
                known.version += 1
                known.files.update(now)
            return known.version


LINKED = LinkedFiles()
"""Of this server."""
