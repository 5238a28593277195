"""Recipes of super-resolution as YAML files, checked field by field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from ...core.errors import InputError
from ...core.validation import Lines, to_input_error
from ...media.degradations import Degradations
from ...models.studio_defaults import Strict
from ...story.timeline import TEMPORAL_STRIDE
from ..pairs.recipe_file import Name, Share, Size, TrainingPart, read_mapping
from .bridge import KeyframeChances

__all__ = ["STAGE", "UpscaleRecipeFile", "read_recipe"]

STAGE = "sr"
"""What `stage` says in a recipe of super-resolution."""


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Range = Annotated[tuple[float, float], BeforeValidator(_pair)]


class VideosPart(Strict):
    """What is learned from.

    Attributes:
        folder: of videos of one shot each, relative to the recipe's file; a text file of a video's name is its caption.
        size: [width, height] of large frames.
        frames: of a clip, 4n + 1.
        scales: factors between small and large.
        keyframes: at most so many in a clip.
        captions: share of clips that have their caption.
        hold_out: share of the videos that is kept for tests.
    """

    folder: Name
    size: Size
    frames: Annotated[int, Field(ge=1, le=4096)] = 33
    scales: Annotated[list[Annotated[float, Field(gt=1, le=16)]], Field(min_length=1, max_length=16)] = [2.0]
    keyframes: Annotated[int, Field(ge=0, le=64)] = 3
    captions: Share = 0.5
    hold_out: Share = 0.01


class ChancesPart(Strict):
    """How many of a clip's keyframes are given, see `KeyframeChances`; `start`: share of clips at t = 1."""

    all: Share = 0.55
    none: Share = 0.2
    start: Share = 0.5

    @property
    def keyframes(self) -> KeyframeChances:
        """As the draws take them."""
        return KeyframeChances(self.all, self.none)


class DegradationsPart(Strict):
    """What happens to the small frames, see `Degradations`."""

    orders: Annotated[int, Field(ge=1, le=4)] = 2
    chance: Share = 0.8
    blur: Range = (0.2, 2.0)
    resize: Range = (0.4, 1.3)
    noise: Range = (0.0, 0.06)
    shot_noise: Range = (0.0, 0.01)
    jpeg: Range = (30, 95)
    quantiser: Range = (18, 36)

    @property
    def drawn(self) -> Degradations:
        """As `degrade` takes them. Raises InputError for ranges that cannot be."""
        return Degradations(**self.model_dump())


class LoraPart(Strict):
    """Adapters: rank 0 trains all weights."""

    rank: Annotated[int, Field(ge=0, le=1024)] = 0


class UpscaleRecipeFile(Strict):
    """A training of super-resolution (SmartDirector §3.3, §4.1).

    Attributes:
        name: of checkpoint and weights.
        stage: sr.
        studio: name or YAML file of the studio whose `upscale`, `upscale_text` and `upscale_vae` are trained or used.
        data, degradations, chances, lora, training: see there.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$", examples=["sr_full"])]
    stage: Literal["sr"]
    studio: Name
    data: VideosPart
    degradations: DegradationsPart = DegradationsPart()
    chances: ChancesPart = ChancesPart()
    lora: LoraPart = LoraPart()
    training: TrainingPart


def read_recipe(path: Path) -> UpscaleRecipeFile:
    """Read and check a recipe.

    Raises:
        InputError: no such file, broken YAML, or a fault in it (field, line, rule, value, fix).
    """
    data, lines = read_mapping(path)
    return _parse(data, lines, path.name)


def _parse(data: Mapping[str, Any], lines: Lines, source: str) -> UpscaleRecipeFile:
    try:
        recipe = UpscaleRecipeFile.model_validate(dict(data))
    except ValidationError as error:
        raise to_input_error(error, _model_at, lines, source) from None
    try:
        _ = recipe.degradations.drawn
    except InputError as error:
        raise InputError(f"degradations.{error.field}", error.rule, error.value, error.fix, source) from None
    if (recipe.data.frames - 1) % TEMPORAL_STRIDE:
        fix = f"use {recipe.data.frames - (recipe.data.frames - 1) % TEMPORAL_STRIDE}"
        raise InputError("data.frames", f"must be {TEMPORAL_STRIDE}n + 1", recipe.data.frames, fix, source)
    return recipe


def _model_at(location: tuple[Any, ...]) -> type[BaseModel] | None:
    models: dict[tuple[Any, ...], type[BaseModel]] = {
        (): UpscaleRecipeFile, ("data",): VideosPart, ("degradations",): DegradationsPart, ("chances",): ChancesPart,
        ("lora",): LoraPart, ("training",): TrainingPart,
    }  # fmt: skip
    return models.get(tuple(part for part in location if not isinstance(part, int)))
