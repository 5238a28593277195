"""The studio file: which model files make up a studio, in what precision, and with which sampler defaults (YAML)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from ..core.errors import InputError
from ..core.validation import Lines, to_input_error
from ..core.yaml_text import read_yaml
from . import backbones
from .backbones import DEFAULT_VIDEO, Backbone, find_backbone
from .encoders.kinds import find_text
from .io.kinds import listed
from .studio_defaults import Defaults, KeyframeDefaults, PairDefaults, Strict, UpscaleDefaults, VideoDefaults
from .studio_names import built_in, find_studio
from .studio_parts import (
    ClipPart,
    LoraPart,
    MadeFor,
    PairPart,
    PairTextPart,
    Part,
    Precision,
    RecogniserPart,
    TextPart,
    TransformerPart,
    UpscalePart,
    VaePart,
    VideoPart,
)

__all__ = [
    "ClipPart",
    "Defaults",
    "KeyframeDefaults",
    "LoraPart",
    "MadeFor",
    "PairDefaults",
    "PairPart",
    "PairTextPart",
    "Part",
    "RecogniserPart",
    "StudioConfig",
    "TextPart",
    "TransformerPart",
    "UpscaleDefaults",
    "UpscalePart",
    "VaePart",
    "VideoDefaults",
    "VideoPart",
    "built_in",
    "find_studio",
    "read_studio",
]

MAX_BYTES = 1 << 16


class StudioConfig(Strict):
    """A studio.

    Attributes:
        name: what the studio is called.
        description: one line for people.
        models_dir: where files are looked for, relative to the studio file; without it the environment tells
            (ANCHORSHOT_MODELS, COMFYUI_PATH).
        dtype: precision of all models that set none of their own.
        keyframe: the keyframe transformer; a studio without one tells stories from text alone.
        video: the video transformer.
        image_vae: the keyframes' VAE; without it the video VAE takes single frames.
        video_vae: the video's VAE.
        keyframe_text: the keyframe model's text encoder; goes with it.
        video_text: the video model's; without it the keyframe model's serves both.
        clip: for retrieval.
        recogniser: reads what keyframes show, for `anchorshot film --check`.
        pair: the transformer that makes start and end frames, for `anchorshot film --pairs`.
        pair_text: its text encoder; goes with it.
        pair_vae: its VAE; without it the keyframes'.
        upscale: the transformer that upscales clips.
        upscale_text: its text encoder; without it the video's.
        upscale_vae: its VAE; without it the video's.
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
    pair: PairPart | None = None
    pair_text: PairTextPart | None = None
    pair_vae: VaePart | None = None
    upscale: UpscalePart | None = None
    upscale_text: TextPart | None = None
    upscale_vae: VaePart | None = None
    defaults: Defaults = Defaults()
    made_for: MadeFor = MadeFor()

    @model_validator(mode="before")
    @classmethod
    def _backbone_defaults(cls, data: Any) -> Any:
        """The backbone's own settings where the file sets none; what is no mapping is left for the checks to name."""
        video = data.get("video") if isinstance(data, dict) else None
        kind = video.get("kind", DEFAULT_VIDEO) if isinstance(video, dict) else None
        for backbone in backbones.BACKBONES:
            for section, own in backbone.defaults.items() if backbone.kind == kind else ():
                if section in data or section.startswith("defaults."):
                    data = _filled(data, section.split("."), own)
        return data

    @model_validator(mode="after")
    def _parts_fit(self) -> StudioConfig:
        backbone = find_backbone(self.video.kind)
        if self.video_vae.kind != backbone.vae.kind:
            rule, fix = f"the video VAE is {backbone.title}'s", f"use {backbone.vae.kind}"
            raise InputError("video_vae.kind", rule, self.video_vae.kind, fix)
        self._check_used(backbone)
        if self.keyframe is not None and self.keyframe_text is None:
            raise InputError("keyframe_text", "goes with keyframe", None, "name the keyframe model's text encoder")
        if self.keyframe is None and self.keyframe_text is not None:
            fix = "add the keyframe model, or call the encoder video_text"
            raise InputError("keyframe_text", "goes with keyframe", "no keyframe", fix)
        if self.keyframe_text is None and self.video_text is None:
            raise InputError("video_text", "is required without keyframe_text", None, "name the text encoder")
        self._check_pair()
        self._check_upscale()
        return self

    def _check_pair(self) -> None:
        """The parts of a pair model belong together, and to a backbone."""
        if self.pair is None:
            for field in ("pair_text", "pair_vae"):
                if getattr(self, field) is not None:
                    raise InputError(field, "goes with pair", "no pair", "add the pair model, or remove it")
            return
        backbone = find_backbone(self.pair.kind)
        if self.pair_text is None:
            raise InputError("pair_text", "goes with pair", None, "name the pair model's text encoder")
        if self.pair_text.kind not in backbone.text:
            titles = listed([find_text(kind).title for kind in backbone.text])
            fix = f"use {listed(backbone.text)}"
            raise InputError("pair_text.kind", f"{backbone.title} reads {titles}", self.pair_text.kind, fix)
        vae = self.pair_vae or self.image_vae or self.video_vae
        if vae.kind != backbone.vae.kind:
            field = "pair_vae" if self.pair_vae is None else "pair_vae.kind"
            fix = f"name one of the kind {backbone.vae.kind}"
            raise InputError(field, f"must be {backbone.title}'s VAE", vae.kind, fix)

    def _check_upscale(self) -> None:
        """The parts of an upscaling model belong together, and to a backbone."""
        if self.upscale is None:
            for field in ("upscale_text", "upscale_vae"):
                if getattr(self, field) is not None:
                    raise InputError(field, "goes with upscale", "no upscale", "add the upscaling model, or remove it")
            return
        backbone = find_backbone(self.upscale.kind)
        text, vae = self.upscale_text or self.video_text or self.keyframe_text, self.upscale_vae or self.video_vae
        if text is not None and text.kind not in backbone.text:
            titles = listed([find_text(kind).title for kind in backbone.text])
            field = "upscale_text" if self.upscale_text is None else "upscale_text.kind"
            raise InputError(field, f"{backbone.title} reads {titles}", text.kind, f"name a {listed(backbone.text)}")
        if vae.kind != backbone.vae.kind:
            field = "upscale_vae" if self.upscale_vae is None else "upscale_vae.kind"
            fix = f"name one of the kind {backbone.vae.kind}"
            raise InputError(field, f"must be {backbone.title}'s VAE", vae.kind, fix)

    def _check_used(self, backbone: Backbone) -> None:
        """Refuse what the video's backbone has no use for."""
        title, text, video = backbone.title, self.video_text, self.defaults.video
        alone = None if "video" in backbone.tasks else f"{title} makes video from text alone"
        for field, part, rule in (
            ("keyframe", self.keyframe, alone),
            ("keyframe_text", self.keyframe_text, alone),
            ("image_vae", self.image_vae, alone),
            ("video.low", self.video.low, None if backbone.experts else f"{title} is one model"),
            (
                "video_text.clip_text",
                text and text.clip_text,
                None if backbone.pooled_text else f"{title} takes no pooled text",
            ),
            (
                "video_text.pad_to",
                text and text.pad_to,
                f"{title} never reads padding" if backbone.masked_text else None,
            ),
        ):
            if rule is not None and part is not None:
                raise InputError(field, rule, part if isinstance(part, int) else "a model", "remove it")
        if text is not None and text.kind not in backbone.text:
            titles = listed([find_text(kind).title for kind in backbone.text])
            raise InputError("video_text.kind", f"{title} reads {titles}", text.kind, f"use {listed(backbone.text)}")
        for name in sorted(backbone.unused_settings & video.model_fields_set):
            users = [other.title for other in backbones.BACKBONES if _uses(other, name)]
            fix = f"remove it; {title} has no use for it"
            raise InputError(f"defaults.video.{name}", f"is for {listed(users, 'and')}", getattr(video, name), fix)
        if video.steps < backbone.min_steps:
            rule = f"must be at least {backbone.min_steps} for {title}"
            raise InputError("defaults.video.steps", rule, video.steps, "use more")

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


