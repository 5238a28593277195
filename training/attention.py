"""Kernels that training should take: attention written out on a CPU, because there the fused kernel's backward is slow
for short sequences, and fused norms.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    **_: object,
) -> Tensor:
    """softmax(q kᵀ · scale) v for [..., L, d] tensors; `attn_mask` is bool (True: attend) or additive. With
    `enable_gqa` several heads of the query share one of key and value.

    Measured on two cores in bf16 at 74 tokens: 3× faster forward and backward than the fused kernel.
    """
    if dropout_p:
        raise ValueError("plain_attention has no dropout")
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    logits = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-1, -2)
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            logits = logits.masked_fill(~attn_mask, torch.finfo(logits.dtype).min)
        else:
            logits = logits + attn_mask
    return logits.softmax(-1).to(value.dtype) @ value


@contextlib.contextmanager
def cpu_attention(enabled: bool = True) -> Iterator[None]:
    """While inside, torch's scaled_dot_product_attention is `plain_attention`."""
    stock = F.scaled_dot_product_attention
    if enabled:
        F.scaled_dot_product_attention = plain_attention  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = stock  # type: ignore[assignment]


def fuse_norms(model: nn.Module) -> None:
    """Let every RMSNorm run in its input's precision: under autocast its weight would stay fp32, and torch has no fused
    kernel for such a mixture.
    """
    for module in model.modules():
        if isinstance(module, nn.RMSNorm):
            module.forward = partial(_rms_norm, module)  # type: ignore[method-assign]


def _rms_norm(module: nn.RMSNorm, x: Tensor) -> Tensor:
    weight = None if module.weight is None else module.weight.to(x.dtype)
    return F.rms_norm(x, tuple(module.normalized_shape), weight, module.eps)
