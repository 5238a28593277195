"""The texts that the agents tell a language model, from `prompts.yaml`."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from ..core.yaml_text import read_yaml
from .messages import Message

__all__ = ["PROMPTS_FILE", "messages_for", "without_control"]

PROMPTS_FILE = Path(__file__).with_name("prompts.yaml")

_CONTROL = re.compile(r"(<)(?=\||/?s>|/?think>|(?:start|end)_of_turn>|\w*(?:turn|channel)\|>)", re.IGNORECASE)


@cache
def _prompts() -> dict[str, Any]:
    data, _ = read_yaml(PROMPTS_FILE.read_text("utf-8"), PROMPTS_FILE.name)
    return dict(data)


def without_control(text: str) -> str:
    """A text in which nothing is a control token of a chat template, so that it cannot speak for somebody else."""
    return _CONTROL.sub(r"\1 ", text)


def messages_for(agent: str, facts: dict[str, Any], **values: Any) -> list[Message]:
    """The talk that asks an agent: its system text and one message of the user.

    Args:
        agent: ``director`` or ``refiner``.
        facts: the same as data, see `Message`.
        values: what the texts name in braces.
    """
    texts = _prompts()[agent]
    values = {name: without_control(str(value)) for name, value in values.items()}
    system, user = (str(texts[role]).format(**values).strip() for role in ("system", "user"))
    return [Message("system", system), Message("user", user, {"agent": agent, **facts})]
