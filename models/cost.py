"""Exact tokens and FLOPs of one forward pass, for any layout of frames and text; each backbone has its closed form.

Closed forms of every matrix product and convolution in the model, two operations per multiply-add. Norms, activations
and other element-wise work are left out, as is usual. `count_flops` counts a real call of the real class with
torch's `FlopCounterMode` instead; on the meta device that costs neither memory nor time, and the two agree exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..core.errors import InputError
from ..memory.golden_mem import Place, Size
from .backbones import Backbone

__all__ = ["Config", "Cost", "Output", "Pair", "cost_of", "count_flops", "memory_pairs"]

Config = Mapping[str, Any]
Output = Literal["image", "all", "none"]


@dataclass(frozen=True)
class Pair:
    """One image-text pair of the packed sequence: (height, width) of the image in tokens, and caption tokens."""

    image: Size
    text: int

    @property
    def tokens(self) -> int:
        """Image and caption tokens together."""
        return self.image[0] * self.image[1] + self.text


@dataclass(frozen=True)
class Cost:
    """What one forward pass takes.

    Attributes:
        tokens: tokens that pass through the network, of one batch row.
        cached: tokens that are only attended to, through cached keys and values.
        parts: FLOPs of each part of the model.
    """

    tokens: int
    cached: int = 0
    parts: dict[str, int] = field(default_factory=dict)

    @property
    def flops(self) -> int:
        """All FLOPs."""
        return sum(self.parts.values())

    @property
    def attention(self) -> int:
        """FLOPs of the attention products alone, the part that grows with the square of the length."""
        return sum(flops for part, flops in self.parts.items() if part.endswith("attention"))


def cost_of(backbone: Backbone) -> Callable[..., Cost]:
    """The closed form of a backbone; what it takes beside the model's config is the backbone's own.

    Raises:
        InputError: nobody has worked it out.
    """
    if backbone.cost is None:
        raise InputError("backbone", "must have a closed form of its cost", backbone.title, "count with count_flops")
    return backbone.cost()


def memory_pairs(slots: Sequence[Place], text: int | Sequence[int]) -> list[Pair]:
    """Return the context pairs of a GoldenMem plan, with caption tokens of each frame, or one number for all."""
    texts = [text] * len(slots) if isinstance(text, int) else list(text)
    if len(texts) != len(slots):
        rule = f"must have one entry for each of the {len(slots)} slots"
        raise InputError("text", rule, len(texts), "give one per slot")
    return [Pair(slot.size, length) for slot, length in zip(slots, texts, strict=True)]


def count_flops(call: Callable[[], object]) -> int:
    """Run `call` without gradients and return the FLOPs that torch's `FlopCounterMode` sees.

    With model and inputs on the meta device nothing is computed, so a full-size model counts in seconds.
    """
    # The counter has no formula for the CPU's fused attention; the plain kernel is made of products it does count.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())
