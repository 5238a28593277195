"""RMSNorm of queries or keys and their rotary embedding in one pass, at whole or fractional positions.

Two conventions turn a pair of channels (a, b) by an angle θ into (a·cos θ − b·sin θ, a·sin θ + b·cos θ):
* interleaved: channels 2i and 2i+1 are pair i (Flux, Wan, Qwen-Image, Mochi, in diffusers and in ComfyUI);
* halves: channels i and i + d/2 are (language models, such as Qwen2.5-VL).
The norm is over the channels of a head (Flux, Qwen-Image) or over all heads together (Wan).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.errors import InputError
from .launch import chosen, jit, on_device

__all__ = ["LARGEST", "norm_rope", "norm_rope_reference", "qk_norm_rope", "rope_angles", "takes", "tile"]

tl: Any = None
"""`triton.language`, once a kernel was wanted."""

LARGEST = 16384
"""One program holds all heads of a token: heads × channels, each brought to a power of two, at most."""


def rope_angles(positions: Tensor, axes: Sequence[int], theta: float = 10000.0) -> Tensor:
    """Angles of rotary embedding, fp32.

    Args:
        positions: `[…, L, A]`, a position on each of A axes, fractions as they are (MC-RoPE, SmartDirector Eq. 4).
        axes: channels of a head that each axis turns, even numbers; their sum is d.

    Returns:
        `[…, L, d/2]`, one angle for each pair of channels.
    """
    parts = []
    for axis, channels in enumerate(axes):
        # In fp64: a position of 4000 in fp32 times a frequency is off by 2e-4 of a turn.
        exponents = torch.arange(0, channels, 2, dtype=torch.float64, device=positions.device) / channels
        parts.append(positions[..., axis, None].double() * theta**-exponents)
    return torch.cat(parts, -1).float()


def takes(x: Tensor, *norms: Any) -> bool:
    """Whether a kernel computes in the place of these modules: stock RMSNorms with weights where `x` is. A module whose
    weights are fetched when it is called (offloading) has to be called.
    """
    return chosen(x) and all(
        type(norm) is torch.nn.RMSNorm
        and norm.eps is not None
        and norm.weight is not None
        and norm.weight.device == x.device
        and "forward" not in vars(norm)
        for norm in norms
    )


def qk_norm_rope(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    rope: tuple[Tensor, Tensor] | Tensor,
    *,
    eps: float = 1e-6,
    interleaved: bool = True,
) -> tuple[Tensor, Tensor]:
    """`norm_rope` of queries and of keys."""
    table = (rope.cos(), rope.sin()) if isinstance(rope, Tensor) else rope
    return (
        norm_rope(q, q_weight, table, eps=eps, interleaved=interleaved),
        norm_rope(k, k_weight, table, eps=eps, interleaved=interleaved),
    )


def norm_rope(
    x: Tensor,
    weight: Tensor,
    rope: tuple[Tensor, Tensor] | Tensor,
    *,
    eps: float = 1e-6,
    interleaved: bool = True,
) -> Tensor:
    """RMSNorm with weights, then rotary embedding, computed in fp32 and rounded once.

    Args:
        x: `[B, L, H, d]`, d even.
        weight: `[d]`: the norm is over a head's channels; `[H·d]`: over all heads together.
        rope: (cos, sin), or angles (`rope_angles`): `[L, d/2]` or `[1 or B, L, d/2]`, a value for every pair.
            Tables that hold each value twice fit as `cos[..., ::2]`. They get no gradient.
        eps: of the norm.
        interleaved: which channels are a pair, see above.

    Returns:
        `[B, L, H, d]` in the dtype of `x`.

    Raises:
        InputError: shapes that do not fit.
    """
    cos, sin = (rope.cos(), rope.sin()) if isinstance(rope, Tensor) else rope
    batch, tokens, heads, channels = x.shape
    if channels % 2:
        raise InputError("x", "must have an even number of channels in a head", channels, "give [B, L, H, d]")
    if weight.numel() not in (channels, heads * channels):
        rule = f"must have {channels} values, or {heads * channels} for a norm over all heads"
        raise InputError("weight", rule, weight.numel(), "give the norm's weight")
    for name, table in (("cos", cos), ("sin", sin)):
        if table.shape[-2:] != (tokens, channels // 2) or table.shape[:-2] not in ((), (1,), (batch,)):
            rule = f"must be [{tokens}, {channels // 2}], or that for each of {batch} samples"
            raise InputError(name, rule, list(table.shape), "give one value for each token and pair of channels")
    cos, sin = (table.expand(batch, -1, -1) for table in (cos, sin))
    known = all(
        y.dtype in (torch.float32, torch.bfloat16, torch.float16) and y.device == x.device
        for y in (x, weight, cos, sin)
    )
    block_h, block_d, _ = tile(heads, channels)
    if known and block_h * block_d <= LARGEST and chosen(x):
        return _norm_rope(x, weight.flatten(), cos.detach(), sin.detach(), eps, interleaved)
    return norm_rope_reference(x, weight, (cos, sin), eps=eps, interleaved=interleaved)


# --- PyTorch ---------------------------------------------------------------------------------------------------------


def norm_rope_reference(
    x: Tensor, weight: Tensor, rope: tuple[Tensor, Tensor], *, eps: float = 1e-6, interleaved: bool = True
) -> Tensor:
    """`norm_rope` in PyTorch, differentiable; keeps fp64."""
    wide = _wide(x)
    n = wide * _inverse(wide, weight, eps) * _per_head(weight, x)
    return _turned(n, *rope, interleaved).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _axes(x: Tensor, weight: Tensor) -> list[int]:
    """What the norm is over."""
    return [-1] if weight.numel() == x.shape[3] else [-2, -1]


def _per_head(weight: Tensor, x: Tensor) -> Tensor:
    return _wide(weight).view(-1, x.shape[3])


def _inverse(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return torch.rsqrt(x.square().mean(_axes(x, weight), keepdim=True) + eps)


def _turned(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Every pair of channels turned by its angle; the inverse of a turn is one with −sin."""
    cos, sin = (table.unsqueeze(-2).to(x.dtype) for table in (cos, sin))
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1) if interleaved else x.chunk(2, -1)
    parts = (a * cos - b * sin, a * sin + b * cos)
    return torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1)


