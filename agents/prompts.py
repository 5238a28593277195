"""The texts that the agents tell a language model, from `prompts.yaml`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ..core.yaml_text import read_yaml
from .client import Message

__all__ = ["PROMPTS_FILE", "messages_for"]

PROMPTS_FILE = Path(__file__).with_name("prompts.yaml")


@cache
def _prompts() -> dict[str, Any]:
    data, _ = read_yaml(PROMPTS_FILE.read_text("utf-8"), PROMPTS_FILE.name)
    return dict(data)


def messages_for(agent: str, facts: dict[str, Any], **values: Any) -> list[Message]:
    """The talk that asks an agent: its system text and one message of the user.

    Args:
        agent: ``director`` or ``refiner``.
        facts: the same as data, see `Message`.
        values: what the texts name in braces.
    """
    texts = _prompts()[agent]
    system, user = (str(texts[role]).format(**values).strip() for role in ("system", "user"))
    return [Message("system", system), Message("user", user, {"agent": agent, **facts})]
