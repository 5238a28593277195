"""Noise levels of super-resolution, for both hosts: without diffusers, which ComfyUI lacks."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.layouts.upscale import UpscaleSettings
from .flow import flow_sigmas

__all__ = ["upscale_sigmas"]


def upscale_sigmas(settings: UpscaleSettings) -> Tensor:
    """Levels t, `[steps + 1]`: from 1 for the bridge, from `strength` where noise is taken away, to 0."""
    if settings.mode == "bridge" or settings.strength == 1:
        return flow_sigmas(settings.steps, settings.shift)
    s, top = settings.shift, settings.strength
    start = top / (s - (s - 1) * top)  # whose shifted level is `strength`
    t = torch.linspace(start, 0, settings.steps + 1, dtype=torch.float64)
    flow_sigmas(settings.steps, s)  # for its checks
    return (s * t / (1 + (s - 1) * t)).float()
