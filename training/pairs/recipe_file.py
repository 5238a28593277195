"""Recipes as YAML files: what a training of pairs is told, checked field by field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from ...core.documents import read_bytes
from ...core.errors import InputError
from ...core.validation import Lines, to_input_error
from ...core.yaml_text import read_yaml
from ...models.studio_defaults import PairDefaults, Strict
from ..loop import LoopConfig
from .draws import Chances
from .recipes import Preferences, Times

__all__ = ["RecipeFile", "read_mapping", "read_recipe"]

_MAX_BYTES = 1 << 20

Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1, max_length=1024, examples=["shots.jsonl"])]
Side = Annotated[int, Field(ge=16, le=8192, multiple_of=16)]
Size = Annotated[tuple[Side, Side], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
Rank = Annotated[int, Field(ge=0, le=1024)]


class DataPart(Strict):
    """What is learned from.

    Attributes:
        file: a data set, see `records`; relative to the recipe's file.
        cache: folder of its encoded pictures, also relative.
        sizes: [width, height] in pixels; a shot is cut to the one whose aspect is nearest.
        hold_out: share of the movies that is kept for tests.
        inner: pictures kept between start and end of a shot.
        inset: frames left out at both ends of a clip.
        min_distance: of preferences: how much two inner frames must differ from start and end, as the mean squared
            difference of latents.
    """

    file: Name
    cache: Name = "cache"
    sizes: Annotated[list[Size], Field(min_length=1, max_length=64, examples=[[[1024, 576]]])]
    hold_out: Share = 0.01
    inner: Annotated[int, Field(ge=0, le=64)] = 8
    inset: Annotated[int, Field(ge=0, le=100)] = 2
    min_distance: Annotated[float, Field(ge=0, le=100)] = 0.1


class ChancesPart(Strict):
    """How often something is left out, see `Chances`."""

    text: Share = 0.1
    history: Share = 0.1
    memory: Share = 0.0
    picture: Share = 0.0
    memory_noise: Annotated[float, Field(ge=0, le=10)] = 0.0


class TimesPart(Strict):
    """Which noise levels are trained, see `Times`."""

    mean: Annotated[float, Field(ge=-10, le=10)] = 0.0
    std: Annotated[float, Field(gt=0, le=10)] = 1.0
    shift: Annotated[float, Field(gt=0, le=100)] = 1.0


class LoraPart(Strict):
    """The adapters.

    Attributes:
        rank: of the transformer's, and their alpha; 0 leaves it as it is.
        text_rank: of the text encoder's.
        start: LoRA files that become part of the weights first, such as the first stage's before the second; relative
            to the recipe's file.
    """

    rank: Rank = 64
    text_rank: Rank = 64
    start: Annotated[list[Name], Field(max_length=16)] = []

    @model_validator(mode="after")
    def _something(self) -> LoraPart:
        if not self.rank and not self.text_rank:
            raise InputError("rank", "must be at least 1 on one of the two models", 0, "use e.g. 64 and 64")
        return self


class PreferencesPart(Strict):
    """How preferences are learned, see `Preferences`."""

    beta: Annotated[float, Field(gt=0, le=1e6)] = 2000.0
    share_t: bool = True
    share_noise: bool = True


class TrainingPart(Strict):
    """How it is trained, see `LoopConfig`.

    Attributes:
        batch: shots of a step, over all processes.
        lr, warmup, final_lr, betas, weight_decay, clip, ema: of the optimizer, Adam without weight decay; final_lr
            1 keeps the rate.
        precision: bf16 (autocast) or no.
        checkpointing: compute the inside of blocks twice instead of keeping it in memory.
    """

    steps: Annotated[int, Field(ge=1, le=10**9)]
    batch: Annotated[int, Field(ge=1, le=4096)] = 8
    lr: Annotated[float, Field(gt=0, le=1)] = 1e-4
    warmup: Annotated[int, Field(ge=0, le=10**6)] = 500
    final_lr: Share = 1.0
    betas: Annotated[tuple[Share, Share], Field(strict=False)] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    clip: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["bf16", "no"] = "bf16"
    checkpointing: bool = True
    save_every: Annotated[int, Field(ge=1, le=10**9)] = 1000
    log_every: Annotated[int, Field(ge=1, le=10**9)] = 50
    seed: Annotated[int, Field(ge=0, le=2**62)] = 0

    @property
    def loop(self) -> LoopConfig:
        """As the loop takes it. CUDA graphs are for batches of one shape, which these are not."""
        values = self.model_dump(exclude={"batch", "checkpointing"})
        return LoopConfig(**values, graphs=False)


class RecipeFile(Strict):
    """A training of pairs (STAGE §4.2, §5.1).

    Attributes:
        name: of checkpoint and weights.
        stage: sft (flow matching) or dpo (preferences).
        studio: name or YAML file of the studio whose `pair`, `pair_text` and VAE are trained or used.
        data, chances, times, lora, training: see there.
        preferences: of the stage dpo.
        pair: settings in place of the studio's `defaults.pair`: memory pack, layout, prompt.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$", examples=["stage_sft"])]
    stage: Literal["sft", "dpo"]
    studio: Name
    data: DataPart
    chances: ChancesPart = ChancesPart()
    times: TimesPart = TimesPart()
    lora: LoraPart = LoraPart()
    preferences: PreferencesPart | None = None
    training: TrainingPart
    pair: dict[str, Any] = {}

    @model_validator(mode="after")
    def _preferences_fit(self) -> RecipeFile:
        if self.preferences is not None and self.stage == "sft":
            raise InputError("preferences", "is for the stage dpo", "sft", "remove it, or set stage: dpo")
        if self.stage == "dpo" and self.data.inner < 2:
            rule = "must be at least 2 for preferences: the loser is two of them"
            raise InputError("data.inner", rule, self.data.inner, "use e.g. 8")
        return self

    @property
    def draws(self) -> Chances:
        """What is left out, as the draws take it."""
        return Chances(**self.chances.model_dump())

    @property
    def levels(self) -> Times:
        """Noise levels, as the recipe takes them."""
        return Times(**self.times.model_dump())

    @property
    def preferred(self) -> Preferences | None:
        """Preferences, as the recipe takes them; None in the first stage."""
        if self.stage == "sft":
            return None
        return Preferences(**(self.preferences or PreferencesPart()).model_dump())

    def pairs(self, defaults: PairDefaults, source: str = "") -> PairDefaults:
        """A studio's `defaults.pair` with this recipe's changes.

        Raises:
            InputError: one of them cannot be.
        """
        try:
            return PairDefaults.model_validate({**defaults.model_dump(), **self.pair})
        except ValidationError as error:
            found = to_input_error(error, lambda location: PairDefaults, {}, source)
            raise InputError(f"pair.{found.field}", found.rule, found.value, found.fix, found.where) from None


