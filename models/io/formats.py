"""Quantised weights by the description that their file carries: what each format stores, and how weights come back.

ComfyUI describes a layer's format in JSON, in a tensor of bytes beside it (`….comfy_quant`) or in the header's metadata
(`_quantization_metadata`). The arithmetic follows it; comfy-kitchen, which writes such files, is not needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...core.documents import as_integer, as_object
from ...core.errors import InputError

__all__ = ["FIX", "FORMATS", "FP8", "QuantisedFormat", "find_format", "hadamard", "restore", "scaled"]

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
FIX = "use the bf16, fp16, scaled fp8 or int8_convrot file of the same model"
_PART = 1 << 22  # values that are computed in fp32 at once: memory does not follow a layer's size
_MAX_GROUP = 4096
_GROUP = 256  # where a description names none

Turn = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class QuantisedFormat:
    """A format as files name it.

    Attributes:
        name: `format` in a layer's description.
        described: what is stored, for messages.
        storage: types that its weights are stored in; none of a format that is not read.
        turn: of a description and a weight's shape, what is done to each row once its scale is applied; None: nothing.
    """

    name: str
    described: str
    storage: tuple[torch.dtype, ...] = ()
    turn: Callable[[Mapping[str, Any], tuple[int, ...]], Turn | None] = lambda description, shape: None


def _convrot(description: Mapping[str, Any], shape: tuple[int, ...]) -> Turn | None:
    """Undo ConvRot's rotation of each group of input channels, where the layer is rotated.

    W_rot = W · Hᵀ per group, with H regular, symmetric and orthogonal: the same product leads back.
    """
    inner = description.get("params")
    inner = inner if isinstance(inner, dict) else {}
    rotated = description.get("convrot", inner.get("convrot", False))
    if not isinstance(rotated, bool):
        raise InputError("convrot", "must be true or false", rotated, "export the file again")
    if not rotated:
        return None
    given = description.get("convrot_groupsize", inner.get("convrot_groupsize", _GROUP))
    size = as_integer(given, "convrot_groupsize", 4, _MAX_GROUP)
    if size & (size - 1) or size.bit_length() % 2 == 0:
        raise InputError("convrot_groupsize", "must be a power of 4", size, "export the file again")
    if len(shape) != 2 or shape[1] % size:
        rule = f"a rotated weight must be a matrix whose columns are groups of {size}"
        raise InputError("shape", rule, shape, "copy or download the file again")
    matrix = hadamard(size)
    return lambda rows: (rows.reshape(-1, size) @ matrix).reshape(rows.shape)


@cache
def hadamard(size: int) -> Tensor:
    """The regular Hadamard matrix of ConvRot, [size, size], fp32, scaled to be orthogonal; `size` is a power of 4."""
    four = torch.ones(4, 4) - 2 * torch.eye(4).flip(1)
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(matrix, four)
    return matrix / math.sqrt(size)


FORMATS = {
    each.name: each
    for each in (
        QuantisedFormat("float8_e4m3fn", "fp8 with a scale per tensor or row", (torch.float8_e4m3fn,)),
        QuantisedFormat("float8_e5m2", "fp8 with a scale per tensor or row", (torch.float8_e5m2,)),
        QuantisedFormat("int8_tensorwise", "int8 with a scale per tensor or row", (torch.int8,), _convrot),
        QuantisedFormat("nvfp4", "4-bit numbers in blocks of 16"),
        QuantisedFormat("mxfp8", "fp8 in blocks of 32"),
        QuantisedFormat("convrot_w4a4", "rotated 4-bit numbers"),
        QuantisedFormat("asym_w4a8_int8", "4-bit numbers in groups"),
    )
}
"""ComfyUI's formats by name; those without storage types are known, but not read."""


def restore(
    source: str, key: str, weight: Tensor, scale: Tensor | None, description: Mapping[str, Any], dtype: torch.dtype
) -> Tensor:
    """A layer's weight in `dtype`, by the description of its format.

    Args:
        source: the file, for messages.
        key: the weight's name.
        weight, scale: as stored; no scale where the file has none.
        description: the layer's JSON; `format` names one of `FORMATS`.
        dtype: of the result.

    Raises:
        InputError: a format that is not read, or tensors that are not what it describes; file and weight are named.
    """
    found = find_format(source, key, description)
    if weight.dtype not in found.storage:
        rule = f"{found.name} weights must be stored as {' or '.join(map(str, found.storage))}"
        raise InputError(source, rule, f"{key}: {weight.dtype}", FIX)
    if scale is None:
        rule, fix = f"{found.name} weights must have a weight_scale", f"copy or download the file again, or {FIX}"
        raise InputError(source, rule, f"{key}: none", fix)
    try:
        turn = found.turn(description, tuple(weight.shape))
    except InputError as error:
        raise InputError(f"{source}: {key}: {error.field}", error.rule, error.value, error.fix) from error
    return scaled(source, key, weight, scale, dtype, turn)


def find_format(source: str, where: str, description: Mapping[str, Any]) -> QuantisedFormat:
    """The format that a description names.

    Raises:
        InputError: unknown, or known and not read.
    """
    name = as_object(description, f"{source}: {where}").get("format")
    found = FORMATS.get(name) if isinstance(name, str) else None
    if found is None or not found.storage:
        read = ", ".join(each.name for each in FORMATS.values() if each.storage)
        seen = f"{where}: {name}" + (f" ({found.described})" if found else "")
        raise InputError(source, f"quantised weights are read as {read}", seen, FIX)
    return found


def scaled(
    source: str, key: str, weight: Tensor, scale: Tensor, dtype: torch.dtype, turn: Turn | None = None
) -> Tensor:
    """Weight · scale, a scale per tensor or per row, then `turn`; fp32 inside, a few rows at a time.

    Raises:
        InputError: scales of another number or type.
    """
    rows = len(weight) if weight.ndim else 1
    if scale.numel() not in (1, rows) or not scale.is_floating_point():
        seen = f"{key}: scale {tuple(scale.shape)} of {scale.dtype}, weight {tuple(weight.shape)}"
        raise InputError(source, "scales are read per tensor or per row", seen, FIX)
    out = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    if weight.is_meta or not weight.numel():
        return out
    flat, into = weight.reshape(rows, -1), out.view(rows, -1)
    factors = scale.float().reshape(-1, 1).expand(rows, 1)
    step = max(1, _PART // flat.shape[1])
    for start in range(0, rows, step):
        part = flat[start : start + step].float().mul_(factors[start : start + step])
        into[start : start + step] = part if turn is None else turn(part)
    return out
