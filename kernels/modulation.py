"""Normalise and modulate, and add a gated update, with one modulation for every segment of tokens.

In a video every latent frame has its own timestep, and in interleaved keyframes every pair has (SmartDirector §3.2,
Captain Cinema §3.2). A block's modulation is then `[B, S, D]` for S segments of tokens; written out for every token
it would be as large as the activations. These operators read each activation once and never write it out.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import InputError
from .launch import chosen, jit, on_device

__all__ = [
    "WIDEST",
    "gate_residual_reference",
    "norm_modulate_reference",
    "row_block",
    "segment_gate_residual",
    "segment_norm_modulate",
]

tl: Any = None
"""`triton.language`, once a kernel was wanted."""

WIDEST = 16384
"""One program holds a whole row of so many channels in registers at most."""


def segment_norm_modulate(
    x: Tensor, scale: Tensor, shift: Tensor, index: Tensor | None = None, *, eps: float = 1e-6, rms: bool = False
) -> Tensor:
    """norm(x)·(1 + scale) + shift, computed in fp32 and rounded once.

    Args:
        x: `[B, L, D]`.
        scale, shift: `[B or 1, S, D]`, one row for each segment.
        index: int `[L]`, the segment of every token, in 0…S−1 (not checked: that would wait for the GPU); None: S
            segments of equal length, one after the other.
        eps: of the norm.
        rms: RMSNorm instead of LayerNorm; neither has weights.

    Returns:
        `[B, L, D]` in the dtype of `x`.

    Raises:
        InputError: shapes that do not fit.
    """
    scale, shift = _rows(x, scale, "scale", index), _rows(x, shift, "shift", index)
    if _suits(x, scale, shift):
        return _norm_modulate(x, scale, shift, index, eps, rms)
    return norm_modulate_reference(x, scale, shift, index, eps=eps, rms=rms)


def segment_gate_residual(x: Tensor, update: Tensor, gate: Tensor, index: Tensor | None = None) -> Tensor:
    """x + gate·update, computed in fp32 and rounded once.

    Args:
        x, update: `[B, L, D]`.
        gate: `[B or 1, S, D]`.
        index: as in `segment_norm_modulate`.

    Returns:
        `[B, L, D]` in the dtype of `x`.

    Raises:
        InputError: shapes that do not fit.
    """
    gate = _rows(x, gate, "gate", index)
    if update.shape != x.shape:
        raise InputError("update", "must have the shape of x", list(update.shape), f"give {list(x.shape)}")
    if _suits(x, update, gate):
        return _gate_residual(x, update, gate, index)
    return gate_residual_reference(x, update, gate, index)


def _rows(x: Tensor, rows: Tensor, name: str, index: Tensor | None) -> Tensor:
    """`rows` for every sample of the batch, checked."""
    batch, tokens, width = x.shape
    if rows.ndim != 3 or rows.shape[0] not in (1, batch) or rows.shape[2] != width:
        rule = f"must be [{batch} or 1, segments, {width}]"
        raise InputError(name, rule, list(rows.shape), "give one row of modulation for each segment")
    if index is None and tokens % rows.shape[1]:
        rule = f"must have a number of segments that divides {tokens} tokens"
        raise InputError(name, rule, rows.shape[1], "give `index`, the segment of every token")
    if index is not None and index.shape != (tokens,):
        raise InputError("index", f"must be [{tokens}]", list(index.shape), "give the segment of every token")
    return rows.expand(batch, -1, -1)


def _suits(x: Tensor, *others: Tensor) -> bool:
    """Whether the kernels take these tensors. They have few dtypes and one device."""
    if x.shape[2] > WIDEST or not chosen(x):
        return False
    return all(y.dtype in (torch.float32, torch.bfloat16, torch.float16) and y.device == x.device for y in (x, *others))


# --- PyTorch ---------------------------------------------------------------------------------------------------------


def norm_modulate_reference(
    x: Tensor, scale: Tensor, shift: Tensor, index: Tensor | None = None, *, eps: float = 1e-6, rms: bool = False
) -> Tensor:
    """`segment_norm_modulate` in PyTorch, differentiable; keeps fp64."""
    wide = _wide(x)
    n = F.rms_norm(wide, wide.shape[-1:], eps=eps) if rms else F.layer_norm(wide, wide.shape[-1:], eps=eps)
    y = _split(n, scale, index) * (1 + _spread(scale, index)) + _spread(shift, index)
    return y.view(x.shape).to(x.dtype)


def gate_residual_reference(x: Tensor, update: Tensor, gate: Tensor, index: Tensor | None = None) -> Tensor:
    """`segment_gate_residual` in PyTorch, differentiable; keeps fp64."""
    y = _split(_wide(x), gate, index) + _split(_wide(update), gate, index) * _spread(gate, index)
    return y.view(x.shape).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _split(x: Tensor, rows: Tensor, index: Tensor | None) -> Tensor:
    """`[B, L, D]` so that `_spread(rows)` fits: `[B, S, L/S, D]` for equal segments."""
    return x if index is not None else x.reshape(x.shape[0], rows.shape[1], -1, x.shape[2])


def _spread(rows: Tensor, index: Tensor | None) -> Tensor:
    """A row for every token, without writing it out for equal segments."""
    return _wide(rows)[:, index] if index is not None else _wide(rows)[:, :, None]


def _gather(x: Tensor, rows: Tensor, index: Tensor | None) -> Tensor:
    """The sum of every segment's tokens, `[B, L, D]` → `[B, S, D]` in the dtype of `rows`: the adjoint of `_spread`."""
    if index is None:
        return _split(x, rows, None).sum(2).to(rows.dtype)
    return x.new_zeros(rows.shape).index_add_(1, index, x).to(rows.dtype)