def read_recipe(path: Path) -> RecipeFile:
    """Read and check a recipe.

    Raises:
        InputError: no such file, broken YAML, or a fault in it (field, line, rule, value, fix).
    """
    return _parse(*read_mapping(path), path.name)


def read_mapping(path: Path) -> tuple[Mapping[str, Any], Lines]:
    """A recipe's fields as they are, and their lines.

    Raises:
        InputError: no such file, or no mapping in YAML.
    """
    raw = read_bytes(path, "RECIPE", limit=_MAX_BYTES, what="recipe file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("RECIPE", "must be UTF-8 text", path.name, "save the file as UTF-8") from error
    data, lines = read_yaml(text, path.name)
    if not isinstance(data, Mapping):
        seen = "nothing" if data is None else type(data).__name__
        fix = "write name, stage, studio, data and training; see docs/training.md"
        raise InputError(path.name, "must be a mapping (field: value)", seen, fix)
    return data, lines


def _parse(data: Mapping[str, Any], lines: Lines, source: str) -> RecipeFile:
    try:
        return RecipeFile.model_validate(dict(data))
    except ValidationError as error:
        raise to_input_error(error, _model_at, lines, source) from None


def _model_at(location: tuple[Any, ...]) -> type[BaseModel] | None:
    models: dict[tuple[Any, ...], type[BaseModel]] = {
        (): RecipeFile, ("data",): DataPart, ("chances",): ChancesPart, ("times",): TimesPart, ("lora",): LoraPart,
        ("preferences",): PreferencesPart, ("training",): TrainingPart,
    }  # fmt: skip
    return models.get(tuple(part for part in location if not isinstance(part, int)))
