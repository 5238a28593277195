"""Keys and values of context pairs, kept over the steps of a sampling run (Captain Cinema §3.2).

One block of memory for all layers is reserved before the context is computed, and every layer writes into its part.
Rows that share a context share its cache: those of classifier-free guidance, and several new frames.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from ...core.errors import InputError
from ...kernels.pair_attention import Cache, quantise, restored

__all__ = ["CachePrecision", "KVCache", "check_precision", "for_rows", "joined", "write"]

CachePrecision = Literal["model", "bf16", "fp8"]
"""What keys and values are kept in: the model's precision, bfloat16, or float8_e4m3fn with a scale for every head of
every token.
"""


def check_precision(precision: str, field: str = "cache_precision") -> None:
    """Refuse an unknown precision with an `InputError`."""
    if precision not in get_args(CachePrecision):
        rule = f"must be one of {', '.join(get_args(CachePrecision))}"
        raise InputError(field, rule, precision, "model keeps the model's own")


@dataclass
class KVCache:
    """Keys and values (after RoPE) of context pairs, one entry [B, L, heads, d] per single-stream block.

    Valid while the context's latents, noise, timestep, text and the weights stay the same; exact in causal mode, where
    context never looks at what comes after it, and in the model's precision.

    Attributes:
        keys, values: by block.
        mask: bool [B, L], or None when every token is real.
        targets: how many batch rows look at each row of the cache (see `repeat`).
        key_scales, value_scales: fp32 [B, L, heads] by block, of a cache in fp8; else empty.
        precision: see `CachePrecision`.
    """

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    mask: Tensor | None = None
    targets: int = 1
    key_scales: list[Tensor] = field(default_factory=list)
    value_scales: list[Tensor] = field(default_factory=list)
    precision: CachePrecision = "model"

    @property
    def tokens(self) -> int:
        """Number of cached tokens per row."""
        return self.keys[0].shape[1] if self.keys else 0

    @property
    def bytes(self) -> int:
        """Memory that keys, values and scales take."""
        held = [*self.keys, *self.values, *self.key_scales, *self.value_scales]
        return sum(x.numel() * x.element_size() for x in held)

    def reserve(self, layers: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        """Make room for [B, L, heads, d] = `shape` of every layer; `dtype` is the model's."""
        kept = {"model": dtype, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}[self.precision]
        self.keys, self.values = (_layers(layers, shape, kept, device) for _ in range(2))
        if self.precision == "fp8":
            scales = (_layers(layers, shape[:3], torch.float32, device) for _ in range(2))
            self.key_scales, self.value_scales = scales

    def layer(self, layer: int) -> Cache:
        """One block's keys and values, as they are kept."""
        if not self.key_scales:
            return Cache(self.keys[layer], self.values[layer])
        return Cache(self.keys[layer], self.values[layer], self.key_scales[layer], self.value_scales[layer])

    def repeat(self, targets: int) -> KVCache:
        """Every row for so many targets, one after the other in the batch. Nothing is copied."""
        kept = (self.key_scales, self.value_scales, self.precision)
        return KVCache(self.keys, self.values, self.mask, self.targets * targets, *kept)

    def before(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of one block with those of the new tokens [B·targets, L', heads, d] behind them."""
        return joined(self.layer(layer), k, v)

    def key_mask(self, batch: int, device: torch.device) -> Tensor:
        """Bool [batch, L]: which cached tokens are real."""
        if self.mask is None:
            return torch.ones(batch, self.tokens, dtype=torch.bool, device=device)
        return for_rows(self.mask, batch)


def _layers(layers: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    room = torch.empty(layers, *shape, dtype=dtype, device=device)
    return [room[layer] for layer in range(layers)]


def write(cache: Cache, k: Tensor, v: Tensor) -> None:
    """Put keys and values [B, L, heads, d] where `cache` has room for them, in its precision."""
    for x, kept, scales in ((k, cache.keys, cache.key_scale), (v, cache.values, cache.value_scale)):
        if scales is None:
            kept.copy_(x)
        else:
            small, scale = quantise(x)
            kept.copy_(small)
            scales.copy_(scale)


def joined(cache: Cache, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Cached keys and values in the precision of `k` and `v`, with these behind them. Lives as long as a block."""
    past = (x.to(k.dtype) for x in restored(cache, k.dtype))
    keys, values = (torch.cat([for_rows(old, new.shape[0]), new], 1) for old, new in zip(past, (k, v), strict=True))
    return keys, values


def for_rows(x: Tensor, batch: int) -> Tensor:
    """Every row of `x` for as many rows of the batch, in turn: a view of one row; of several a copy."""
    targets = batch // x.shape[0]
    if targets == 1:
        return x
    return x[:, None].expand(-1, targets, *x.shape[1:]).flatten(0, 1)
