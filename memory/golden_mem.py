"""GoldenMem: earlier frames shrink by the golden ratio, so a long visual memory costs about one frame.

Source: Captain Cinema §3.2 (the tiers and their bound), §4.2 (downsampling at pixel level), Table 3 (groups × images).

The short side of a frame, in latent tokens, follows the inverse Fibonacci sequence s_i = floor(s_{i−1} / φ):
25, 15, 9, 5, 3 from s_0 = 25 (400 px at 16 px a token). The long side keeps the aspect ratio. One image on every tier
then costs less than φ²/(φ²−1) ≈ 1.62 full frames in all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, get_args

import torch.nn.functional as F
from torch import Tensor

from ..core.errors import InputError

__all__ = [
    "PHI",
    "TOKEN_BOUND",
    "GoldenMem",
    "Level",
    "Place",
    "ResizeMode",
    "Slot",
    "resize_context",
    "resize_context_latent",
    "tier_sides",
    "tier_size",
    "token_report",
]

PHI = (1.0 + math.sqrt(5.0)) / 2.0
"""The golden ratio φ."""

TOKEN_BOUND = PHI**2 / (PHI**2 - 1.0)
"""Upper bound of Σ t_i / t_0 with one image on each tier, φ²/(φ²−1) = φ ≈ 1.618 (Captain Cinema §3.2)."""

Size = tuple[int, int]
ResizeMode = Literal["bicubic", "bilinear", "area"]
Level = Literal["pixel", "latent"]
"""Where frames are shrunk: before the VAE encodes them, or after."""


class Place(Protocol):
    """The place of one context frame, of whatever packing."""

    @property
    def rank(self) -> int:
        """0 for the most relevant (or most recent) frame."""
        ...

    @property
    def tier(self) -> int:
        """Number of its size: frames of one tier have one size."""
        ...

    @property
    def size(self) -> Size:
        """(height, width) in latent tokens."""
        ...

    @property
    def tokens(self) -> int:
        """Image tokens, height × width."""
        ...


@dataclass(frozen=True)
class Slot:
    """The place of one context frame in memory.

    Attributes:
        rank: 0 for the most relevant (or most recent) frame.
        tier: i of s_i; 0 is full size.
        size: (height, width) in latent tokens.
    """

    rank: int
    tier: int
    size: Size

    @property
    def tokens(self) -> int:
        """Image tokens of this frame, height × width."""
        return self.size[0] * self.size[1]


def tier_sides(s0: int, groups: int) -> list[int]:
    """Return the short sides [s_0, s_1, …, s_groups] in tokens, s_i = floor(s_{i−1} / φ).

    The sequence would reach 0 after 1; a frame of no tokens remembers nothing, so it stays at 1 from there on.

    Args:
        s0: short side of the current frame in tokens, at least 1.
        groups: index of the last tier, at least 0. `tier_sides(25, 4)` is the paper's 25, 15, 9, 5, 3.

    Raises:
        InputError: a value is out of range.
    """
    _at_least("s0", s0, 1)
    _at_least("groups", groups, 0)
    sides = [s0]
    for _ in range(groups):
        sides.append(max(1, math.floor(sides[-1] / PHI)))
    return sides


def tier_size(size_tokens: Size, tier: int) -> Size:
    """Return the (height, width) in tokens of a frame of `size_tokens` on `tier`.

    The short side is s_tier; the long side keeps the aspect ratio, rounded half up, at least 1.
    """
    height, width = _size("size_tokens", size_tokens)
    _at_least("tier", tier, 0)
    s0 = min(height, width)
    s = tier_sides(s0, tier)[tier]
    # Integer arithmetic for round-half-up: Python's round() goes to even, which would make 2.5 and 3.5 differ in kind.
    long = max(1, (2 * max(height, width) * s + s0) // (2 * s0))
    return (s, long) if height <= width else (long, s)


@dataclass(frozen=True)
class GoldenMem:
    """How many earlier frames are remembered, and how large: `groups` tiers of `images` frames each.

    Captain Cinema's Table 3 uses 3×4, 3×8 and 3×12. Frames enter in order of relevance (retrieval) or recency: the
    first `images` frames take tier `first_tier`, the next `images` the tier after it, and so on; frames past
    `groups × images` are dropped.

    Attributes:
        groups: number of tiers G, at least 1.
        images: frames on each tier n, at least 1.
        first_tier: tier of the most relevant frames. 1 is the paper's (only the current frame has full size s_0);
            0 keeps the most relevant frames at full size, larger values start smaller.
        level: where frames are shrunk: ``pixel`` before the VAE encodes them (§4.2), ``latent`` after it.
    """

    groups: int = 3
    images: int = 4
    first_tier: int = 1
    level: Level = "pixel"

    latent_resize: ClassVar[ResizeMode] = "area"
    """How latents are shrunk: a mean keeps them inside their range."""

    def __post_init__(self) -> None:
        _at_least("groups", self.groups, 1)
        _at_least("images", self.images, 1)
        _at_least("first_tier", self.first_tier, 0)
        if self.level not in get_args(Level):
            raise InputError("level", "must be pixel or latent", self.level, "choose one of them")

    @classmethod
    def full(cls, images: int) -> GoldenMem:
        """Return the uncompressed memory of `images` frames, the baseline rows of Table 3."""
        return cls(groups=1, images=images, first_tier=0)

    @property
    def capacity(self) -> int:
        """Frames that fit, groups × images."""
        return self.groups * self.images

    def plan(self, count: int, size_tokens: Size) -> list[Slot]:
        """Return one slot for each remembered frame, most relevant first.

        Args:
            count: earlier frames there are, at least 0. Those past `capacity` get no slot.
            size_tokens: (height, width) of a full frame in latent tokens.

        Raises:
            InputError: `count` or `size_tokens` is out of range.
        """
        _at_least("count", count, 0)
        _size("size_tokens", size_tokens)
        tiers = [self.first_tier + rank // self.images for rank in range(min(count, self.capacity))]
        return [Slot(rank, tier, tier_size(size_tokens, tier)) for rank, tier in enumerate(tiers)]

    def assign(self, order: Sequence[int], size_tokens: Size) -> list[tuple[int, Slot]]:
        """Return (frame index, slot) for frames given best first, as the `rank_*` functions of retrieval give them."""
        return list(zip(order, self.plan(len(order), size_tokens), strict=False))


def resize_context(image: Tensor, size_px: Size, mode: ResizeMode = "bicubic") -> Tensor:
    """Downsample frames at pixel level, before the VAE encodes them (Captain Cinema §4.2; the default).

    Args:
        image: `[..., 3, H, W]`, values 0…1.
        size_px: (height, width) in pixels; a multiple of the pixels per token (16 in most models).
        mode: `bicubic` (antialiased, what image tools do) or `area` (mean of each cell, no ringing).

    Returns:
        `[..., 3, h, w]` in the input's dtype, clamped to 0…1. A frame that has the size already comes back as it is.

    Raises:
        InputError: wrong rank, size or mode.
    """
    resized = _resize("image", image, size_px, mode)
    return resized if resized is image else resized.clamp(0.0, 1.0)  # bicubic overshoots at edges


def resize_context_latent(latent: Tensor, size_latent: Size, mode: ResizeMode = "area") -> Tensor:
    """Downsample frames at latent level, after encoding: one VAE pass for all tiers, softer than pixel level.

    Args:
        latent: `[..., C, h, w]`, unit scale.
        size_latent: (height, width) in latent pixels: tokens × the model's patch size, 2.
        mode: `area` (default: a mean keeps latents inside their range), `bilinear` (without antialiasing, as published
            for STAGE) or `bicubic` (antialiased).

    Returns:
        `[..., C, h', w']` in the input's dtype.

    Raises:
        InputError: wrong rank, size or mode.
    """
    return _resize("latent", latent, size_latent, mode)


def token_report(
    slots: Sequence[Place],
    size_tokens: Size,
    *,
    context_text: int | Sequence[int] = 0,
    new_frames: int = 1,
    new_text: int | Sequence[int] = 0,
) -> dict[str, Any]:
    """Count the tokens of one packed sequence: the new frames at full size and the remembered ones on their tiers.

    Args:
        slots: the plan of the remembered frames.
        size_tokens: (height, width) of a full frame in tokens.
        context_text: caption tokens of each remembered frame, or one number for all.
        new_frames: frames being made.
        new_text: caption tokens of each new frame, or one number for all.

    Returns:
        JSON-ready: `tiers` (rows of tier, size, images, tokens_each, tokens), `context_image`, `context_text`, `new`,
        `total`, `full` (the same frames uncompressed), `ratio` = total / full, `frames` = remembered image tokens
        counted in full frames.

    Raises:
        InputError: `context_text` has another length than `slots`, or a count is negative.
    """
    height, width = _size("size_tokens", size_tokens)
    _at_least("new_frames", new_frames, 0)
    own = [new_text] * new_frames if isinstance(new_text, int) else list(new_text)
    if len(own) != new_frames:
        rule = f"must have one entry for each of the {new_frames} new frames"
        raise InputError("new_text", rule, len(own), "give one per frame")
    texts = [context_text] * len(slots) if isinstance(context_text, int) else list(context_text)
    if len(texts) != len(slots):
        raise InputError(
            "context_text", f"must have one entry for each of the {len(slots)} slots", len(texts), "give one per slot"
        )
    for field, lengths in (("new_text", own), ("context_text", texts)):
        for length in lengths:
            _at_least(field, length, 0)
    frame = height * width
    tiers = []
    for tier in sorted({slot.tier for slot in slots}):
        here = [slot for slot in slots if slot.tier == tier]
        tiers.append(
            {
                "tier": tier,
                "size": list(here[0].size),
                "images": len(here),
                "tokens_each": here[0].tokens,
                "tokens": sum(slot.tokens for slot in here),
            }
        )
    context_image = sum(slot.tokens for slot in slots)
    new = new_frames * frame + sum(own)
    total = context_image + sum(texts) + new
    full = len(slots) * frame + sum(texts) + new
    return {
        "tiers": tiers,
        "context_image": context_image,
        "context_text": sum(texts),
        "new": new,
        "total": total,
        "full": full,
        "ratio": total / full if full else 1.0,
        "frames": context_image / frame,
    }


def _resize(field: str, x: Tensor, size: Size, mode: str) -> Tensor:
    height, width = _size("size", size)
    if x.ndim < 3:
        raise InputError(field, "must be [..., channels, height, width]", tuple(x.shape), "add the missing dimensions")
    if mode not in get_args(ResizeMode):
        raise InputError("mode", "must be bicubic, bilinear or area", mode, "choose one of them")
    if x.shape[-2:] == (height, width):
        return x
    flat = x.reshape(-1, *x.shape[-3:]).float()  # antialiasing in half precision is coarse, and missing on some devices
    if mode == "area":
        flat = F.interpolate(flat, size=(height, width), mode="area")
    elif mode == "bilinear":
        flat = F.interpolate(flat, size=(height, width), mode="bilinear", align_corners=False)
    else:
        flat = F.interpolate(flat, size=(height, width), mode="bicubic", antialias=True, align_corners=False)
    return flat.to(x.dtype).reshape(*x.shape[:-2], height, width)


def _at_least(field: str, value: int, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise InputError(field, f"must be a whole number of at least {low}", value, f"use {low} or more")


def _size(field: str, size: Size) -> Size:
    if len(size) != 2:
        raise InputError(field, "must be (height, width)", size, "give two numbers")
    for side in size:
        _at_least(field, side, 1)
    return size[0], size[1]
