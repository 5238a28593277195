"""The Triton kernel of `pair_attention` and its launch; what it computes is said and referenced there."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .launch import jit, on_device

__all__ = ["Blocks", "attend", "blocks"]

tl: Any = None
"""`triton.language`, once a kernel was wanted."""

Past = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""Keys, values and their scales."""

Spans = tuple[tuple[int, int, int, int], ...]
"""(first query, its end, first key, its end), without gaps."""

_TILES_KEPT = 256
"""Layouts whose tiles stay on the device: a CUDA graph goes on reading those that it was captured with."""

_LARGE, _SMALL = 200 * 1024, 128 * 1024
"""Bytes of shared memory: an H100 or B200 has more than the first, an RTX 4090 or 5090 less than the second, an A100
something between.
"""


class Blocks(NamedTuple):
    """How the work is cut: queries and keys of a step, warps of a program, steps whose loads are under way."""

    queries: int
    keys: int
    warps: int
    stages: int


def blocks(channels: int, itemsize: int, shared: int, quantised: bool = False) -> Blocks:
    """For heads of so many channels (a power of two), a GPU with so many bytes of shared memory for a program, and a
    cache in fp8 or not: the largest tiles for which the compiled code keeps its sums in registers.
    """
    if itemsize == 4:  # exact fp32 runs on the cores, not on the tensor cores: small tiles
        return Blocks(16, 16, 8, 1) if channels > 128 else Blocks(32, 32, 8, 1)
    if channels > 128:
        return Blocks(64, 32, 8, 2) if shared < _LARGE else Blocks(128, 32, 8, 2)
    if shared < _SMALL or (quantised and shared < _LARGE):
        return Blocks(128, 32, 8, 2)
    return Blocks(128, 64, 8, 3)


@functools.cache
def _shared_memory(index: int | None) -> int:
    properties = torch.cuda.get_device_properties(torch.cuda.current_device() if index is None else index)
    return int(getattr(properties, "shared_memory_per_block_optin", 64 * 1024))


@functools.lru_cache(maxsize=_TILES_KEPT)
def _tiles(spans: Spans, queries: int, device: torch.device) -> Tensor:
    """int32 `[T, 4]`: the spans, cut into tiles of at most so many queries. Those with the most keys come first, so
    that no long one is left for the end.
    """
    cut = [(a, min(end, a + queries), k, k_end) for start, end, k, k_end in spans for a in range(start, end, queries)]
    cut.sort(key=lambda tile: tile[2] - tile[3])
    return torch.tensor(cut, dtype=torch.int32).to(device)


def attend(q: Tensor, k: Tensor, v: Tensor, past: Past | None, spans: Spans, scale: float) -> tuple[Tensor, Tensor]:
    """Run the kernel: `[B, L, H, d]` and the log-sum-exps `[B, H, L]`; `past` is seen by all."""
    batch, tokens, heads, channels = q.shape
    out, lse = q.new_empty(q.shape), q.new_empty((batch, heads, tokens), dtype=torch.float32)
    block_d = max(16, 1 << (channels - 1).bit_length())
    past_k, past_v, key_scale, value_scale = past or (k, v, None, None)
    quantised = key_scale is not None
    shared = _shared_memory(q.device.index) if q.is_cuda else _LARGE
    cut = blocks(block_d, q.element_size(), shared, quantised)
    tiles = _tiles(spans, cut.queries, q.device)
    q, k, v = (_packed(x) for x in (q, k, v))
    past_k, past_v = _packed(past_k), _packed(past_v)
    scales = []
    for x, s in ((past_k, key_scale), (past_v, value_scale)):
        # Expanded: a scale that is shared has a stride of 0. Not needed: any tensor will do.
        scales.append(q if s is None else s.expand(batch, *x.shape[1:3]))
    if quantised:  # as bytes: not every GPU and no interpreter knows fp8
        past_k, past_v = past_k.view(torch.uint8), past_v.view(torch.uint8)
    with on_device(q):
        jit(_pair_attention_kernel, "_walk")[(tiles.shape[0], batch * heads)](
            q,
            k,
            v,
            past_k,
            past_v,
            *scales,
            tiles,
            out,
            lse,
            tokens,
            0 if past is None else past_k.shape[1],
            heads,
            channels,
            scale,
            *q.stride()[:3],
            *k.stride()[:3],
            *v.stride()[:3],
            *past_k.expand(batch, -1, -1, -1).stride()[:3],
            *past_v.expand(batch, -1, -1, -1).stride()[:3],
            *scales[0].stride()[:3],
            *scales[1].stride()[:3],
            PAST=past is not None,
            QUANTISED=quantised,
            BLOCK_M=cut.queries,
            BLOCK_N=cut.keys,
            BLOCK_D=block_d,
            num_warps=cut.warps,
            num_stages=cut.stages,
        )
    return out, lse


