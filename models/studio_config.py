"""The studio file: which model files make up a studio, in what precision, and with which sampler defaults (YAML)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ..core.errors import InputError
from ..core.validation import Lines, to_input_error
from ..core.yaml_text import read_yaml
from ..memory.retrieval import Retrieval
from ..story.stages import MAX_WINDOW
from ..story.storyboard import Side
from ..story.timeline import MAX_FPS, MIN_FPS
from .layouts.pairs import check_noise
from .studio_names import built_in, find_studio

__all__ = [
    "ClipPart",
    "Defaults",
    "KeyframeDefaults",
    "LoraPart",
    "MadeFor",
    "Part",
    "RecogniserPart",
    "StudioConfig",
    "TextPart",
    "TransformerPart",
    "VaePart",
    "VideoDefaults",
    "VideoPart",
    "WAN_ONLY",
    "built_in",
    "find_studio",
    "read_studio",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MAX_BYTES = 1 << 16

Precision = Literal["float32", "bfloat16", "float16"]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Name = Annotated[str, Field(min_length=1, max_length=1024, examples=["vae/ae.safetensors"])]
Files = Annotated[list[Name], Field(min_length=1, examples=["vae/ae.safetensors"]), BeforeValidator(_listed)]
"""One file, or alternatives of which the first that exists is taken."""
Strength = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]
Unit = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


def _noise(value: Any) -> Any:
    """A number, or two as a range."""
    noise = tuple(value) if isinstance(value, list) else value
    check_noise(noise, "")
    return noise


def _switch(value: Any) -> Any:
    """YAML reads a bare `on` or `off` as true or false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Part(_Strict):
    """One model.

    Attributes:
        file: safetensors file or diffusers folder; a list gives alternatives.
        config: the model's arguments: a JSON file or folder (for `clip` also a name that open_clip knows); without it
            they come from the file.
        dtype: precision, instead of the studio's.
    """

    file: Files
    config: Annotated[str | None, Field(examples=["configs/model.json"])] = None
    dtype: Precision | None = None


class VaePart(Part):
    """A VAE.

    Attributes:
        kind: Wan's video VAE (`wan_vae`, 2.1 or 2.2), Mochi's (`mochi_vae`), or Flux's image VAE (`flux_vae`).
        tiling: whether frames larger than a tile go through in tiles: on, off, or auto: very large ones, and all for
            which memory is short.
        tile: side of a tile in pixels.
    """

    kind: Literal["wan_vae", "mochi_vae", "flux_vae"]
    tiling: Annotated[Literal["auto", "on", "off"], BeforeValidator(_switch)] = "auto"
    tile: Annotated[int, Field(ge=64, le=8192)] = 512

    @property
    def unset(self) -> set[str]:
        """The younger settings that are at their defaults, as for `KeyframeDefaults`."""
        fields = type(self).model_fields
        return {name for name in ("tiling", "tile") if getattr(self, name) == fields[name].default}


class LoraPart(_Strict):
    """A LoRA file and the strength to use it at (1 is what it was trained at)."""

    file: Files
    strength: Strength = 1.0


class TransformerPart(Part):
    """A transformer.

    Attributes:
        fp8: keep the blocks' weights in fp8.
        offload: where weights wait while they are not used on a GPU: none, block (whole blocks in memory), leaf.
        offload_folder: let them wait on disk here instead.
        loras: adapters.
        compile: compile the repeated blocks.
    """

    fp8: bool = False
    offload: Literal["none", "block", "leaf"] = "none"
    offload_folder: str | None = None
    loras: Annotated[list[LoraPart], Field(max_length=32)] = []
    compile: bool = False


class VideoPart(TransformerPart):
    """A video transformer.

    Attributes:
        low: the low-noise expert of Wan 2.2 A14B; then this is its high-noise partner.
        kind: wan (makes video through keyframes, and from text) or mochi (from text alone).
    """

    low: TransformerPart | None = None
    kind: Literal["wan", "mochi"] = "wan"


class TextPart(Part):
    """A text encoder.

    Attributes:
        kind: t5 (Flux, Mochi) or umt5 (Wan).
        tokenizer: tokenizer.json, spiece.model or their folder; without it the weight file carries it.
        clip_text: CLIP text model whose pooled state Flux takes; without it the studio's `clip` pools.
        fp8, offload: as for transformers.
        max_length: longest prompt in tokens; without it 512, and 256 for Mochi.
        pad_to: pad as the published pipeline does; without it captions keep their real lengths.
    """

    kind: Literal["t5", "umt5"]
    tokenizer: Files | None = None
    clip_text: Part | None = None
    fp8: bool = False
    offload: Literal["none", "leaf"] = "none"
    max_length: Annotated[int, Field(ge=8, le=4096)] = 512
    pad_to: Annotated[int | None, Field(ge=8, le=4096)] = None


