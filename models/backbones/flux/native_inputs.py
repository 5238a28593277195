"""What comes into native interleaved sampling: frames, captions, settings, checked and laid out.

Tensors and dictionaries only; ComfyUI itself is not imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....core.errors import InputError
from ....memory.frame_memory import ContextFrame
from ...layouts.pairs import PairLayout, PairSettings, token_size
from .native_checks import Conditioning, check_shared, only_entry, real_caption

__all__ = ["DEFAULTS", "Caption", "lay_out", "negative_captions", "positive_captions"]


DEFAULTS = PairSettings()


@dataclass(frozen=True)
class Caption:
    """One frame's caption: tokens [b, T, D], pooled text [b, D'] or None, and all else its CONDITIONING says."""

    tokens: Tensor
    pooled: Tensor | None
    entry: dict[str, Any]


def positive_captions(
    params: Any, prompts: Sequence[Conditioning], context: Sequence[ContextFrame[Conditioning]]
) -> list[Caption]:
    """The captions of all frames, new ones first.

    Args:
        params: the model's `FluxParams`.
        prompts: of the new frames; hooks, schedules and strength of the first count for all.
        context: the earlier frames.

    Raises:
        InputError: a conditioning that cannot take part, or one of another width.
    """
    texts = {f"prompts[{i}]": text for i, text in enumerate(prompts)}
    texts |= {f"context[{i}].text": frame.text for i, frame in enumerate(context)}
    return _captions(params, texts)


def negative_captions(params: Any, new: Sequence[Caption], negative: Sequence[Conditioning] | None) -> list[Caption]:
    """The new frames' captions in the negative: one for all, one for each, or (None) zeros.

    Raises:
        InputError: another number of them, and as `positive_captions`.
    """
    if negative is None:
        zeros = [None if c.pooled is None else torch.zeros_like(c.pooled) for c in new]
        return [Caption(torch.zeros_like(c.tokens), z, c.entry) for c, z in zip(new, zeros, strict=True)]
    if len(negative) not in (1, len(new)):
        rule = f"must be one caption, or {len(new)}: one for each new frame"
        raise InputError("negative", rule, len(negative), "give one for all")
    return _captions(params, {f"negative[{i}]": text for i, text in enumerate(negative)}) * (len(new) // len(negative))


def _captions(params: Any, texts: dict[str, Conditioning]) -> list[Caption]:
    captions: list[Caption] = []
    for field, conditioning in texts.items():
        tokens, entry = only_entry(field, conditioning)
        tokens = real_caption(field, tokens, entry)
        if tokens.shape[-1] != params.context_in_dim:
            rule = f"must be {params.context_in_dim} wide, as the model reads it"
            fix = "encode it with the text encoders of this model"
            raise InputError(field, rule, tuple(tokens.shape), fix)
        pooled = entry.get("pooled_output")
        if params.vec_in_dim is None:
            pooled = None
        elif pooled is None:  # as the stock model does
            pooled = torch.zeros(tokens.shape[0], params.vec_in_dim)
        captions.append(Caption(tokens, pooled, entry))
        check_shared(field, entry, captions[0].entry)
    return captions


def lay_out(
    prompts: Sequence[Conditioning],
    latents: Sequence[Tensor],
    context: Sequence[ContextFrame[Conditioning]],
    settings: PairSettings,
) -> tuple[list[Tensor], PairLayout]:
    """All frames as [B, C, h, w], new ones first, and their layout.

    Raises:
        InputError: numbers, sizes or batches that do not fit, or settings out of range.
    """
    if not prompts:
        raise InputError("prompts", "at least one new frame is needed", 0, "give one caption per new frame")
    if len(latents) != len(prompts):
        raise InputError("latents", f"must be {len(prompts)}, one for each prompt", len(latents), "give one for each")
    frames = [image_latent(f"latents[{i}]", latent) for i, latent in enumerate(latents)]
    rows = frames[0].shape[0]
    for i, earlier in enumerate(context):
        frame = image_latent(f"context[{i}].latent", earlier.latent)
        if frame.shape[0] not in (1, rows):
            fix = "give one picture, or as many as new frames in the batch"
            raise InputError(f"context[{i}].latent", f"must have 1 or {rows} rows", tuple(frame.shape), fix)
        frames.append(frame.expand(rows, -1, -1, -1))
    if len({frame.shape[:2] for frame in frames}) > 1:
        seen = [tuple(frame.shape) for frame in frames]
        raise InputError("latents", "must agree in batch and channels", seen, "encode all frames with the model's VAE")
    sizes = tuple(token_size(frame) for frame in frames)
    return frames, PairLayout(sizes, len(prompts), settings.mode, settings.context_noise, settings.cache)


def image_latent(field: str, latent: Tensor) -> Tensor:
    """[B, C, h, w], also from a video VAE's [B, C, 1, h, w].

    Raises:
        InputError: a video, or odd sides.
    """
    if latent.ndim == 5 and latent.shape[2] == 1:
        latent = latent[:, :, 0]
    if latent.ndim != 4:
        fix = "encode single pictures"
        raise InputError(field, "must be the latent of pictures, [B, C, h, w]", tuple(latent.shape), fix)
    if latent.shape[-2] % 2 or latent.shape[-1] % 2:
        fix = "use pictures whose sides are multiples of 16 pixels"
        raise InputError(field, "height and width must be even", tuple(latent.shape), fix)
    return latent
