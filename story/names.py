"""``<Name>`` tags in prompts: the identity tags of Captain Cinema (Appendix B).

A tag stands for a character. In the film's first mention the description follows the tag, so that the model learns who
is who; later the tag alone must do. For retrieval the description replaces the tag: names mean nothing to CLIP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..core.errors import InputError, closest
from ..core.limits import MAX_TAGS

__all__ = ["Character", "check_tags", "expand_names", "find_names", "introduce_names"]

_TAG = re.compile(r"<([^<>]*)>")
_TAG_POSSESSIVE = re.compile(r"<([^<>]*)>('s\b|’s\b)?")
_UNCLOSED = re.compile(r"<\s*[^\W\d_]")
_NEXT = re.compile(r"\s*(\S?)")


@dataclass(frozen=True)
class Character:
    """One member of the cast.

    Attributes:
        name: as in the ``<Name>`` tag.
        description: looks, e.g. ``a yellow square with a crown``.
        shots: ids of the shots it appears in, in film order.
    """

    name: str
    description: str
    shots: tuple[str, ...] = ()

    @property
    def tag(self) -> str:
        """``<Name>``."""
        return f"<{self.name}>"


def find_names(text: str) -> list[str]:
    """Names tagged in `text`, each once, in order of first mention."""
    return list(dict.fromkeys(m[1].strip() for m in _TAG.finditer(text)))


def check_tags(text: str, characters: Mapping[str, str], field: str) -> None:
    """Raise InputError when a tag in `text` is empty, unclosed or names nobody in `characters`, or has too many."""
    if (count := len(_TAG.findall(text))) > MAX_TAGS:
        raise InputError(field, f"must have at most {MAX_TAGS} <Name> tags", f"{count}", "split the shot in two")
    for name in find_names(text):
        if name in characters:
            continue
        near = closest(name, characters)
        if not characters:
            fix = f'add `{name or "Name"}: "what it looks like"` under characters'
        elif near:
            fix = f"did you mean <{near}>? Otherwise add it under characters"
        else:
            fix = f"add it under characters or use one of {', '.join(f'<{c}>' for c in list(characters)[:8])}"
        raise InputError(field, "has a <Name> tag that is not in characters", f"<{name}>", fix)
    rest = _TAG.sub(" ", text)
    if found := _UNCLOSED.search(rest):
        seen = rest[found.start() : found.start() + 20]
        raise InputError(field, "has a `<` that opens a name but no `>`", seen, "close the tag, e.g. <Mira>")


def expand_names(text: str, characters: Mapping[str, str]) -> str:
    """Return `text` with every ``<Name>`` replaced by its description; names not in `characters` stay as they are."""
    return _TAG.sub(lambda m: characters.get(m[1].strip(), m[0]), text)


def introduce_names(text: str, characters: Mapping[str, str], known: set[str]) -> str:
    """Return `text` with the description put after the first tag of every name that is not yet `known`.

    ``<Mira> waves.`` becomes ``<Mira>, a yellow square with a crown, waves.`` `known` gains the names introduced.
    """

    def tell(match: re.Match[str]) -> str:
        name, possessive = match[1].strip(), match[2] or ""
        if name in known or name not in characters:
            return f"<{name}>{possessive}"
        known.add(name)
        if possessive:  # a comma there would tear the owner from what is owned
            return f"<{name}>{possessive} ({characters[name]})"
        following = _NEXT.match(text, match.end())
        comma = "" if following is None or following[1] in tuple(".,;:!?)…") or not following[1] else ","
        return f"<{name}>, {characters[name]}{comma}"

    return _TAG_POSSESSIVE.sub(tell, text)