class ClipPart(Part):
    """An open_clip model for retrieval and scores."""


class RecogniserPart(Part):
    """A recogniser of pictures, by which a keyframe is compared with its caption; it always computes in float32."""

    config: None = None
    dtype: None = None


class MadeFor(_Strict):
    """What a studio's models were trained on; other films are made, and told about.

    Attributes:
        size: [width, height] in pixels.
        fps: frames per second.
    """

    size: Annotated[tuple[Side, Side] | None, Field(strict=False, examples=[[160, 80]])] = None
    fps: Annotated[float | None, Field(ge=MIN_FPS, le=MAX_FPS, examples=[8])] = None


class KeyframeDefaults(_Strict):
    """How keyframes are sampled where nothing else is asked for (Captain Cinema §3.2, Table 3).

    Attributes:
        steps: solver steps.
        shift: of the noise schedule; null takes FLUX.1's own from one frame's size.
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
    level: Literal["pixel", "latent"] = "pixel"
    window: Annotated[int, Field(ge=1, le=MAX_WINDOW)] = 1

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

        What a film was made from leaves them out, so that older run folders can be gone on with.
        """
        fields = type(self).model_fields
        return {name for name in YOUNGER if getattr(self, name) == fields[name].default}


YOUNGER = ("cfg", "negative", "sampler", "sigmas", "level", "window")
"""Fields of `KeyframeDefaults` that came after the first films."""


class VideoDefaults(_Strict):
    """How video is sampled where nothing else is asked for (SmartDirector §3.2; Mochi: Text2Story §4.1).

    Attributes:
        steps, shift: Euler steps and schedule shift; without them Mochi takes 64 steps of its own schedule.
        guidance: classifier-free guidance; 1 is off; without it Mochi takes 4.5.
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
    method: Literal["multi_chunk", "latent_replacement", "replication"] = "multi_chunk"
    boundary: Unit = 0.875
    text_length: Annotated[int | None, Field(ge=8, le=4096)] = None


WAN_ONLY = frozenset({"shift", "guidance_low", "method", "boundary", "text_length"})
"""What of `VideoDefaults` Mochi has no use for."""
_MOCHI_VIDEO = {"steps": 64, "guidance": 4.5}
_MOCHI_TEXT = {"max_length": 256}


class Defaults(_Strict):
    """Sampler defaults per stage."""

    keyframe: KeyframeDefaults = KeyframeDefaults()
    video: VideoDefaults = VideoDefaults()


class StudioConfig(_Strict):
    """A studio.

    Attributes:
        name: what the studio is called.
        description: one line for people.
        models_dir: where files are looked for, relative to the studio file; without it the environment tells
            (ANCHORSHOT_MODELS, COMFYUI_PATH).
        dtype: precision of all models that set none of their own.
        keyframe: the keyframe transformer (Flux class); a studio without one tells stories from text alone.
        video: the video transformer (Wan class, or Mochi).
        image_vae: the keyframes' VAE; without it the video VAE takes single frames.
        video_vae: the video's VAE.
        keyframe_text: the keyframe model's text encoder; goes with it.
        video_text: the video model's; without it the keyframe model's serves both.
        clip: for retrieval.
        recogniser: reads what keyframes show, for `anchorshot film --check`.
        defaults: sampler defaults.
        made_for: the size and rate that its models were trained on; without it, any.
    """

    name: Annotated[str, Field(min_length=1, max_length=100, examples=["my-studio"])]
    description: Annotated[str, Field(max_length=400)] = ""
    models_dir: Annotated[str | None, Field(min_length=1, examples=["../models"])] = None
    dtype: Precision = "float32"
    keyframe: TransformerPart | None = None
    video: VideoPart
    image_vae: VaePart | None = None
    video_vae: VaePart
    keyframe_text: TextPart | None = None
    video_text: TextPart | None = None
    clip: ClipPart
    recogniser: RecogniserPart | None = None
    defaults: Defaults = Defaults()
    made_for: MadeFor = MadeFor()

    @model_validator(mode="before")
    @classmethod
    def _mochi_defaults(cls, data: Any) -> Any:
        """Mochi's own settings where the file sets none; what is no mapping is left for the checks to name."""
        video = data.get("video") if isinstance(data, dict) else None
        if not isinstance(video, dict) or video.get("kind") != "mochi":
            return data
        defaults = data.get("defaults", {})
        if isinstance(defaults, dict):
            defaults = {**defaults, "video": _below(defaults.get("video", {}), _MOCHI_VIDEO)}
        text = {"video_text": _below(data["video_text"], _MOCHI_TEXT)} if "video_text" in data else {}
        return {**data, **text, "defaults": defaults}

    @model_validator(mode="after")
    def _parts_fit(self) -> StudioConfig:
        mochi = self.video.kind == "mochi"
        if self.video_vae.kind != f"{self.video.kind}_vae":
            use = f"use {self.video.kind}_vae"
            raise InputError(
                "video_vae.kind", f"the video VAE is {'Mochi' if mochi else 'Wan'}'s", self.video_vae.kind, use
            )
        if mochi:
            self._check_mochi()
        if self.keyframe is not None and self.keyframe_text is None:
            raise InputError("keyframe_text", "goes with keyframe", None, "name the keyframe model's text encoder")
        if self.keyframe is None and self.keyframe_text is not None:
            fix = "add the keyframe model, or call the encoder video_text"
            raise InputError("keyframe_text", "goes with keyframe", "no keyframe", fix)
        if self.keyframe_text is None and self.video_text is None:
            raise InputError("video_text", "is required without keyframe_text", None, "name the text encoder")
        if self.video_text is not None and self.video_text.clip_text is not None:
            raise InputError("video_text.clip_text", "Wan takes no pooled text", "a model", "remove it")
        return self

    def _check_mochi(self) -> None:
        """Refuse what Mochi, which makes video from text alone, cannot use."""
        text = self.video_text
        for field, part in (
            ("keyframe", self.keyframe), ("keyframe_text", self.keyframe_text), ("image_vae", self.image_vae),
            ("video.low", self.video.low), ("video_text.clip_text", text and text.clip_text),
            ("video_text.pad_to", text and text.pad_to),
        ):  # fmt: skip
            if part is not None:
                rules = {
                    "video.low": "Mochi is one model",
                    "video_text.clip_text": "Mochi takes no pooled text",
                    "video_text.pad_to": "Mochi never reads padding",
                }
                seen = part if isinstance(part, int) else "a model"
                raise InputError(field, rules.get(field, "Mochi makes video from text alone"), seen, "remove it")
        if text is not None and text.kind != "t5":
            raise InputError("video_text.kind", "Mochi reads T5", text.kind, "use t5")
        video = self.defaults.video
        for name in sorted(WAN_ONLY & video.model_fields_set):
            fix = "remove it; Mochi has a schedule of its own"
            raise InputError(f"defaults.video.{name}", "is for Wan", getattr(video, name), fix)
        if video.steps < 2:
            raise InputError("defaults.video.steps", "must be at least 2 for Mochi", video.steps, "64 are the paper's")

    @classmethod
    def parse(cls, data: Any, lines: Lines | None = None, source: str = "") -> StudioConfig:
        """Check plain data; InputError names the field (and the line of `source`), the rule, the value and the fix."""
        if not isinstance(data, Mapping):
            raise InputError(
                source or "studio",
                "must be a mapping (field: value)",
                type(data).__name__,
                "write name, keyframe, video, …; see docs/studios.md",
            )
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise to_input_error(error, _model_at, lines or {}, source) from None


