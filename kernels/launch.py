"""Where the kernels run, and how their source becomes one.

The kernels are Triton functions. Triton is optional: it is imported when a kernel is first wanted, never before, and
where it is missing or does not work the PyTorch references compute.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core.errors import InputError

__all__ = ["SWITCH", "chosen", "interpreted", "jit", "on_device"]

SWITCH = "ANCHORSHOT_KERNELS"
"""Environment variable: `auto` (also when unset): on GPUs where Triton works; `off`: never; `always`: on the CPU, too,
which takes TRITON_INTERPRET=1 and is for tests.
"""

_OLDEST = (8, 0)
"""Compute capability from which tensor cores take bf16."""

_log = logging.getLogger(__name__)

tl: Any = None
"""`triton.language`, once `jit` was called."""


def chosen(x: Tensor) -> bool:
    """Whether kernels compute on the device that `x` is on. A constant to `torch.compile`.

    Raises:
        InputError: the switch holds an unknown word.
    """
    return _chosen(x.device.type, x.device.index)


def _chosen(device: str, index: int | None) -> bool:
    word = os.environ.get(SWITCH, "").strip().lower() or "auto"
    if word not in ("auto", "off", "always"):
        fix = "leave it out to use kernels where they work, or set it to off"
        raise InputError(SWITCH, "must be auto, always or off", word, fix)
    if word == "off":
        return False
    if device == "cuda":  # ROCm calls its devices so, too
        return _works(index)
    return word == "always" and device == "cpu" and interpreted()


# What torch.compiler.assume_constant_result sets; calling it would import the compiler, which takes seconds.
_chosen._dynamo_marked_constant = True  # type: ignore[attr-defined]


def interpreted() -> bool:
    """Whether Triton is there and runs kernels on the CPU, in its interpreter."""
    try:
        import triton
    except ImportError:
        return False
    return bool(triton.knobs.runtime.interpret)


@functools.cache
def _works(index: int | None) -> bool:
    """One small kernel, compiled and compared: a missing compiler or an unknown GPU must not stop a film."""
    device = torch.device("cuda", torch.cuda.current_device() if index is None else index)
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < _OLDEST:
        return False
    x = torch.arange(64, device=device, dtype=torch.float32)
    out = torch.empty_like(x)
    try:
        with on_device(x):
            jit(_probe_kernel)[(1,)](x, out, 64, BLOCK=64)
        if torch.equal(out, x + 1):
            return True
        reason = "a first kernel computed a wrong result"
    except Exception as error:  # whatever the compiler, the driver or the launcher raises
        reason = f"{type(error).__name__}: {error}"
    _log.warning("Triton does not work on %s, PyTorch computes instead (%s)", device, reason)
    return False


def _probe_kernel(x, out, size, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at, mask=at < size) + 1, mask=at < size)


@functools.cache
def jit(kernel: Callable[..., Any], *helpers: str) -> Any:
    """`kernel` as a Triton function, made when first wanted.

    Its module has a global `tl`, which becomes `triton.language`; `helpers` names functions of the module that the
    kernel calls, and these become Triton functions in their places.
    """
    import triton
    import triton.language

    names = kernel.__globals__
    names["tl"] = triton.language
    for helper in helpers:
        names[helper] = triton.jit(names[helper])
    return triton.jit(kernel)


def on_device(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be that of `x`."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
