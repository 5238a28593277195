"""The sampler defaults of a studio file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ..core.errors import InputError
from ..core.validation import to_input_error
from ..memory.golden_mem import Level
from ..memory.memory_pack import Aspect, MemoryPack, PackingKind
from ..memory.retrieval import Retrieval
from ..story.stages import MAX_WINDOW
from .layouts.chunks import Method, VideoSettings
from .layouts.pair_cache import CachePrecision
from .layouts.pairs import check_noise
from .layouts.start_end import GuidanceAgainst, PairLayoutName
from .layouts.upscale import Interpolation, Mode, UpscaleSettings

__all__ = ["Defaults", "KeyframeDefaults", "PairDefaults", "Strict", "Unit", "UpscaleDefaults", "VideoDefaults"]

Unit = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


def _template(prompt: str) -> str:
    if unknown := [word for word in re.findall(r"\{\w*\}", prompt) if word not in PROMPT_WORDS]:
        raise InputError("", f"may hold {', '.join(PROMPT_WORDS)}", unknown[0], "write other braces differently")
    if "{text}" not in prompt:
        raise InputError("", "must hold {text}, the shot", prompt, "write e.g. {text}")
    return prompt


def _noise(value: Any) -> Any:
    """A number, or two as a range."""
    noise = tuple(value) if isinstance(value, list) else value
    check_noise(noise, "")
    return noise


class Strict(BaseModel):
    """A section of a studio file: no unknown fields, no guessed types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class KeyframeDefaults(Strict):
    """How keyframes are sampled where nothing else is asked for (Captain Cinema §3.2, Table 3).

    Attributes:
        steps: solver steps.
        shift: of the noise schedule; null takes `flow.dynamic_shift` of one frame's size.
        guidance: distilled guidance, for models that take it.
        context_noise: t of context frames, 0…1, or [low, high]: every frame draws its own.
        mode: causal (context cached) or full.
        groups, images, first_tier: GoldenMem's tiers, images per tier, and the first tier's size.
        retrieval: clip, text or recency.
        cfg, negative: classifier-free guidance, 1 is off, and the prompt that it leads away from; null zeroes it.
        sampler: euler, heun or dpmpp_2m.
        sigmas: noise levels of one's own, from 1 to 0, in place of steps and shift.
        level: pixel or latent: where remembered frames are shrunk.
        window: keyframes that are made together.
        cache: what keys and values of the context are kept in: model (its own precision), bf16 or fp8.
    """

    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    shift: Annotated[float | None, Field(gt=0, le=100, allow_inf_nan=False)] = 1.0
    guidance: Annotated[float | None, Field(ge=0, le=100, allow_inf_nan=False)] = None
    context_noise: Annotated[float | tuple[float, float], Field(examples=[0.1]), BeforeValidator(_noise)] = 0.1
    mode: Literal["causal", "full"] = "causal"
    groups: Annotated[int, Field(ge=1, le=16)] = 3
    images: Annotated[int, Field(ge=1, le=256)] = 4
    first_tier: Annotated[int, Field(ge=0, le=16)] = 1
    retrieval: Retrieval = "clip"
    cfg: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 1.0
    negative: Annotated[str | None, Field(max_length=4000)] = None
    sampler: Literal["euler", "heun", "dpmpp_2m"] = "euler"
    sigmas: Annotated[list[Unit] | None, Field(min_length=2, max_length=1001, examples=[[1, 0.9, 0.6, 0]])] = None
    level: Level = "pixel"
    window: Annotated[int, Field(ge=1, le=MAX_WINDOW)] = 1
    cache: CachePrecision = "model"

    @model_validator(mode="after")
    def _check(self) -> KeyframeDefaults:
        if self.negative is not None and self.cfg == 1:
            raise InputError("negative", "matters only with guidance", self.negative, "set cfg to e.g. 3, or remove it")
        return self

    def changed(self, values: Mapping[str, Any]) -> KeyframeDefaults:
        """The same with other values for some fields; InputError names what cannot be."""
        try:
            return type(self).model_validate({**self.model_dump(), **values})
        except ValidationError as error:
            raise to_input_error(error, lambda location: KeyframeDefaults, {}, "") from None

    @property
    def unset(self) -> set[str]:
        """Of the settings that films made before there was such a setting cannot have had: those at their defaults.

        What a film was made from leaves them out, so that older run folders can be resumed.
        """
        fields = type(self).model_fields
        return {name for name in YOUNGER if getattr(self, name) == fields[name].default}


