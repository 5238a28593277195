"""From a MODEL of ComfyUI's to what its backbone offers there.

Classes are told by their names; ComfyUI itself is not imported.
"""

from __future__ import annotations

from typing import Any

from ...core.errors import InputError
from ..io.kinds import listed
from . import BACKBONES, NativeModel
from .native_adapter import NativeKeyframes, NativeUpscale, NativeVideo
from .native_pairs import NativePairs

__all__ = ["backbone_of", "keyframes_on", "pairs_on", "upscale_on", "video_on"]


def backbone_of(model: Any) -> NativeModel | None:
    """What the backbone of a MODEL is in ComfyUI; None for a class that no backbone names."""
    classes = {kind.__name__ for kind in type(getattr(model.model, "diffusion_model", None)).__mro__}
    natives = [backbone.native_model for backbone in BACKBONES if backbone.native_model is not None]
    return next((native for native in natives if native.network in classes), None)


def keyframes_on(model: Any) -> NativeKeyframes:
    """What samples interleaved keyframes on a MODEL. Raises InputError if nothing does."""
    native = backbone_of(model)
    if native is None or native.keyframes is None:
        raise _unfit(model, "keyframes")
    return native.keyframes()


def video_on(model: Any) -> NativeVideo:
    """What samples video through keyframes on a MODEL. Raises InputError if nothing does."""
    native = backbone_of(model)
    if native is None or native.video is None:
        raise _unfit(model, "video")
    return native.video()


def pairs_on(model: Any) -> NativePairs:
    """What samples start-end pairs on a MODEL. Raises InputError if nothing does."""
    native = backbone_of(model)
    if native is None or native.pairs is None:
        raise _unfit(model, "pairs")
    return native.pairs()


def upscale_on(model: Any) -> NativeUpscale:
    """What upscales video through keyframes on a MODEL. Raises InputError if nothing does."""
    native = backbone_of(model)
    if native is None or native.upscale is None:
        raise _unfit(model, "upscale")
    return native.upscale()


def _unfit(model: Any, slot: str) -> InputError:
    """The error for a MODEL whose backbone leaves a slot of `NativeModel` empty; it names the ones that fill it."""
    titles = [
        backbone.title
        for backbone in BACKBONES
        if backbone.native_model is not None and getattr(backbone.native_model, slot) is not None
    ]
    base, network = model.model, getattr(model.model, "diffusion_model", None)
    seen = type(base).__name__ if network is None else f"{type(base).__name__} ({type(network).__name__})"
    return InputError("model", f"must be a {listed(titles)} model", seen, "load one, or the pocket model")