def _packed(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _walk(
    acc,
    most,
    total,
    query,
    k,
    v,
    key_scale,
    value_scale,
    first,
    last,
    channels,
    factor,
    k_l,
    v_l,
    key_scale_l,
    value_scale_l,
    QUANTISED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Adds keys first…last to a running softmax: sums `acc` and `total` of weights relative to 2^`most`.

    A part that ends and another that begins are merged by this as well as two blocks of one part: it is the merge by
    log-sum-exps, done before anything is divided.
    """
    d = tl.arange(0, BLOCK_D)
    for start in range(first, last, BLOCK_N):
        n = (start + tl.arange(0, BLOCK_N)).to(tl.int64)
        live = n < last
        key = tl.load(k + n[None, :] * k_l + d[:, None], mask=live[None, :] & (d[:, None] < channels), other=0)
        value = tl.load(v + n[:, None] * v_l + d[None, :], mask=live[:, None] & (d[None, :] < channels), other=0)
        if QUANTISED:
            # e4m3 with its bits where fp16 has sign, exponent and mantissa is its value / 256: the biases are 7 and 15.
            key = (((key & 0x80).to(tl.uint16) << 8) | ((key & 0x7F).to(tl.uint16) << 7)).to(tl.float16, bitcast=True)
            value = ((value & 0x80).to(tl.uint16) << 8) | ((value & 0x7F).to(tl.uint16) << 7)
            value = value.to(tl.float16, bitcast=True)
        key, value = key.to(query.dtype), value.to(query.dtype)
        scores = tl.dot(query, key, input_precision="ieee") * factor
        if QUANTISED:
            scores = scores * (256.0 * tl.load(key_scale + n * key_scale_l, mask=live, other=0.0))[None, :]
        scores = tl.where(live[None, :], scores, -float("inf"))
        now = tl.maximum(most, tl.max(scores, 1))
        fade = tl.exp2(most - now)
        weight = tl.exp2(scores - now[:, None])
        total = total * fade + tl.sum(weight, 1)
        if QUANTISED:
            weight = weight * (256.0 * tl.load(value_scale + n * value_scale_l, mask=live, other=0.0))[None, :]
        acc = tl.dot(weight.to(query.dtype), value, acc * fade[:, None], input_precision="ieee")
        most = now
    return acc, most, total


def _pair_attention_kernel(
    q,
    k,
    v,
    past_k,
    past_v,
    key_scale,
    value_scale,
    tiles,
    out,
    lse,
    tokens,
    past_tokens,
    heads,
    channels,
    scale,
    q_b,
    q_l,
    q_h,
    k_b,
    k_l,
    k_h,
    v_b,
    v_l,
    v_h,
    past_k_b,
    past_k_l,
    past_k_h,
    past_v_b,
    past_v_l,
    past_v_h,
    key_scale_b,
    key_scale_l,
    key_scale_h,
    value_scale_b,
    value_scale_l,
    value_scale_h,
    PAST: tl.constexpr,
    QUANTISED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program: a tile of queries of one pair, and one head of one sample."""
    tile = tiles + 4 * tl.program_id(0)
    start, end = tl.load(tile), tl.load(tile + 1)
    first, last = tl.load(tile + 2), tl.load(tile + 3)
    b = (tl.program_id(1) // heads).to(tl.int64)
    h = (tl.program_id(1) % heads).to(tl.int64)
    m = (start + tl.arange(0, BLOCK_M)).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    there = (m[:, None] < end) & (d[None, :] < channels)
    query = tl.load(q + b * q_b + h * q_h + m[:, None] * q_l + d[None, :], mask=there, other=0.0)
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    most = tl.full((BLOCK_M,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    factor = scale * 1.4426950408889634  # log2 e: the hardware's exponential is 2^x
    if PAST:
        acc, most, total = _walk(
            acc,
            most,
            total,
            query,
            past_k + b * past_k_b + h * past_k_h,
            past_v + b * past_v_b + h * past_v_h,
            key_scale + b * key_scale_b + h * key_scale_h,
            value_scale + b * value_scale_b + h * value_scale_h,
            0,
            past_tokens,
            channels,
            factor,
            past_k_l,
            past_v_l,
            key_scale_l,
            value_scale_l,
            QUANTISED,
            BLOCK_N,
            BLOCK_D,
        )
    acc, most, total = _walk(
        acc,
        most,
        total,
        query,
        k + b * k_b + h * k_h,
        v + b * v_b + h * v_h,
        key_scale,
        value_scale,
        first,
        last,
        channels,
        factor,
        k_l,
        v_l,
        0,
        0,
        False,
        BLOCK_N,
        BLOCK_D,
    )
    to_out = out + ((b * tokens + m[:, None]) * heads + h) * channels + d[None, :]
    tl.store(to_out, (acc / total[:, None]).to(out.dtype.element_ty), mask=there)
    tl.store(lse + (b * heads + h) * tokens + m, (most + tl.log2(total)) * 0.6931471805599453, mask=m < end)
