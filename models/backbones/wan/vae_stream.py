"""diffusers' Wan VAE run on one part of a video after the other, as if on all of it at once.

The network is causal: every convolution keeps the two frames before the part that it sees. diffusers does the same
inside one call, but takes and returns whole videos; these give the same numbers, and memory does not grow with length.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, patchify, unpatchify
from torch import Tensor, nn

__all__ = ["WanStreamDecoder", "WanStreamEncoder"]


class WanStreamDecoder:
    """Decodes one causal chunk; `z` has gone through `post_quant_conv`."""

    def __init__(self, model: AutoencoderKLWan) -> None:
        _awake(model)
        self._model = model
        self._past: list[Any] = _no_past(model.decoder)
        self._first = True

    def __call__(self, z: Tensor) -> Tensor:
        """The next latents `[B, C, f, h, w]` → pixels `[B, 3, t, H, W]` in −1…1, fp32: 4 of each, 1 of the first."""
        parts = []
        for latent in z.split(1, 2):
            x = self._model.decoder(latent, feat_cache=self._past, feat_idx=[0], first_chunk=self._first)
            self._first = False
            if self._model.config.patch_size is not None:
                x = unpatchify(x, patch_size=self._model.config.patch_size)
            parts.append(x.clamp(-1, 1).float())
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def park(self) -> None:
        """Move the past to the host's memory; the layers fetch it from there."""
        self._past = [past.cpu() if isinstance(past, Tensor) else past for past in self._past]


class WanStreamEncoder:
    """Encodes one causal chunk: first its first frame, then always four."""

    def __init__(self, model: AutoencoderKLWan) -> None:
        _awake(model)
        self._model = model
        self._past: list[Any] = _no_past(model.encoder)
        self._parts: list[Tensor] = []

    def __call__(self, x: Tensor) -> None:
        """Take in the next frames `[B, 3, t, H, W]` in −1…1."""
        if self._model.config.patch_size is not None:
            x = patchify(x, patch_size=self._model.config.patch_size)
        self._parts.append(self._model.encoder(x, feat_cache=self._past, feat_idx=[0]))

    def finish(self) -> Tensor:
        """The posterior's mode of what was taken in, `[B, C, f, h, w]`, fp32."""
        moments = self._model.quant_conv(torch.cat(self._parts, 2))
        return moments.chunk(2, dim=1)[0].float()


def _no_past(network: nn.Module) -> list[Any]:
    return [None] * sum(isinstance(layer, WanCausalConv3d) for layer in network.modules())


def _awake(model: AutoencoderKLWan) -> None:
    """Have a model that accelerate offloads brought to its device, as its own `encode` and `decode` do."""
    hook = getattr(model, "_hf_hook", None)
    if hook is not None and hasattr(hook, "pre_forward"):
        hook.pre_forward(model)