# --- Triton ----------------------------------------------------------------------------------------------------------


def tile(heads: int, channels: int) -> tuple[int, int, int]:
    """(heads, channels) of a program, powers of two, and its warps."""
    block_h, block_d = 1 << (heads - 1).bit_length(), max(4, 1 << (channels - 1).bit_length())
    return block_h, block_d, min(16, max(1, block_h * block_d // 512))


def _norm_rope_kernel(
    x,
    weight,
    cos,
    sin,
    out,
    tokens,
    heads,
    channels,
    eps,
    x_b,
    x_l,
    x_h,
    weight_h,
    cos_b,
    cos_l,
    cos_p,
    sin_b,
    sin_l,
    sin_p,
    ACROSS: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """One program, one token with all its heads, so that its angles are read once."""
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // tokens, row % tokens
    h, p = tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_D // 2)
    half = channels // 2
    c = tl.load(cos + batch * cos_b + token * cos_l + p * cos_p, mask=p < half, other=1.0).to(tl.float32)[None, :]
    s = tl.load(sin + batch * sin_b + token * sin_l + p * sin_p, mask=p < half, other=0.0).to(tl.float32)[None, :]
    from_x = x + batch * x_b + token * x_l + h[:, None] * x_h
    to_out = out + row * heads * channels + h[:, None] * channels
    from_weight = weight + h[:, None] * weight_h
    if INTERLEAVED:
        # Whole rows are read and parted in registers: neighbouring channels come in one wide load.
        d = tl.arange(0, BLOCK_D)[None, :]
        there = (h[:, None] < heads) & (d < channels)
        value = tl.load(from_x + d, mask=there, other=0.0).to(tl.float32)
        squares = tl.sum(value * value, 1)
    else:
        d = p[None, :]
        there = (h[:, None] < heads) & (d < half)
        a = tl.load(from_x + d, mask=there, other=0.0).to(tl.float32)
        b = tl.load(from_x + half + d, mask=there, other=0.0).to(tl.float32)
        squares = tl.sum(a * a + b * b, 1)
    if ACROSS:
        inverse = 1.0 / tl.sqrt(tl.sum(squares, 0) / (heads * channels) + eps)
    else:
        inverse = (1.0 / tl.sqrt(squares / channels + eps))[:, None]
    if INTERLEAVED:
        value = value * inverse * tl.load(from_weight + d, mask=there, other=0.0).to(tl.float32)
        a, b = tl.split(tl.reshape(value, (BLOCK_H, BLOCK_D // 2, 2)))
        value = tl.reshape(tl.join(a * c - b * s, a * s + b * c), (BLOCK_H, BLOCK_D))
        tl.store(to_out + d, value.to(out.dtype.element_ty), mask=there)
    else:
        a = a * inverse * tl.load(from_weight + d, mask=there, other=0.0).to(tl.float32)
        b = b * inverse * tl.load(from_weight + half + d, mask=there, other=0.0).to(tl.float32)
        tl.store(to_out + d, (a * c - b * s).to(out.dtype.element_ty), mask=there)
        tl.store(to_out + half + d, (a * s + b * c).to(out.dtype.element_ty), mask=there)


@torch.library.custom_op("anchorshot::norm_rope", mutates_args=())
def _norm_rope(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float, interleaved: bool) -> Tensor:
    batch, tokens, heads, channels = x.shape
    out = x.new_empty(x.shape)
    if out.numel() == 0:
        return out
    x = x if x.stride(-1) == 1 else x.contiguous()
    weight = weight.contiguous()
    block_h, block_d, warps = tile(heads, channels)
    across = weight.numel() != channels
    with on_device(x):
        jit(_norm_rope_kernel)[(batch * tokens,)](
            x,
            weight,
            cos,
            sin,
            out,
            tokens,
            heads,
            channels,
            eps,
            *x.stride()[:3],
            channels if across else 0,
            *cos.stride(),
            *sin.stride(),
            ACROSS=across,
            INTERLEAVED=interleaved,
            BLOCK_H=block_h,
            BLOCK_D=block_d,
            num_warps=warps,
        )
    return out


@_norm_rope.register_fake
def _(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float, interleaved: bool) -> Tensor:
    return x.new_empty(x.shape)


# --- gradients: the reference's arithmetic, in PyTorch ---------------------------------------------------------------


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, cos, sin, ctx.eps, ctx.interleaved = inputs
    ctx.save_for_backward(x, weight, cos, sin)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, cos, sin = ctx.saved_tensors
    value, grad = _wide(x), _turned(_wide(grad), cos, -sin, ctx.interleaved)
    inverse = _inverse(value, weight, ctx.eps)
    normed = value * inverse
    d_x = d_weight = None
    if ctx.needs_input_grad[0]:
        inner = grad * _per_head(weight, x)
        d_x = (inverse * (inner - normed * (inner * normed).mean(_axes(x, weight), keepdim=True))).to(x.dtype)
    if ctx.needs_input_grad[1]:
        one = weight.numel() == x.shape[3]
        d_weight = (grad * normed).sum((0, 1, 2) if one else (0, 1)).to(weight.dtype).view_as(weight)
    return d_x, d_weight, None, None, None, None


_norm_rope.register_autograd(_gradients, setup_context=_keep)
