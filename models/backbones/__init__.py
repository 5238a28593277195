"""The registry of backbones: a line for each. What else there is to know about one is in its folder's `spec.py`."""

from __future__ import annotations

from ...core.errors import InputError
from ..io.kinds import listed
from .flux.spec import FLUX_1
from .mochi.spec import MOCHI_1
from .qwen_image.spec import QWEN_IMAGE
from .spec import Backbone, Native, NativeModel, Task, VaeKind
from .wan.spec import WAN_2

__all__ = [
    "BACKBONES",
    "DEFAULT_KEYFRAME",
    "DEFAULT_VIDEO",
    "Backbone",
    "Native",
    "NativeModel",
    "Task",
    "VaeKind",
    "find_backbone",
    "find_vae",
    "kinds_for",
    "vaes",
]

BACKBONES: tuple[Backbone, ...] = (FLUX_1, WAN_2, MOCHI_1, QWEN_IMAGE)

DEFAULT_KEYFRAME, DEFAULT_VIDEO = FLUX_1.kind, WAN_2.kind
"""What a studio's `keyframe` and `video` are where its file names no kind."""


def find_backbone(kind: str) -> Backbone:
    """The backbone of a kind. Raises InputError if there is none."""
    for backbone in BACKBONES:
        if backbone.kind == kind:
            return backbone
    kinds = [backbone.kind for backbone in BACKBONES]
    raise InputError("kind", f"must be {listed(kinds)}", kind, "choose one of them")


def kinds_for(*tasks: Task) -> list[str]:
    """Kinds of the backbones that can do one of these tasks."""
    return [backbone.kind for backbone in BACKBONES if backbone.tasks & set(tasks)]


def vaes() -> list[VaeKind]:
    """The VAEs of all backbones, each once."""
    return list({backbone.vae.kind: backbone.vae for backbone in BACKBONES}.values())


def find_vae(kind: str) -> VaeKind:
    """The VAE of a kind. Raises InputError if there is none."""
    for vae in vaes():
        if vae.kind == kind:
            return vae
    raise InputError("kind", f"must be {listed([vae.kind for vae in vaes()])}", kind, "choose one of them")