def _below(given: Any, own: Mapping[str, Any]) -> Any:
    return {**own, **given} if isinstance(given, dict) else given


def _model_at(location: tuple[Any, ...]) -> type[BaseModel] | None:
    """The model whose fields stand at a location of a studio file."""
    models: dict[tuple[str, ...], type[BaseModel]] = {
        (): StudioConfig, ("keyframe",): TransformerPart, ("video",): VideoPart, ("video", "low"): TransformerPart,
        ("image_vae",): VaePart, ("video_vae",): VaePart, ("keyframe_text",): TextPart, ("video_text",): TextPart,
        ("keyframe_text", "clip_text"): Part, ("clip",): ClipPart, ("defaults",): Defaults,
        ("recogniser",): RecogniserPart, ("made_for",): MadeFor,
        ("defaults", "keyframe"): KeyframeDefaults, ("defaults", "video"): VideoDefaults,
    }  # fmt: skip
    names = tuple(str(part) for part in location if not isinstance(part, int))
    return LoraPart if names and names[-1] == "loras" and names != location else models.get(names)


def read_studio(name_or_path: str | os.PathLike[str]) -> tuple[StudioConfig, Path]:
    """Read and check a studio; returns it and its file.

    Raises:
        InputError: no such studio, an unreadable or broken file, or a fault in it (field, line, rule, fix).
    """
    path = find_studio(name_or_path)
    try:
        raw = path.read_bytes()[: MAX_BYTES + 1]
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise InputError("studio", "file must be readable", str(path), f"check it ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError("studio", "must be UTF-8 text", path.name, "save the file as UTF-8") from error
    if len(raw) > MAX_BYTES or not text.strip():
        raise InputError("studio", f"must be a YAML file of 1 to {MAX_BYTES} bytes", path.name, "give a studio file")
    data, lines = read_yaml(text, path.name)
    return StudioConfig.parse(data, lines, path.name), path
