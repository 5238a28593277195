"""Attention of packed pairs for diffusers' Flux: by the kernel where it pays, else by the attention of diffusers.

No L×L mask is built. Inside `torch.compile` it is one operator, for which other lengths are no other graph.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor

from ....kernels.launch import chosen
from ....kernels.pair_attention import Cache, pair_attention
from ...layouts.pair_cache import joined
from ...layouts.pairs import Mode, causal_spans

__all__ = ["attend_pairs"]


def attend_pairs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Sequence[int],
    counted: Tensor,
    mode: Mode,
    past: Cache | None = None,
    mask: Tensor | None = None,
    backend: Any = None,
    parallel: Any = None,
) -> Tensor:
    """Attention [B, L, heads, d] of packed pairs to themselves and to a cache.

    Args:
        q, k, v: [B, L, heads, d].
        lengths: tokens of every pair.
        counted: the same as int64 [P] on the CPU.
        mode: which pairs a pair sees; ``local`` does not see the cache.
        past: keys and values of context that comes before, in 1 row, in B, or in a divisor of B.
        mask: bool [B, keys], cached keys first; None: all are real.
        backend, parallel: of diffusers' attention.
    """
    if torch.compiler.is_compiling() and not torch.is_grad_enabled() and parallel is None:
        cache = (None,) * 4 if past is None else tuple(past)
        return _attend(q, k, v, *cache, mask, counted, mode, None if backend is None else str(backend))
    return _by_device(q, k, v, lengths, mode, past, mask, backend, parallel)


def _by_device(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Sequence[int],
    mode: Mode,
    past: Cache | None,
    mask: Tensor | None,
    backend: Any,
    parallel: Any,
) -> Tensor:
    if mask is None and backend is None and parallel is None and _pays(q, lengths, mode, past):
        return pair_attention(q, k, v, lengths, mode, past).out
    if mode == "local":
        return _local(q, k, v, lengths, mask, backend, parallel)
    before = 0
    if past is not None:
        before = past.keys.shape[1]
        k, v = joined(past, k, v)
    out = []
    for start, end in [(0, q.shape[1])] if mode == "full" else causal_spans(lengths):
        last = before + end
        seen = None if mask is None else mask[:, None, None, :last]
        out.append(_stock(q[:, start:end], k[:, :last], v[:, :last], seen, backend, parallel))
    return torch.cat(out, 1)


def _pays(q: Tensor, lengths: Sequence[int], mode: Mode, past: Cache | None) -> bool:
    """Whether the kernel has something to save: many short calls, or a cache that would have to be copied for them.

    Its gradient is computed in PyTorch, so training leaves attention to the stock operators.
    """
    if not chosen(q) or (torch.is_grad_enabled() and q.requires_grad) or q.shape[3] > 256:
        return False
    if past is not None and past.keys.shape[0] not in (1, q.shape[0]):
        return False
    copied = past is not None and (past.key_scale is not None or past.keys.shape[0] < q.shape[0])
    return copied or (mode != "full" and len(lengths) > 1)


def _local(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], mask: Tensor | None, backend: Any, parallel: Any
) -> Tensor:
    """Every pair on its own; neighbours of one length are rows of one batch."""
    if mask is not None:
        mask = mask[:, -q.shape[1] :]
    out, start = [], 0
    for length, same in itertools.groupby(lengths):
        count = len(list(same))
        end = start + count * length
        rows = [x[:, start:end].unflatten(1, (count, length)).flatten(0, 1) for x in (q, k, v)]
        seen = None if mask is None else mask[:, start:end].reshape(-1, length)[:, None, None]
        out.append(_stock(rows[0], rows[1], rows[2], seen, backend, parallel).unflatten(0, (-1, count)).flatten(1, 2))
        start = end
    return torch.cat(out, 1)


def _stock(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, backend: Any, parallel: Any) -> Tensor:
    return dispatch_attention_fn(q, k, v, attn_mask=mask, backend=backend, parallel_config=parallel)


@torch.library.custom_op("anchorshot::attend_pairs", mutates_args=())
def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past_k: Tensor | None,
    past_v: Tensor | None,
    key_scale: Tensor | None,
    value_scale: Tensor | None,
    mask: Tensor | None,
    counted: Tensor,
    mode: str,
    backend: str | None,
) -> Tensor:
    past = None if past_k is None or past_v is None else Cache(past_k, past_v, key_scale, value_scale)
    return _by_device(q, k, v, counted.tolist(), mode, past, mask, backend, None)  # type: ignore[arg-type]


@_attend.register_fake
def _(q: Tensor, *_: Any) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)
