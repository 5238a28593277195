"""Final Draft screenplays (.fdx): XML, of which the paragraphs of the script are read.

Straight from expat, with document types refused at their first character, so that no entity is ever defined, and no
tree built. Published readers either resolve entities or take only the first run of text of a paragraph.
"""

from __future__ import annotations

import re
from typing import Any
from xml.parsers import expat

from ..core.errors import InputError
from ..core.limits import MAX_VALUES
from .builder import Builder, Story
from .screenplay import Element, Kind, screenplay_story

__all__ = ["fdx_like", "fdx_story"]

_MAX_DEPTH = 64
_START = re.compile(r"\s*(?:<\?xml[^<>]{0,200}\?>\s*)?(?:<!--[^<>]{0,400}-->\s*)?<(?:FinalDraft|!DOCTYPE)\b")
_DECLARATION = re.compile(r"\s*<\?xml[^<>]{0,200}\?>")
_KINDS: dict[str, Kind] = {
    "scene heading": "heading", "action": "action", "general": "action", "shot": "shot", "transition": "transition",
    "character": "speech", "dialogue": "speech", "parenthetical": "speech", "singing": "speech", "lyrics": "speech",
}  # fmt: skip


def fdx_like(text: str) -> bool:
    """Whether a text is a Final Draft document by its first element."""
    return _START.match(text[:2000]) is not None or text[:200].lstrip().startswith("<?xml")


def fdx_story(text: str, name: str, title: str = "") -> Story:
    """Read a Final Draft document: see `screenplay.screenplay_story`.

    Raises:
        InputError: no well-formed XML, a document type or entity, deep nesting, another document, or no action in it.
    """
    build = Builder(name, title)
    reader = _Reader(name)
    # The text is decoded already; a declaration of another encoding would decode it twice.
    declaration = _DECLARATION.match(text)
    end = declaration.end() if declaration else 0
    reader.parse("\n" * text.count("\n", 0, end) + text[end:])
    return screenplay_story(reader.elements, build)


class _Reader:
    """Collects the script's paragraphs while expat reads."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.elements: list[Element] = []
        self._path: list[str] = []
        self._words: list[str] = []
        self._type = ""
        self._line = 0
        self._cue = False
        self._count = 0
        self._parser = expat.ParserCreate("utf-8")
        self._parser.StartElementHandler = self._open
        self._parser.EndElementHandler = self._close
        self._parser.CharacterDataHandler = self._data
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.EntityDeclHandler = self._refuse

    def parse(self, text: str) -> None:
        try:
            self._parser.Parse(text.encode("utf-8"), True)
        except expat.ExpatError as error:
            rule = f"is not valid XML: {expat.errors.messages.get(error.code, 'unknown error')}"
            where = f"{self.name} line {error.lineno}, column {error.offset + 1}"
            raise InputError(where, rule, None, "export the script from Final Draft again") from None
        except UnicodeEncodeError:
            raise InputError(self.name, "must be plain text", "broken Unicode", "save it as UTF-8") from None

    def _where(self) -> str:
        return f"{self.name} line {self._parser.CurrentLineNumber}"

    def _refuse(self, *_: Any) -> None:
        fix = "remove the <!DOCTYPE …>; Final Draft writes none"
        raise InputError(self._where(), "must not declare a document type or entities", "<!DOCTYPE", fix)

    def _open(self, tag: str, attributes: dict[str, str]) -> None:
        self._path.append(tag)
        self._count += 1
        if self._count > MAX_VALUES:
            fix = "give a shorter script"
            raise InputError(self._where(), f"must hold at most {MAX_VALUES} elements", "more", fix)
        if len(self._path) > _MAX_DEPTH:
            raise InputError(
                self._where(), f"must not nest deeper than {_MAX_DEPTH}", "deep nesting", "export it again"
            )
        if len(self._path) == 1 and tag != "FinalDraft":
            raise InputError(
                self._where(), "must be a Final Draft document", f"<{tag[:40]}>", "export the script as .fdx"
            )
        if self._path == ["FinalDraft", "Content", "Paragraph"]:
            self._type = attributes.get("Type", "Action").lower()
            self._line, self._words = self._parser.CurrentLineNumber, []

    def _close(self, tag: str) -> None:
        if self._path == ["FinalDraft", "Content", "Paragraph"]:
            self._paragraph(" ".join("".join(self._words).split()))
        self._path.pop()

    def _data(self, words: str) -> None:
        # Only the paragraph's own runs of text: notes and summaries hold paragraphs of their own within it.
        if (
            len(self._path) == 4
            and self._path[:3] == ["FinalDraft", "Content", "Paragraph"]
            and self._path[3] == "Text"
        ):
            self._words.append(words)

    def _paragraph(self, text: str) -> None:
        kind = _KINDS.get(self._type)
        if kind == "speech":
            # A name, what is said and how are one speech.
            if self._type in ("character", "singing", "lyrics") or not self._cue:
                self.elements.append(Element("speech", text, self._line))
            self._cue = True
            return
        self._cue = False
        if kind is not None and text:
            self.elements.append(Element(kind, text, self._line))