YOUNGER = ("cfg", "negative", "sampler", "sigmas", "level", "window", "cache")
"""Fields of `KeyframeDefaults` that came after the first films."""


class VideoDefaults(Strict):
    """How video is sampled where nothing else is asked for (SmartDirector §3.2; Text2Story §4.1). A
    backbone has values of its own where the file is silent, and refuses what it has no use for (its `spec.py`).

    Attributes:
        steps, shift: Euler steps and schedule shift.
        guidance: classifier-free guidance; 1 is off.
        guidance_low: the low-noise expert's, where it differs.
        negative: the negative prompt.
        method: multi_chunk, or a variant for comparison.
        boundary: t at which the high-noise expert hands over.
        text_length: fill prompts up with zeros to this many tokens.
    """

    steps: Annotated[int, Field(ge=1, le=1000)] = 30
    shift: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = 5.0
    guidance: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 1.0
    guidance_low: Annotated[float | None, Field(ge=0, le=100, allow_inf_nan=False)] = None
    negative: Annotated[str, Field(max_length=4000)] = ""
    method: Method = "multi_chunk"
    boundary: Unit = 0.875
    text_length: Annotated[int | None, Field(ge=8, le=4096)] = None

    @property
    def sampling(self) -> VideoSettings:
        """As samplers take them."""
        both = self.guidance if self.guidance_low is None else (self.guidance, self.guidance_low)
        return VideoSettings(self.steps, self.shift, both, self.method, self.text_length)


PROMPT_WORDS = ("{text}", "{seconds}", "{frames}")
"""What a prompt template may hold besides plain text."""


class PairDefaults(Strict):
    """How start and end frames are sampled where nothing else is asked for (STAGE §4.1).

    Attributes:
        steps: Euler steps.
        shift: of the noise schedule; null takes `flow.dynamic_shift` of one frame's size.
        last_level: the last noise level that the model sees, to which the schedule is stretched; null leaves it.
        guidance: classifier-free guidance; 1 is off.
        guidance_against: what it leads away from: text (an empty prompt), memory (the same prompt that remembers
            nothing) or both.
        rescale: give the guided velocity of each token the norm of the prompt's.
        layout: stacked (as published) or sequence.
        joint: denoise both frames together; false makes each on its own, for comparison.
        packing, pyramid, aspect, level, limit, area: the memory pack, see `MemoryPack`.
        rank_by: how earlier frames are ranked: clip (by the shot's text), image (by the previous end frame) or recency.
        prompt: what the text encoder reads: {text}, and, for models that were trained with them, the shot's length as
            {seconds} and {frames}.
        system_prompt, drop_tokens: of the text encoder; null takes its own.
    """

    steps: Annotated[int, Field(ge=1, le=1000)] = 40
    shift: Annotated[float | None, Field(gt=0, le=100, allow_inf_nan=False)] = None
    last_level: Annotated[float | None, Field(gt=0, lt=1, allow_inf_nan=False)] = None
    guidance: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 1.0
    rescale: bool = True
    layout: PairLayoutName = "stacked"
    joint: bool = True
    packing: PackingKind = "canvas"
    pyramid: bool = False
    aspect: Aspect = "squeeze"
    level: Level = "latent"
    limit: Annotated[int | None, Field(ge=1, le=4096)] = None
    area: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    rank_by: Literal["clip", "image", "recency"] = "clip"
    prompt: Annotated[str, Field(max_length=4000), AfterValidator(_template)] = "{text}"
    system_prompt: Annotated[str | None, Field(max_length=8000)] = None
    drop_tokens: Annotated[int | None, Field(ge=0, le=4096)] = None
    guidance_against: GuidanceAgainst = "text"

    @model_validator(mode="after")
    def _check(self) -> PairDefaults:
        if self.guidance_against != "text" and self.guidance == 1:
            fix = "set guidance to e.g. 2, or remove it"
            raise InputError("guidance_against", "matters only with guidance", self.guidance_against, fix)
        return self

    @property
    def unset(self) -> set[str]:
        """As `KeyframeDefaults.unset`."""
        younger = type(self).model_fields["guidance_against"]
        return {"guidance_against"} if self.guidance_against == younger.default else set()

    @property
    def pack(self) -> MemoryPack:
        """As the memory takes it."""
        return MemoryPack(self.packing, self.pyramid, self.aspect, self.level, self.limit, self.area)

    def told(self, text: str, seconds: float, frames: int) -> str:
        """The prompt of a shot that shows `text`."""
        values = zip(PROMPT_WORDS, (text, f"{seconds:.6g}", str(frames)), strict=True)
        found = dict(values)
        return re.sub(r"\{(?:text|seconds|frames)\}", lambda word: found[word[0]], self.prompt)