def _filled(data: Any, path: list[str], own: Mapping[str, Any]) -> Any:
    """`data` with `own` below what its section at `path` says."""
    if not isinstance(data, dict):
        return data
    name, *inner = path
    section = data.get(name, {})
    if inner:
        return {**data, name: _filled(section, inner, own)}
    return {**data, name: {**own, **section}} if isinstance(section, dict) else data


def _uses(backbone: Backbone, setting: str) -> bool:
    """Whether a setting of video means something to a backbone."""
    return bool(backbone.tasks & {"video", "text_to_video"}) and setting not in backbone.unused_settings


def _model_at(location: tuple[Any, ...]) -> type[BaseModel] | None:
    """The model whose fields stand at a location of a studio file."""
    models: dict[tuple[str, ...], type[BaseModel]] = {
        (): StudioConfig, ("keyframe",): TransformerPart, ("video",): VideoPart, ("video", "low"): TransformerPart,
        ("image_vae",): VaePart, ("video_vae",): VaePart, ("keyframe_text",): TextPart, ("video_text",): TextPart,
        ("keyframe_text", "clip_text"): Part, ("clip",): ClipPart, ("defaults",): Defaults,
        ("recogniser",): RecogniserPart, ("made_for",): MadeFor,
        ("defaults", "keyframe"): KeyframeDefaults, ("defaults", "video"): VideoDefaults, ("pair",): PairPart,
        ("pair_text",): PairTextPart, ("pair_vae",): VaePart, ("defaults", "pair"): PairDefaults,
        ("upscale",): UpscalePart, ("upscale_text",): TextPart, ("upscale_text", "clip_text"): Part,
        ("upscale_vae",): VaePart, ("defaults", "upscale"): UpscaleDefaults,
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
