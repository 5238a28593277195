"""Ids for shots that have none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["number_shots"]


def number_shots(shots: list[Any]) -> list[Any]:
    """The shots (plain mappings), each without an ``id`` given s01, s02, … by its position.

    A number that another shot has as its own id gets a ``b`` behind it. What is no mapping is passed on as it is.
    """
    missing = [isinstance(shot, Mapping) and shot.get("id") is None for shot in shots]
    if not any(missing):
        return shots
    given = (shot.get("id") for shot in shots if isinstance(shot, Mapping))
    taken = {name.lower() for name in given if isinstance(name, str)}
    numbered = []
    for i, (shot, none) in enumerate(zip(shots, missing, strict=True)):
        if none:
            name = f"s{i + 1:02d}"
            shot = {**shot, "id": f"{name}b" if name in taken else name}
        numbered.append(shot)
    return numbered