class UpscaleDefaults(Strict):
    """How clips are upscaled where nothing else is asked for (SmartDirector §3.3).

    Attributes:
        steps, shift: Euler steps and schedule shift.
        mode: bridge, or training_free for a model that was not trained to upscale.
        start_noise: noise where the bridge starts; the paper has none.
        strength: noise level at which training_free starts.
        near: latent frames on each side that a latent frame attends to, besides the nearest keyframes; null:
            all.
        text_length: fill the prompt up with zeros to this many tokens.
        interpolation: how latents come to the large size.
        prompt: what the model reads where a clip has no text of its own.
        window: frames that are made at once.
        overlap: frames that successive windows share, and that are blended.
        tile: longest side, in pixels of the source, of the tiles that frames are made in; null: whole frames.
        tile_overlap: pixels of the source that neighbouring tiles share.
        colour_cell: side, in pixels of the source, of the cells whose mean colour is kept.
        hold: where the source changes by no more than this, in 1/255, what is made of it is kept; 0: every frame as it
            comes.
    """

    steps: Annotated[int, Field(ge=1, le=1000)] = 4
    shift: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = 1.0
    mode: Mode = "bridge"
    start_noise: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 0.0
    strength: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.4
    near: Annotated[int | None, Field(ge=0, le=4096)] = None
    text_length: Annotated[int | None, Field(ge=8, le=4096)] = None
    interpolation: Interpolation = "bilinear"
    prompt: Annotated[str, Field(max_length=4000)] = ""
    window: Annotated[int, Field(ge=1, le=100_000)] = 81
    overlap: Annotated[int, Field(ge=0, le=10_000)] = 8
    tile: Annotated[int | None, Field(ge=16, le=16384)] = None
    tile_overlap: Annotated[int, Field(ge=0, le=4096)] = 64
    colour_cell: Annotated[int, Field(ge=1, le=1024)] = 8
    hold: Annotated[float, Field(ge=0, le=16, allow_inf_nan=False)] = 2.0

    @model_validator(mode="after")
    def _check(self) -> UpscaleDefaults:
        if 3 * self.overlap > self.window:
            rule, fix = f"must be at most a third of window ({self.window})", f"use at most {self.window // 3}"
            raise InputError("overlap", rule, self.overlap, fix)
        if self.tile is not None and 2 * self.tile_overlap > self.tile:
            rule, fix = f"must be at most half of tile ({self.tile})", f"use at most {self.tile // 2}"
            raise InputError("tile_overlap", rule, self.tile_overlap, fix)
        return self

    @property
    def sampling(self) -> UpscaleSettings:
        """As samplers take them."""
        return UpscaleSettings(
            self.steps,
            self.shift,
            self.mode,
            self.start_noise,
            self.strength,
            self.near,
            self.text_length,
            self.interpolation,
        )


class Defaults(Strict):
    """Sampler defaults per stage."""

    keyframe: KeyframeDefaults = KeyframeDefaults()
    video: VideoDefaults = VideoDefaults()
    pair: PairDefaults = PairDefaults()
    upscale: UpscaleDefaults = UpscaleDefaults()
