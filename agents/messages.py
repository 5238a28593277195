"""What is said to a language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Message"]


@dataclass(frozen=True)
class Message:
    """One turn of the talk.

    Attributes:
        role: who speaks.
        text: what is said.
        facts: the same as data, for a back end that reads no prose.
    """

    role: Literal["system", "user", "assistant"]
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False)
