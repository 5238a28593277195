"""One shot of a storyboard: what is seen, how it is filmed, how long, and its keyframes."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ..core.errors import InputError
from ..core.limits import MAX_KEYFRAMES, MAX_TEXT
from .terms import Angle, Movement, Scale, fold_term
from .timeline import MAX_FRAMES, TEMPORAL_STRIDE, Time, Timeline

__all__ = ["DEFAULT_SECONDS", "IMAGE_SUFFIXES", "MAX_KEYFRAMES", "MAX_SEED", "Camera", "Id", "Keyframe", "Shot", "Text"]

DEFAULT_SECONDS = 2.125
MAX_SEED = 2**63 - 1
MAX_PATH = 1000  # no system takes longer ones in practice
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_NORMALISED = 4 * MAX_TEXT
_MARKS = 30  # as in Unicode's Stream-Safe Text Format (UAX #15)
_BROKEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # Unicode's categories Cc and Cs
_RESERVED = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}


def clean_text(value: Any) -> Any:
    """One line of composed Unicode; control characters and half characters are refused. Other types pass unchanged."""
    if not isinstance(value, str):
        return value
    text = " ".join(value.split())
    if len(text) > _NORMALISED:  # longer than any field may be, however it composes
        return text
    if not text.isascii():
        _check_marks(text)
        text = unicodedata.normalize("NFC", text)
    if bad := _BROKEN.search(text):
        seen = f"U+{ord(bad[0]):04X}"
        raise InputError("", "must not hold control characters or broken Unicode", seen, "delete that character")
    return text


def _check_marks(text: str) -> None:
    """Refuse piles of combining marks: Unicode's normalisation sorts each pile in quadratic time."""
    pile = 0
    for character in text:
        pile = pile + 1 if unicodedata.combining(character) else 0
        if pile > _MARKS:
            fix = "write the letter without them"
            raise InputError("", f"must not pile more than {_MARKS} marks on one letter", text[:20], fix)


def _check_id(value: str) -> str:
    if value.lower() in _RESERVED:
        raise InputError("", "must not be a device name of Windows, because folders carry it", value, "use e.g. s01")
    return value


def check_image_path(value: str) -> str:
    """Refuse what could point outside the storyboard's folder or is no picture; links are followed on loading."""
    fix = "put the picture in the storyboard's folder and write its relative path, e.g. images/mira.png"
    if not value or len(value) > MAX_PATH or _BROKEN.search(value):
        raise InputError("", "must be a relative file path", value, fix)
    if "\\" in value:
        raise InputError("", "must use / between folders", value, "write images/mira.png, not images\\mira.png")
    path, windows = PurePosixPath(value), PureWindowsPath(value)
    if path.is_absolute() or windows.drive or windows.root or ".." in path.parts or value.startswith("~"):
        raise InputError("", "must stay inside the storyboard's folder", value, fix)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise InputError("", f"must be a picture ({', '.join(IMAGE_SUFFIXES)})", value, "save the picture as PNG")
    return value


Text = Annotated[str, Field(max_length=MAX_TEXT), BeforeValidator(clean_text)]
Id = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_\-]{0,63}$", examples=["s01"]), AfterValidator(_check_id)
]  # fmt: skip


def _no_default(schema: dict[str, Any]) -> None:
    """Leave a default out of the published schema that no file may hold."""
    schema.pop("default", None)


class Strict(BaseModel):
    """Base of all parts of a storyboard: exact types, no unknown fields, no NaN or infinity, fields not reassigned."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Camera(Strict):
    """The shot's cinematic attributes (STAGE §4.1, C_i)."""

    scale: Annotated[Scale, BeforeValidator(fold_term)] = Field(
        default="wide shot", description="Shot scale: how much of the subject fills the frame."
    )
    angle: Annotated[Angle, BeforeValidator(fold_term)] = Field(
        default="eye level", description="Camera angle. `eye level` adds no words to the prompt."
    )
    movement: Annotated[Movement, BeforeValidator(fold_term)] = Field(
        default="static", description="Camera movement during the shot."
    )


