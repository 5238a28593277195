"""What a backbone says about itself; everything else asks this description instead of the backbone's name.

A backbone is a folder with a `spec.py`, and a line in the registry (`models/backbones/__init__.py`). Descriptions are
data: classes are named by where they stand (`at`) and imported when asked for, since ComfyUI has no diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..io.kinds import ModelKind

if TYPE_CHECKING:
    from diffusers import ModelMixin

    from ..cost import Cost
    from ..encoders.vae import ImageCodec
    from .native_adapter import NativeKeyframes, NativeUpscale, NativeVideo
    from .native_pairs import NativePairs

__all__ = ["Backbone", "Native", "NativeModel", "Task", "VaeKind", "at"]


def at(path: str) -> Callable[[], Any]:
    """What ``module:name`` names, imported when asked for; a module with a leading dot lies beside this one."""
    module, _, name = path.partition(":")
    return lambda: attrgetter(name)(import_module(module, __package__))


Task = Literal["keyframes", "video", "text_to_video", "pairs", "upscale"]
"""What a backbone can do: interleaved keyframes, video through keyframes, video from text alone, start-end pairs,
super-resolution with keyframes."""


class Native(NamedTuple):
    """What a model was made for: (height, width) in pixels, frames of a video, frames per second."""

    size: tuple[int, int]
    frames: int
    fps: int


@dataclass(frozen=True)
class VaeKind(ModelKind):
    """A kind of VAE.

    Attributes:
        network: gives diffusers' class.
        codec: gives the class that wraps it.
        optional: modules that a file may lack; they are None then.
        renamed: arguments of other classes with the same tensors, by this class's names for them.
    """

    network: Callable[[], type[ModelMixin]]
    codec: Callable[[], type[ImageCodec]]
    optional: tuple[str, ...] = ()
    renamed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def described(self) -> str:
        """The kind in words, such as ``a Mini VAE``."""
        return f"a {self.title} VAE"


@dataclass(frozen=True)
class NativeModel:
    """A backbone as a MODEL of ComfyUI's.

    Attributes:
        network: name of ComfyUI's class of the network.
        text_width: where in an object of that class the width of prompt tokens stands.
        keyframes: gives what samples interleaved keyframes on such a MODEL; None: nothing does.
        video: the same for video through keyframes.
        pairs: the same for start and end frames.
        upscale: the same for super-resolution of video.
    """

    network: str
    text_width: str
    keyframes: Callable[[], NativeKeyframes] | None = None
    video: Callable[[], NativeVideo] | None = None
    pairs: Callable[[], NativePairs] | None = None
    upscale: Callable[[], NativeUpscale] | None = None


@dataclass(frozen=True)
class Backbone(ModelKind):
    """A kind of transformer.

    Attributes:
        network: gives diffusers' class.
        adopt: gives the function that turns a loaded model of that class into the one that samplers use.
        vae: its VAE.
        text: kinds of text encoders that it can be trained with.
        tasks: what it can do.
        temporal_stride: a video has temporal_stride · n + 1 frames.
        natives: what the models of this class were made for, by their VAE's channels; the first is for unknown ones.
        bounded: longer videos than the native ones are refused, and other sizes and rates remarked upon.
        pooled_text: takes a pooled text beside the token states.
        masked_text: never sees padding; the others see zeros.
        experts: may be two models, one for high noise and one for low.
        min_steps: fewest solver steps.
        schedule: gives the function from a number of steps to noise levels 1 … 0; None takes flow matching's, shifted.
        defaults: what a studio's sections are taken to say where its file is silent, by section.
        unused_settings: fields of the studio's `defaults.video` that have no meaning for it.
        native_model: what it is in ComfyUI; None: nothing there needs to know.
        cost: gives the function that counts the FLOPs of one forward pass; None: nobody has worked it out.
    """

    network: Callable[[], type[ModelMixin]]
    vae: VaeKind
    text: tuple[str, ...]
    tasks: frozenset[Task]
    adopt: Callable[[], Callable[[Any], Any]] = lambda: lambda model: model
    temporal_stride: int = 1
    natives: Mapping[int, Native] = field(default_factory=dict)
    bounded: bool = False
    pooled_text: bool = False
    masked_text: bool = False
    experts: bool = False
    min_steps: int = 1
    schedule: Callable[[], Callable[[int], list[float]]] | None = None
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unused_settings: frozenset[str] = frozenset()
    native_model: NativeModel | None = None
    cost: Callable[[], Callable[..., Cost]] | None = None

    @property
    def described(self) -> str:
        """The kind in words, such as ``a Mini transformer``."""
        return f"a {self.title} transformer"

    def native(self, channels: int | None = None) -> Native:
        """What a model was made for whose VAE has so many channels."""
        first, *_ = self.natives.values()
        return first if channels is None else self.natives.get(channels, first)
