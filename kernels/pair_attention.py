"""Attention over packed pairs of different lengths, with a cache of earlier pairs in front (Captain Cinema §3.2).

All pairs lie one after the other in one row, `[B, ΣL, H, d]`; nothing is padded and no mask is built. A pair sees
* `local`: itself (double-stream blocks: a block-diagonal mask);
* `causal`: itself, the pairs before it and the cache (single-stream blocks, and filling the cache);
* `full`: all pairs and the cache.
The cache is never joined to the new keys. Each part has its own softmax, and parts are merged by their log-sum-exps
(Dao, FlashAttention): so rows of a batch, such as the two of classifier-free guidance, share one cache, and the cache
may be kept in fp8.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ..core.errors import InputError
from .launch import chosen
from .pair_attention_kernel import attend

__all__ = ["Cache", "Mode", "Part", "merge", "pair_attention", "pair_attention_reference", "quantise", "spans"]

Mode = Literal["full", "causal", "local"]

_E4M3_MAX = 448.0

_ROWS = 1024
"""Queries whose weights on all keys the gradient holds at a time."""


class Cache(NamedTuple):
    """Keys and values of earlier pairs.

    Attributes:
        keys, values: `[1 or B, N, H, d]`; 1: all rows share them. fp32, bf16, fp16, or float8_e4m3fn with scales. A
            slice of a longer, preallocated tensor will do.
        key_scale, value_scale: fp32 `[1 or B, 1 or N, 1 or H]`, what fp8 values are multiplied by; None otherwise.
    """

    keys: Tensor
    values: Tensor
    key_scale: Tensor | None = None
    value_scale: Tensor | None = None


class Part(NamedTuple):
    """Attention to some of the keys: `out` `[B, L, H, d]`, and `lse` `[B, H, L]` fp32, log Σ exp of the scores."""

    out: Tensor
    lse: Tensor


def quantise(x: Tensor, per: Literal["token", "head"] = "token") -> tuple[Tensor, Tensor]:
    """`[B, N, H, d]` in float8_e4m3fn, with a scale for every head of every token, or for every head of all tokens.

    Returns:
        (values, scale): `[B, N, H, d]`, and fp32 `[B, N, H]` or `[B, 1, H]`.
    """
    largest = x.detach().float().abs().amax(-1)
    if per == "head":
        largest = largest.amax(1, keepdim=True)
    scale = (largest / _E4M3_MAX).clamp(min=1e-12)
    # The division may round to just above 448, which would become NaN.
    return (x.float() / scale[..., None]).clamp(-_E4M3_MAX, _E4M3_MAX).to(torch.float8_e4m3fn), scale


def pair_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Sequence[int],
    mode: Mode = "causal",
    cache: Cache | None = None,
    scale: float | None = None,
) -> Part:
    """Attention of packed pairs to themselves and to a cache.

    Args:
        q, k, v: `[B, ΣL, H, d]`.
        lengths: tokens of every pair, in order.
        mode: which pairs a pair sees, see above.
        cache: of pairs that come before; `local` does not see it.
        scale: of the scores; None: 1/√d.

    Returns:
        `out` in the dtype of `q`, `lse` in fp32. Gradients reach q, k, v and a cache that is not in fp8.

    Raises:
        InputError: an unknown mode, shapes that do not fit.
    """
    _check(q, k, v, lengths, mode, cache)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    cache = None if mode == "local" else cache
    if not _suits(q, k, v, cache):
        return pair_attention_reference(q, k, v, lengths, mode, cache, scale)
    past = Cache(*(None,) * 4) if cache is None else cache  # type: ignore[arg-type]
    return Part(*_pair_attention(q, k, v, *past, list(lengths), mode, scale))


def _check(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], mode: str, cache: Cache | None) -> None:
    if mode not in get_args(Mode):
        raise InputError("mode", f"must be one of {', '.join(get_args(Mode))}", mode, "say which pairs a pair sees")
    if sum(lengths) != q.shape[1] or min(lengths, default=0) < 1:
        raise InputError("lengths", f"must sum to {q.shape[1]} tokens", list(lengths), "give every pair's length")
    for name, x in (("k", k), ("v", v)):
        if x.shape != q.shape:
            raise InputError(name, "must have the shape of q", list(x.shape), f"give {list(q.shape)}")
    if cache is None:
        return
    batch, _, heads, channels = q.shape
    count = cache.keys.shape[1]
    for name, x, s in (
        ("cache.keys", cache.keys, cache.key_scale),
        ("cache.values", cache.values, cache.value_scale),
    ):
        if x.shape not in ((1, count, heads, channels), (batch, count, heads, channels)):
            rule = f"must be [1 or {batch}, {count}, {heads}, {channels}]"
            raise InputError(name, rule, list(x.shape), "give one cache for all rows, or one for each")
        if (x.dtype == torch.float8_e4m3fn) != (s is not None):
            fix = "quantise both with `quantise`, or neither"
            raise InputError(name, "must come with a scale if it is in fp8, and only then", str(x.dtype), fix)
        if s is not None and not all(n in (1, all_) for n, all_ in zip(s.shape, x.shape[:3], strict=True)):
            raise InputError(f"{name} scale", f"must fit {list(x.shape[:3])}", list(s.shape), "use `quantise`")


def _suits(q: Tensor, k: Tensor, v: Tensor, cache: Cache | None) -> bool:
    """Whether the kernel takes these tensors."""
    if q.shape[3] > 256 or not chosen(q) or q.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    if cache is None:
        return k.dtype == v.dtype == q.dtype
    kept = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn)
    return k.dtype == v.dtype == q.dtype and cache.keys.dtype == cache.values.dtype and cache.keys.dtype in kept


def spans(lengths: Sequence[int], mode: Mode) -> list[tuple[int, int, int, int]]:
    """(first query, its end, first key, its end) of every pair; `full` is one span."""
    total = sum(lengths)
    if mode == "full":
        return [(0, total, 0, total)]
    ends = list(itertools.accumulate(lengths))
    return [(b - n, b, b - n if mode == "local" else 0, b) for n, b in zip(lengths, ends, strict=True)]


# --- PyTorch ---------------------------------------------------------------------------------------------------------


def merge(parts: Sequence[Part]) -> Part:
    """Attention to all keys from attention to disjoint sets of them."""
    lse = torch.logsumexp(torch.stack([part.lse for part in parts]), 0)
    out = sum(part.out.to(lse.dtype) * _columns(torch.exp(part.lse - lse)) for part in parts)
    return Part(out.to(parts[0].out.dtype), lse)  # type: ignore[union-attr]


def pair_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Sequence[int],
    mode: Mode = "causal",
    cache: Cache | None = None,
    scale: float | None = None,
) -> Part:
    """`pair_attention` in PyTorch, differentiable; keeps fp64."""
    scale = q.shape[3] ** -0.5 if scale is None else scale
    past = None if cache is None or mode == "local" else restored(cache, q.dtype)
    parts = []
    for start, end, first, last in spans(lengths, mode):
        part = _softmax(q[:, start:end], k[:, first:last], v[:, first:last], scale)
        if past is not None:
            part = merge([_softmax(q[:, start:end], *past, scale), part])
        parts.append(part)
    return Part(torch.cat([part.out for part in parts], 1).to(q.dtype), torch.cat([part.lse for part in parts], 2))


def restored(cache: Cache, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys and values of a cache without scales."""
    if cache.key_scale is None or cache.value_scale is None:
        return cache.keys, cache.values
    wide = dtype if dtype == torch.float64 else torch.float32
    return cache.keys.to(wide) * cache.key_scale[..., None], cache.values.to(wide) * cache.value_scale[..., None]


