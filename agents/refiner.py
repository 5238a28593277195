"""The Shot Refiner Agent (STAGE §4.3, Eq. 9): R_i = G(D_i, C_i, F_i^S, F_i^E), the prompt of a shot's video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.limits import MAX_TEXT
from ..story.shot import Camera
from ..story.storyboard import Storyboard
from .answers import one_line
from .client import AnswerSchema, BadAnswer, Client
from .prompts import messages_for

__all__ = ["ShotBrief", "refine", "shot_brief"]

MAX_PROMPT = MAX_TEXT


@dataclass(frozen=True)
class ShotBrief:
    """What the storyboard says of one shot.

    Attributes:
        prompt: the shot's caption with ``<Name>`` tags, the looks of everybody in it told.
        query: the same with looks in the place of names: what an off-the-shelf video model reads.
        camera: C_i.
        seconds: the shot's length, C_i's, too.
    """

    prompt: str
    query: str
    camera: Camera
    seconds: float


def shot_brief(storyboard: Storyboard, position: int) -> ShotBrief:
    """The brief of the shot at a position (from 0) of a storyboard."""
    shot = storyboard.shots[position]
    caption = storyboard.caption(shot, set())
    return ShotBrief(caption.prompt, caption.query, shot.camera, shot.timeline(storyboard.fps).length.seconds)


def refine(client: Client, shot: ShotBrief, start: Any, end: Any) -> str:
    """Write the full prompt of a shot's video from its words and both its frames.

    Args:
        client: who answers; one that sees, or `rules`, which repeats the shot's caption.
        shot: D_i and C_i.
        start, end: F_i^S and F_i^E, [3, H, W] in 0…1.

    Returns:
        R_i, one line.

    Raises:
        InputError: frames that are no pictures, or no usable answer within the client's time.
    """
    camera = shot.camera
    messages = messages_for(
        "refiner", {"caption": shot.prompt}, description=shot.query, scale=camera.scale, angle=camera.angle,
        movement=camera.movement, seconds=f"{shot.seconds:g}",
    )  # fmt: skip
    return client.ask(messages, _SCHEMA, [start, end])


def _read(data: Any, last: bool) -> str:
    if not isinstance(data, Mapping):
        raise BadAnswer("the answer must be an object with reasoning and prompt")
    fields = {str(key).strip().lower(): value for key, value in data.items()}
    prompt = one_line(
        next((fields[name] for name in ("prompt", "video prompt", "video_prompt") if name in fields), None)
    )
    if not prompt:
        raise BadAnswer("prompt: there is none")
    if len(prompt) > MAX_PROMPT:
        if not last:
            raise BadAnswer(f"prompt: at most {MAX_PROMPT} characters, there are {len(prompt)}")
        prompt = prompt[:MAX_PROMPT].rsplit(" ", 1)[0]
    return prompt


_SCHEMA: AnswerSchema[str] = AnswerSchema(
    "prompt",
    {
        "type": "object",
        "properties": {
            "reasoning": {"type": "string", "maxLength": 1500},
            "prompt": {"type": "string", "maxLength": 1200},
        },
        "required": ["reasoning", "prompt"],
        "additionalProperties": False,
    },
    _read,
)
