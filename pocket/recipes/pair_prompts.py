"""What the pocket pair model's text encoder is given: captions with looks, a conversation around them, a frame."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..configs import QWEN_VL_TEXT, QWEN_VL_VISION
from ..plain_looks import without_colour
from ..tokenizer import build_chat_tokenizer
from .captions import ToldShot

__all__ = ["EYES", "image_patches", "pair_caption", "pair_ids", "qwen_vl_config", "without_colour"]

EYES = (84, 168)
"""Size at which the text encoder sees a frame: a pocket frame rounded to its patches."""


def qwen_vl_config() -> dict[str, Any]:
    """Arguments of Qwen2_5_VLConfig: the pocket encoder's sizes, with its tokenizer's vocabulary and marks."""
    tokenizer = build_chat_tokenizer()
    text = {**QWEN_VL_TEXT, "vocab_size": tokenizer.get_vocab_size(), "bos_token_id": None, "eos_token_id": None}
    return {
        "text_config": text,
        "vision_config": QWEN_VL_VISION,
        "image_token_id": tokenizer.token_to_id("<|image_pad|>"),
        "vision_start_token_id": tokenizer.token_to_id("<|vision_start|>"),
        "vision_end_token_id": tokenizer.token_to_id("<|vision_end|>"),
        "video_token_id": tokenizer.get_vocab_size(),  # none
    }


#: CLIP's statistics, which the public processor uses
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def pair_caption(shot: ToldShot, hidden: Collection[str]) -> str:
    """The caption of a shot that tells how everybody looks, of the `hidden` characters all but the colour."""
    caption = shot.caption({a.name for a in shot.truth.actors})
    for name in hidden:
        look = shot.board.characters[name]
        caption = caption.replace(look, without_colour(look), 1)
    return caption


@cache
def _piece_ids(text: str) -> tuple[int, ...]:
    return tuple(build_chat_tokenizer().encode(text).ids)


def pair_ids(caption: list[int], frames: int, image: bool) -> tuple[list[int], int]:
    """Token ids of the conversation around a caption's, and where in it the caption begins.

    Args:
        caption: ids of the caption, without an end token.
        frames: length of the shot.
        image: an image is shown, too.
    """
    prefix = list(_piece_ids("<|im_start|>system\n<|im_end|>\n<|im_start|>user\n"))
    if image:
        rows, cols = (side // QWEN_VL_VISION["patch_size"] // QWEN_VL_VISION["spatial_merge_size"] for side in EYES)
        prefix += _piece_ids("<|vision_start|>" + "<|image_pad|>" * (rows * cols) + "<|vision_end|>")
    suffix = _piece_ids(f"x\n{frames} frames<|im_end|>\n<|im_start|>assistant\n")
    suffix = suffix[len(_piece_ids("x")) :]  # what opens a text would have a blank before it
    return [*prefix, *caption, *suffix], len(prefix)


def image_patches(frames: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Frames uint8 [N, H, W, 3] as the vision tower's patches [N, rows · cols, 1176], and (rows, cols)."""
    patch, merge, repeat = (QWEN_VL_VISION[k] for k in ("patch_size", "spatial_merge_size", "temporal_patch_size"))
    pixels = frames.movedim(-1, 1).float() / 255
    pixels = (pixels - pixels.new_tensor(_MEAN)[:, None, None]) / pixels.new_tensor(_STD)[:, None, None]
    n, channels, height, width = pixels.shape
    rows, cols = height // patch, width // patch
    x = pixels.view(n, channels, rows // merge, merge, patch, cols // merge, merge, patch)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7)[:, :, :, :, :, :, None]  # … channels, time, patch, patch
    x = x.expand(-1, -1, -1, -1, -1, -1, repeat, -1, -1)
    return x.reshape(n, rows * cols, channels * repeat * patch * patch), (rows, cols)


def decoded(ids: Tensor) -> str:
    """The text of a row of ids, for looking at."""
    return str(build_chat_tokenizer().decode([int(i) for i in torch.atleast_1d(ids)], skip_special_tokens=False))
