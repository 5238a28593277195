"""A shot's text and the frame before it through ComfyUI's Qwen2.5-VL: STAGE's U_i = E_mu(F^E, D, C) (§4.1).

The conversation is put together here, not by core's templates, and the picture comes in the size that the encoder
looks at: so tokens and pixels are those of the command line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ..core.errors import InputError
from ..models.encoders.qwen_vl_prompt import QwenPrompting, picture_pixels

__all__ = ["encode_shot", "prompting_of"]

NAME = "qwen25_7b"
"""What core calls the text model of a Qwen-Image CLIP."""


def prompting_of(clip: Any, system_prompt: str | None = None, drop_tokens: int | None = None) -> QwenPrompting:
    """How texts are put to a CLIP: as its file says, or as Qwen-Image-Edit does; arguments win where they are given.

    Raises:
        InputError: `clip` is no Qwen2.5-VL text encoder.
    """
    if not hasattr(getattr(clip, "tokenizer", None), NAME):
        seen = type(getattr(clip, "tokenizer", clip)).__name__.removesuffix("Tokenizer")
        fix = "load Qwen2.5-VL 7B with Load CLIP, type qwen_image, or take the pocket pair model's"
        raise InputError("clip", "must be a Qwen2.5-VL text encoder", seen, fix)
    prompting: QwenPrompting = getattr(clip.tokenizer, "prompting", None) or QwenPrompting()
    if system_prompt is not None:
        prompting = replace(prompting, system_prompt=system_prompt)
    return prompting if drop_tokens is None else replace(prompting, drop_tokens=drop_tokens)


@torch.no_grad()
def encode_shot(clip: Any, text: str, pictures: Sequence[Tensor], prompting: QwenPrompting) -> list[Any]:
    """CONDITIONING of a text and the pictures shown with it.

    Args:
        clip: a Qwen2.5-VL CLIP; its LoRAs count.
        text: every character stands for itself.
        pictures: `[3, H, W]` in 0…1 each.
        prompting: of `prompting_of`.

    Raises:
        InputError: more tokens are to be dropped than there are.
    """
    shown = [picture_pixels(picture, prompting.picture_area).movedim(0, -1)[None] for picture in pictures]
    # Core takes a text that starts with a turn's mark as a whole conversation. Backslashes keep brackets as they are.
    whole = re.sub(r"([()])", r"\\\1", prompting.text(text, len(shown)))
    tokens = clip.tokenize(whole, images=shown)
    if prompting.drop_tokens is None:
        conditioning: list[Any] = clip.encode_from_tokens_scheduled(tokens)
        return conditioning
    return _drop(clip, tokens, prompting.drop_tokens)


def _drop(clip: Any, tokens: Any, count: int) -> list[Any]:
    """As `CLIP.encode_from_tokens_scheduled`, with a given number of states dropped: core would count them itself."""
    model = clip.cond_stage_model
    model.reset_clip_options()
    if clip.layer_idx is not None:
        model.set_clip_options({"layer": clip.layer_idx})
    clip.load_model(tokens)
    device = clip.patcher.load_device
    model.set_clip_options({"execution_device": device})
    with comfy.model_management.cuda_device_context(device):
        states, pooled, extra = model.encode_token_weights(tokens, template_end=count)
    if not states.shape[1]:
        raise InputError("drop_tokens", "must be less than the tokens of the whole prompt", count, "drop fewer")
    entry = {"pooled_output": pooled, **extra}
    clip.add_hooks_to_dict(entry)
    return [[states, entry]]
