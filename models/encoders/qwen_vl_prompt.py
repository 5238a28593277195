"""How a prompt and its pictures are put to Qwen2.5-VL for Qwen-Image-Edit: template, picture sizes, patches.

Pure text and tensor arithmetic for both hosts. ComfyUI's and diffusers' encoders share the template and drop what
stands before the user's words; diffusers resizes pictures in two steps and two ways, ComfyUI in one and another. Here
one function does it, to a size that neither changes again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ...core.documents import as_integer, as_object, as_text, parse_json
from ...core.errors import InputError
from .prompt_text import literal

__all__ = ["EDIT_SYSTEM_PROMPT", "PICTURE", "QwenPrompting", "picture_patches", "picture_pixels", "picture_size"]

EDIT_SYSTEM_PROMPT = (
    "Describe the key features of the input image (color, shape, size, texture, objects, background), then explain how "
    "the user's text instruction should alter or modify the image. Generate a new image that meets the user's "
    "requirements while maintaining consistency with the original input where appropriate."
)
"""Qwen-Image-Edit's own; models that were trained with another text need that one."""

PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
"""Stands for a picture; its middle token is repeated for every patch that the language model sees."""

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_MAX_AREA = 1 << 24
_SMALLEST = 56 * 56


@dataclass(frozen=True)
class QwenPrompting:
    """How prompts are put.

    Attributes:
        system_prompt: what the model is told to do.
        drop_tokens: how many of the first states are dropped; None: those before the user's words. Models trained with
            another number than their own text has need that number (64 is the stock text's).
        picture_label: stands before every picture, `{}` for its number from 1. Empty for the first Qwen-Image-Edit,
            which had one picture.
        picture_area: pictures are scaled to about so many pixels.
    """

    system_prompt: str = EDIT_SYSTEM_PROMPT
    drop_tokens: int | None = None
    picture_label: str = "Picture {}: "
    picture_area: int = 384 * 384

    def __post_init__(self) -> None:
        if self.drop_tokens is not None:
            as_integer(self.drop_tokens, "drop_tokens", 0, 1 << 16)
        as_integer(self.picture_area, "picture_area", _SMALLEST, _MAX_AREA)

    @classmethod
    def read(cls, metadata: Mapping[str, str]) -> QwenPrompting:
        """How a file's model was trained: its metadata's `prompting`, a JSON object of some of these attributes.

        Raises:
            InputError: something else.
        """
        where = "metadata.prompting"
        stored = as_object(parse_json(metadata.get("prompting", "{}"), where), where)
        known = {field.name for field in fields(cls)}
        if unknown := sorted(stored.keys() - known):
            raise InputError(where, f"must hold {', '.join(sorted(known))} only", unknown[0], "export the file again")
        read: dict[str, Any] = {}
        for name, value in stored.items():
            count = name in ("drop_tokens", "picture_area")
            read[name] = value if count else as_text(value, f"{where}.{name}")
        return cls(**read)

    @property
    def head(self) -> str:
        """What stands before the user's words."""
        return f"<|im_start|>system\n{literal(self.system_prompt)}<|im_end|>\n<|im_start|>user\n"

    def text(self, prompt: str, pictures: int = 0) -> str:
        """The whole text of one prompt. Control tokens in `prompt` are made plain text (`prompt_text.literal`)."""
        labels = (self.picture_label.replace("{}", str(i + 1)) for i in range(pictures))
        shown = "".join(label + PICTURE for label in labels)
        return f"{self.head}{shown}{literal(prompt)}<|im_end|>\n<|im_start|>assistant\n"


def picture_size(height: int, width: int, area: int = 384 * 384, multiple: int = 28) -> tuple[int, int]:
    """(height, width) of a picture as the model gets it: about `area` pixels, sides whole multiples."""
    scale = math.sqrt(area / (height * width))
    return max(1, round(height * scale / multiple)) * multiple, max(1, round(width * scale / multiple)) * multiple


def picture_pixels(picture: Tensor, area: int = 384 * 384, multiple: int = 28) -> Tensor:
    """A picture `[3, H, W]` in 0…1, scaled to `picture_size` (bicubic with antialiasing): fp32 `[3, h, w]` in 0…1.

    Raises:
        InputError: another shape, or values that are no numbers in 0…1.
    """
    if picture.ndim != 3 or picture.shape[0] != 3 or not picture.numel():
        raise InputError("images", "must have the shape [3, H, W]", list(picture.shape), "give RGB pictures")
    pixels = picture.float()
    low, high = (value.item() for value in pixels.aminmax())
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # NaN fails both comparisons
        raise InputError("images", "values must be numbers in 0…1", f"{low}…{high}", "scale or clamp the pixels")
    size = picture_size(pixels.shape[1], pixels.shape[2], area, multiple)
    if size != tuple(pixels.shape[1:]):
        pixels = nn.functional.interpolate(pixels[None], size, mode="bicubic", antialias=True)[0]
    return pixels.clamp(0, 1)


def picture_patches(pixels: Tensor, patch: int = 14, merge: int = 2, frames: int = 2) -> tuple[Tensor, tuple[int, int]]:
    """Normalised patches of a picture `[3, h, w]` as Qwen2.5-VL takes them, and the grid's (rows, columns).

    Args:
        pixels: from `picture_pixels`, sides multiples of `patch·merge`.
        patch: pixels along a side of a patch.
        merge: patches along a side of what the language model sees as one token; these lie together.
        frames: frames of a patch; a picture is taken so many times.

    Returns:
        `[rows·columns, 3·frames·patch²]`.
    """
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (_MEAN, _STD))
    x = ((pixels - mean) / std)[None].expand(frames, -1, -1, -1)
    order = "t c (gh mh p) (gw mw q) -> (gh gw mh mw) (c t p q)"
    rows, columns = pixels.shape[1] // patch, pixels.shape[2] // patch
    return rearrange(x, order, mh=merge, mw=merge, p=patch, q=patch), (rows, columns)