def _softmax(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Part:
    """Attention of all queries to all keys. `out` stays in fp32: parts are yet to be merged."""
    scores = _scores(q, k, scale)
    lse = torch.logsumexp(scores, -1)
    weights = torch.exp(scores - lse[..., None])
    return Part(torch.einsum("bhqk,bkhd->bqhd", weights, _wide(v).expand(q.shape[0], -1, -1, -1)), lse)


def _scores(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return torch.einsum("bqhd,bkhd->bhqk", _wide(q) * scale, _wide(k).expand(q.shape[0], -1, -1, -1))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _columns(rows: Tensor) -> Tensor:
    """`[B, H, L]` → `[B, L, H, 1]`."""
    return rows.transpose(1, 2)[..., None]


# --- the operator ----------------------------------------------------------------------------------------------------


@torch.library.custom_op("anchorshot::pair_attention", mutates_args=())
def _pair_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past_k: Tensor | None,
    past_v: Tensor | None,
    key_scale: Tensor | None,
    value_scale: Tensor | None,
    lengths: Sequence[int],
    mode: str,
    scale: float,
) -> tuple[Tensor, Tensor]:
    past = None if past_k is None or past_v is None else (past_k, past_v, key_scale, value_scale)
    return attend(q, k, v, past, tuple(spans(lengths, mode)), scale)  # type: ignore[arg-type]


@_pair_attention.register_fake
def _(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    batch, tokens, heads = q.shape[:3]
    return q.new_empty(q.shape), q.new_empty((batch, heads, tokens), dtype=torch.float32)


# --- gradients: in PyTorch, from the log-sum-exps, some rows of queries at a time -----------------------------------


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, past_k, past_v, key_scale, value_scale, ctx.lengths, ctx.mode, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, past_k, past_v, key_scale, value_scale, *output)


def _gradients(ctx: Any, d_out: Tensor, d_lse: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, past_k, past_v, key_scale, value_scale, out, lse = ctx.saved_tensors
    d_q, d_k, d_v = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))
    past = d_past = None
    if past_k is not None:
        past = restored(Cache(past_k, past_v, key_scale, value_scale), q.dtype)
        d_past = [torch.zeros_like(x, dtype=torch.float32) for x in past] if key_scale is None else None
    d_out = d_out.float()
    # Of every query: Σ over keys of weight · gradient of the weight, less what its lse wants.
    offset = (d_out * out.float()).sum(-1).transpose(1, 2) - d_lse
    for start, end, first, last in spans(ctx.lengths, ctx.mode):
        for a in range(start, end, _ROWS):
            rows = slice(a, min(end, a + _ROWS))
            given = (q[:, rows], d_out[:, rows], lse[:, :, rows], offset[:, :, rows], ctx.scale)
            keys = slice(first, last)
            more = _part_gradients(*given, k[:, keys], v[:, keys])
            d_q[:, rows] += more[0]
            d_k[:, keys] += more[1]
            d_v[:, keys] += more[2]
            if past is not None:
                more = _part_gradients(*given, *past)
                d_q[:, rows] += more[0]
                if d_past is not None:
                    d_past[0] += more[1].sum_to_size(past[0].shape)
                    d_past[1] += more[2].sum_to_size(past[1].shape)
    cached: list[Tensor | None] = [None, None] if d_past is None else [x.to(past_k.dtype) for x in d_past]
    return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype), *cached, None, None, None, None, None


def _part_gradients(
    q: Tensor, d_out: Tensor, lse: Tensor, offset: Tensor, scale: float, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What one set of keys adds to the gradients of q, k and v."""
    k, v = (_wide(x).expand(q.shape[0], -1, -1, -1) for x in (k, v))
    weights = torch.exp(_scores(q, k, scale) - lse[..., None])
    d_v = torch.einsum("bhqk,bqhd->bkhd", weights, d_out)
    d_scores = weights * (torch.einsum("bqhd,bkhd->bhqk", d_out, v) - offset[..., None]) * scale
    d_q = torch.einsum("bhqk,bkhd->bqhd", d_scores, k)
    return d_q, torch.einsum("bhqk,bqhd->bkhd", d_scores, _wide(q)), d_v


_pair_attention.register_autograd(_gradients, setup_context=_keep)
