"""The models that a studio file names, each with its file, precision and whatever else is said of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, Field

from ..core.errors import InputError, closest
from ..story.storyboard import Side
from ..story.timeline import MAX_FPS, MIN_FPS
from .backbones import DEFAULT_VIDEO, kinds_for, vaes
from .encoders.kinds import TEXT_KINDS
from .studio_defaults import Strict

__all__ = [
    "DTYPES",
    "ClipPart",
    "LoraPart",
    "MadeFor",
    "PairPart",
    "PairTextPart",
    "Part",
    "Precision",
    "RecogniserPart",
    "TextPart",
    "TransformerPart",
    "UpscalePart",
    "VaePart",
    "VideoPart",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Precision = Literal["float32", "bfloat16", "float16"]


def _kind(known: Callable[[], list[str]]) -> AfterValidator:
    """One of the kinds that are known when it is checked."""

    def check(value: str) -> str:
        kinds = known()
        if value not in kinds:
            near = closest(value, kinds)
            fix = f"did you mean `{near}`?" if near else "use one of these"
            raise InputError("", f"must be one of {', '.join(kinds)}", value, fix)
        return value

    return AfterValidator(check)


VaeKindName = Annotated[str, _kind(lambda: [vae.kind for vae in vaes()])]
VideoKindName = Annotated[str, _kind(lambda: kinds_for("video", "text_to_video"))]
UpscaleKindName = Annotated[str, _kind(lambda: kinds_for("upscale"))]
PairKindName = Annotated[str, _kind(lambda: kinds_for("pairs"))]
TextKindName = Annotated[str, _kind(lambda: sorted(text.kind for text in TEXT_KINDS if not text.sees))]
PairTextKindName = Annotated[str, _kind(lambda: sorted(text.kind for text in TEXT_KINDS if text.sees))]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Name = Annotated[str, Field(min_length=1, max_length=1024, examples=["vae/ae.safetensors"])]
Files = Annotated[list[Name], Field(min_length=1, examples=["vae/ae.safetensors"]), BeforeValidator(_listed)]
"""One file, or alternatives of which the first that exists is taken."""
Strength = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]


def _switch(value: Any) -> Any:
    """YAML reads a bare `on` or `off` as true or false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class Part(Strict):
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
        kind: the VAE of a backbone, such as `wan_vae`.
        tiling: whether frames larger than a tile go through in tiles: on, off, or auto: very large ones, and all for
            which memory is short.
        tile: side of a tile in pixels.
    """

    kind: VaeKindName
    tiling: Annotated[Literal["auto", "on", "off"], BeforeValidator(_switch)] = "auto"
    tile: Annotated[int, Field(ge=64, le=8192)] = 512

    @property
    def unset(self) -> set[str]:
        """The younger settings that are at their defaults, as for `KeyframeDefaults`."""
        fields = type(self).model_fields
        return {name for name in ("tiling", "tile") if getattr(self, name) == fields[name].default}


class LoraPart(Strict):
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
        low: the low-noise expert of a model with two; then this is its high-noise partner.
        kind: a backbone that makes video, through keyframes or from text alone.
    """

    low: TransformerPart | None = None
    kind: VideoKindName = DEFAULT_VIDEO

    @property
    def unset(self) -> set[str]:
        """The younger settings that are at their defaults, as for `KeyframeDefaults`."""
        return {"kind"} if self.kind == DEFAULT_VIDEO else set()


class TextPart(Part):
    """A text encoder.

    Attributes:
        kind: t5 or umt5; which, depends on the backbone.
        tokenizer: tokenizer.json, spiece.model or their folder; without it the weight file carries it.
        clip_text: CLIP text model whose pooled state the keyframe model takes; without it the studio's `clip` pools.
        fp8, offload: as for transformers.
        max_length: longest prompt in tokens; without it 512, or what the backbone's pipeline takes.
        pad_to: pad as the published pipeline does; without it captions keep their real lengths.
    """

    kind: TextKindName
    tokenizer: Files | None = None
    clip_text: Part | None = None
    fp8: bool = False
    offload: Literal["none", "leaf"] = "none"
    max_length: Annotated[int, Field(ge=8, le=4096)] = 512
    pad_to: Annotated[int | None, Field(ge=8, le=4096)] = None


class PairPart(TransformerPart):
    """A transformer that makes start and end frames (STAGE).

    Attributes:
        kind: a backbone that can.
    """

    kind: PairKindName = "qwen_image"


class PairTextPart(Part):
    """Its encoder, which reads a shot's text and sees the end of the shot before it.

    Attributes:
        kind: which, depends on the backbone.
        tokenizer: tokenizer.json or a folder with one; without it the weight file carries it.
        fp8, offload: as for transformers.
        loras: adapters; a file with a half for the transformer is named there, too.
    """

    kind: PairTextKindName = "qwen_vl"
    tokenizer: Files | None = None
    fp8: bool = False
    offload: Literal["none", "leaf"] = "none"
    loras: Annotated[list[LoraPart], Field(max_length=32)] = []


class UpscalePart(TransformerPart):
    """A transformer that upscales clips, with or without keyframes (SmartDirector §3.3).

    Attributes:
        kind: a backbone that can.
        scale: the factor that it was trained for; without it, any.
    """

    kind: UpscaleKindName = DEFAULT_VIDEO
    scale: Annotated[float | None, Field(gt=1, le=16, allow_inf_nan=False, examples=[2])] = None


class ClipPart(Part):
    """An open_clip model for retrieval and scores."""


class RecogniserPart(Part):
    """A recogniser of pictures, by which a keyframe is compared with its caption; it always computes in float32."""

    config: None = None
    dtype: None = None


class MadeFor(Strict):
    """What a studio's models were trained on; other films are made, and told about.

    Attributes:
        size: [width, height] in pixels.
        fps: frames per second.
        frames: of a clip.
    """

    size: Annotated[tuple[Side, Side] | None, Field(strict=False, examples=[[160, 80]])] = None
    fps: Annotated[float | None, Field(ge=MIN_FPS, le=MAX_FPS, examples=[8])] = None
    frames: Annotated[int | None, Field(ge=1, le=4801, examples=[17])] = None