class Keyframe(Strict):
    """A picture at a time of the shot: generated, or the user's own."""

    at: float = Field(
        ge=0,
        description="Seconds from the shot's start; snapped to the 4n+1 grid of the video VAE, by at most 2 frames.",
        examples=[1.0],
    )
    image: Annotated[str, AfterValidator(check_image_path)] | None = Field(
        default=None,
        description="Your own picture instead of a generated one: a path inside the storyboard's folder.",
        examples=["images/mira.png"],
    )
    text: Text | None = Field(
        default=None,
        description="What this keyframe shows, where it differs from the shot: stands for scene and action.",
        examples=["<Mira> has jumped over the fence."],
    )


class Shot(Strict):
    """One shot: a scene prompt and an action prompt (P1 and P2 of Text2Story), a camera, a length and keyframes."""

    id: Id = Field(
        default="",
        description="Unique name: letters, digits, - and _. Output files carry it. "
        "If left out, s01, s02, … by position.",
        json_schema_extra=_no_default,
    )
    place: Id | None = Field(default=None, description="A key of `places`; none if the scene text tells it.")
    scene: Text = Field(
        default="", description="What is seen; <Name> tags a character.", examples=["<Mira> stands on the left."]
    )
    action: Text = Field(default="", description="What happens.", examples=["<Pip> waves on the right."])
    camera: Camera = Field(default_factory=Camera)
    seconds: float | None = Field(
        default=None,
        gt=0,
        description=f"Length; snapped to the grid. {DEFAULT_SECONDS} when neither seconds nor frames is given.",
        examples=[DEFAULT_SECONDS],
    )
    frames: int | None = Field(
        default=None, ge=1, le=MAX_FRAMES, description="Length in frames instead of seconds: 4n+1.", examples=[17]
    )
    keyframes: list[Keyframe] = Field(
        default_factory=lambda: [Keyframe(at=0.0)],
        min_length=1,
        max_length=MAX_KEYFRAMES,
        description="In order of time, at least one frame apart.",
        examples=[[{"at": 0.0}]],
    )
    transition: Literal["cut", "blend", "match"] = Field(
        default="cut",
        description="How this shot joins the one before it. `match`: it begins with the frame that that one ends with "
        "(start and end frames; elsewhere a cut).",
    )
    seed: int | None = Field(
        default=None, ge=0, le=MAX_SEED, description="Fixes the shot's noise; else drawn from the film's.", examples=[7]
    )

    @model_validator(mode="before")
    @classmethod
    def _default_length(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("seconds") is None and data.get("frames") is None:
            return {**data, "seconds": DEFAULT_SECONDS}
        return data

    @model_validator(mode="after")
    def _check(self) -> Shot:
        if self.frames is not None and self.seconds is not None:
            raise InputError("frames", "cannot stand beside seconds", self.frames, "keep one of the two")
        if self.frames is not None and self.frames % TEMPORAL_STRIDE != 1:
            below = max(1, (self.frames - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1)
            rule = "must be 4n+1, because the video VAE turns 4n+1 frames into n+1 latents"
            raise InputError("frames", rule, self.frames, f"use {below} or {below + TEMPORAL_STRIDE}")
        if not self.id:
            raise InputError("id", "is required for a shot by itself", None, "write e.g. s01")
        if not self.scene and not self.action:
            raise InputError("scene", "must say what is seen (here or in action)", self.scene, "write a sentence")
        return self

    def timeline(self, fps: float, where: str = "") -> Timeline:
        """The shot's frames and keyframes on the 4n+1 grid at `fps` (see `Timeline.plan`).

        Raises:
            InputError: a keyframe outside the shot, out of order, or less than a frame after the one before.
        """
        times = [k.at for k in self.keyframes]
        if self.frames is not None:
            return Timeline.plan(fps, Time.from_frames(self.frames, fps), times, where=where, length_field="frames")
        return Timeline.plan(fps, self.seconds or DEFAULT_SECONDS, times, where=where)

    @property
    def joined(self) -> Literal["cut", "blend"]:
        """How its clip joins the one before it where shots are not made from start and end frames."""
        return "blend" if self.transition == "blend" else "cut"

    @property
    def texts(self) -> list[str]:
        """Everything that is said about what is seen: scene, action and the keyframes' own texts."""
        return [text for text in (self.scene, self.action, *(k.text for k in self.keyframes)) if text]

    def noise_seed(self, base: int = 0) -> int:
        """`seed` if given, else one drawn from `base` and the id: stable when other shots come or go."""
        if self.seed is not None:
            return self.seed
        return int.from_bytes(hashlib.sha256(f"{base}:{self.id}".encode()).digest()[:8], "big") & MAX_SEED
