"""Inputs that several video nodes have, word for word."""

from __future__ import annotations

from comfy_api.latest import io

from ..comfyui.images import FITS

__all__ = ["fit_input", "keyframes_input", "valid_sampler"]


def keyframes_input() -> io.Image.Input:
    """The pictures of a timeline's keyframes."""
    return io.Image.Input(
        "keyframes",
        optional=True,
        tooltip="One picture for each keyframe of the timeline, in order of time, all of one size in multiples of 16 "
        "pixels (32 for Wan 2.2 5B). Default: none, for a timeline without keyframes.",
    )


def fit_input() -> io.Combo.Input:
    """How keyframes of another size are brought to the video's."""
    return io.Combo.Input(
        "fit",
        options=FITS,
        default=FITS[0],
        optional=True,
        tooltip="Keyframes of another size than the video's. cover (default): scaled to fill it and cropped, as the "
        "storyboard's pictures. contain: whole, on black. off: refused.",
    )


def valid_sampler(sampler_name: str | None) -> bool | str:
    """True, or what is wrong with a sampler's name, for `validate_inputs`; None comes along a link."""
    from ..comfyui.video import sampler_fault

    fault = None if sampler_name is None else sampler_fault(sampler_name)
    return True if fault is None else str(fault)