# --- Triton ----------------------------------------------------------------------------------------------------------


def row_block(width: int) -> tuple[int, int]:
    """(channels of a program, a power of two; warps) for rows of so many channels."""
    block = max(16, 1 << (width - 1).bit_length())
    return block, min(16, max(1, block // 512))


def _norm_modulate_kernel(
    x,
    scale,
    shift,
    index,
    out,
    tokens,
    width,
    run,
    eps,
    x_b,
    x_l,
    scale_b,
    scale_s,
    shift_b,
    shift_s,
    INDEXED: tl.constexpr,
    RMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program, one token: its row stays in registers between the sums and the result."""
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // tokens, row % tokens
    segment = token // run
    if INDEXED:
        segment = tl.load(index + token).to(tl.int64)
    at = tl.arange(0, BLOCK)
    there = at < width
    value = tl.load(x + batch * x_b + token * x_l + at, mask=there, other=0.0).to(tl.float32)
    if not RMS:
        value = tl.where(there, value - tl.sum(value, 0) / width, 0.0)
    value = value * (1.0 / tl.sqrt(tl.sum(value * value, 0) / width + eps))
    a = tl.load(scale + batch * scale_b + segment * scale_s + at, mask=there, other=0.0).to(tl.float32)
    b = tl.load(shift + batch * shift_b + segment * shift_s + at, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, (value * (1.0 + a) + b).to(out.dtype.element_ty), mask=there)


def _gate_residual_kernel(
    x,
    update,
    gate,
    index,
    out,
    tokens,
    width,
    run,
    x_b,
    x_l,
    update_b,
    update_l,
    gate_b,
    gate_s,
    INDEXED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // tokens, row % tokens
    segment = token // run
    if INDEXED:
        segment = tl.load(index + token).to(tl.int64)
    at = tl.arange(0, BLOCK)
    there = at < width
    value = tl.load(x + batch * x_b + token * x_l + at, mask=there, other=0.0).to(tl.float32)
    more = tl.load(update + batch * update_b + token * update_l + at, mask=there, other=0.0).to(tl.float32)
    g = tl.load(gate + batch * gate_b + segment * gate_s + at, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, (value + more * g).to(out.dtype.element_ty), mask=there)


def _packed(x: Tensor) -> Tensor:
    """Channels must lie next to each other; tokens and samples may be anywhere."""
    return x if x.stride(-1) == 1 else x.contiguous()


@torch.library.custom_op("anchorshot::segment_norm_modulate", mutates_args=())
def _norm_modulate(x: Tensor, scale: Tensor, shift: Tensor, index: Tensor | None, eps: float, rms: bool) -> Tensor:
    batch, tokens, width = x.shape
    out = x.new_empty(x.shape)
    if out.numel() == 0:
        return out
    x, scale, shift = _packed(x), _packed(scale), _packed(shift)
    block, warps = row_block(width)
    with on_device(x):
        jit(_norm_modulate_kernel)[(batch * tokens,)](
            x,
            scale,
            shift,
            x if index is None else index.contiguous(),
            out,
            tokens,
            width,
            tokens // scale.shape[1] or 1,
            eps,
            *x.stride()[:2],
            *scale.stride()[:2],
            *shift.stride()[:2],
            INDEXED=index is not None,
            RMS=rms,
            BLOCK=block,
            num_warps=warps,
        )
    return out


@torch.library.custom_op("anchorshot::segment_gate_residual", mutates_args=())
def _gate_residual(x: Tensor, update: Tensor, gate: Tensor, index: Tensor | None) -> Tensor:
    batch, tokens, width = x.shape
    out = x.new_empty(x.shape)
    if out.numel() == 0:
        return out
    x, update, gate = _packed(x), _packed(update), _packed(gate)
    block, warps = row_block(width)
    with on_device(x):
        jit(_gate_residual_kernel)[(batch * tokens,)](
            x,
            update,
            gate,
            x if index is None else index.contiguous(),
            out,
            tokens,
            width,
            tokens // gate.shape[1] or 1,
            *x.stride()[:2],
            *update.stride()[:2],
            *gate.stride()[:2],
            INDEXED=index is not None,
            BLOCK=block,
            num_warps=warps,
        )
    return out


@_norm_modulate.register_fake
def _(x: Tensor, scale: Tensor, shift: Tensor, index: Tensor | None, eps: float, rms: bool) -> Tensor:
    return x.new_empty(x.shape)


@_gate_residual.register_fake
def _(x: Tensor, update: Tensor, gate: Tensor, index: Tensor | None) -> Tensor:
    return x.new_empty(x.shape)


# --- gradients: the reference's arithmetic, in PyTorch ---------------------------------------------------------------


def _keep_norm(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, scale, shift, index, ctx.eps, ctx.rms = inputs
    ctx.shift_dtype = shift.dtype
    ctx.save_for_backward(x, scale, index)


def _norm_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, scale, index = ctx.saved_tensors
    value, grad = _wide(x), _wide(grad)
    if not ctx.rms:
        value = value - value.mean(-1, keepdim=True)
    inverse = torch.rsqrt(value.square().mean(-1, keepdim=True) + ctx.eps)
    normed = value * inverse
    d_scale = _gather(grad * normed, scale, index) if ctx.needs_input_grad[1] else None
    d_shift = _gather(grad, scale, index).to(ctx.shift_dtype) if ctx.needs_input_grad[2] else None
    d_x = None
    if ctx.needs_input_grad[0]:
        inner = (_split(grad, scale, index) * (1 + _spread(scale, index))).view(x.shape)
        d_x = inner - normed * (inner * normed).mean(-1, keepdim=True)
        if not ctx.rms:
            d_x = d_x - inner.mean(-1, keepdim=True)
        d_x = (d_x * inverse).to(x.dtype)
    return d_x, d_scale, d_shift, None, None, None


def _keep_gate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, update, gate, index = inputs
    ctx.save_for_backward(update, gate, index)


def _gate_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    update, gate, index = ctx.saved_tensors
    wide = _wide(grad)
    d_update = d_gate = None
    if ctx.needs_input_grad[1]:
        d_update = (_split(wide, gate, index) * _spread(gate, index)).view(update.shape).to(update.dtype)
    if ctx.needs_input_grad[2]:
        d_gate = _gather(wide * _wide(update), gate, index)
    return grad, d_update, d_gate, None


_norm_modulate.register_autograd(_norm_gradients, setup_context=_keep_norm)
_gate_residual.register_autograd(_gate_gradients, setup_context=_keep_gate)
