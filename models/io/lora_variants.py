"""The difference that a LoRA's tensors make to a weight, where it is no product of two matrices on a linear layer.

Convolutions (also with a core tensor in the middle, as LoCon has it), LyCORIS' LoHa (Hadamard products) and LoKr
(Kronecker products): N. Yeh et al., "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model
Evaluation", ICLR 2024. Every shape is checked before it is multiplied out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["VARIANTS", "difference"]

VARIANTS = ("hada_w1_a", "lokr_w1", "lokr_w1_a", "lokr_w2", "lokr_w2_a")
"""Parts by which a variant is known."""


def difference(tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> tuple[Tensor, int | None]:
    """(ΔW in fp32 without its scale, rank by which alpha is divided).

    Args:
        tensors: a module's parts: `A` and `B` (`mid`), `hada_…` or `lokr_…`.
        shape: the weight's, [out, in] or [out, in, *kernel].

    Raises:
        KeyError: a part is missing; its name is the argument.
        ValueError: shapes that do not make this difference.
    """
    if "A" in tensors:
        a, b = tensors["A"].float(), tensors["B"].float()
        if "mid" in tensors:
            delta = _tucker(tensors["mid"].float(), b.flatten(1).T, a.flatten(1), shape)
        else:
            delta = _product(b.flatten(1), a.flatten(1), shape)
        return delta.reshape(shape), a.shape[0]
    if any(name.startswith("hada_") for name in tensors):
        first, second = (_hada(tensors, number, shape) for number in (1, 2))
        return (first * second).reshape(shape), tensors["hada_w1_b"].shape[0]
    return _kronecker(tensors, shape)


def _product(left: Tensor, right: Tensor, shape: tuple[int, ...]) -> Tensor:
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0] or not right.shape[0]:
        raise ValueError(f"[{_sides(left)}] · [{_sides(right)}]")
    if (left.shape[0], right.shape[1]) != (shape[0], math.prod(shape[1:])):
        raise ValueError(f"[{left.shape[0]}, {right.shape[1]}]")
    return left @ right


def _tucker(core: Tensor, out: Tensor, into: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A core [r, s, *kernel] between `out` [r, rows] and `into` [s, columns]."""
    matrices = core.ndim == len(shape) > 2 and out.ndim == into.ndim == 2
    if not matrices or core.shape[:2] != (out.shape[0], into.shape[0]) or not core.numel():
        raise ValueError(f"core [{_sides(core)}], [{_sides(out)}], [{_sides(into)}]")
    if (out.shape[1], into.shape[1], *core.shape[2:]) != tuple(shape):
        raise ValueError(f"[{out.shape[1]}, {into.shape[1]}, {', '.join(map(str, core.shape[2:]))}]")
    return torch.einsum("p s ..., p o, s i -> o i ...", core, out, into)


def _hada(tensors: Mapping[str, Tensor], number: int, shape: tuple[int, ...]) -> Tensor:
    a, b = (tensors[f"hada_w{number}_{side}"].float() for side in "ab")
    core = tensors.get(f"hada_t{number}")
    if core is not None:
        return _tucker(core.float(), a, b, shape)
    return _product(a, b, shape).reshape(shape)


def _kronecker(tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> tuple[Tensor, int | None]:
    rank = None
    factors = []
    for number in (1, 2):
        whole = tensors.get(f"lokr_w{number}")
        if whole is not None:
            factors.append(whole.float())
            continue
        a, b = (tensors[f"lokr_w{number}_{side}"].float() for side in "ab")
        core = tensors.get("lokr_t2") if number == 2 else None
        rank = b.shape[0] if b.ndim else 0
        if core is None:
            if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or not rank:
                raise ValueError(f"w{number}: [{_sides(a)}] · [{_sides(b)}]")
            if a.shape[0] * b.shape[1] > math.prod(shape):
                raise ValueError(f"w{number}: [{a.shape[0]}, {b.shape[1]}]")
            factors.append(a @ b)
        else:
            sides = (a.shape[-1] if a.ndim else 0, b.shape[-1] if b.ndim else 0, *shape[2:])
            factors.append(_tucker(core.float(), a, b, sides))
    first, second = factors
    if second.ndim == 2 < len(shape):  # a convolution's inputs and kernel in one
        second = second.reshape(*second.shape[:1], -1, *shape[2:]) if second.numel() else second
    if first.ndim != 2 or second.ndim != len(shape):
        raise ValueError(f"[{_sides(first)}] ⊗ [{_sides(second)}]")
    first = first.reshape(*first.shape, *[1] * (len(shape) - 2))
    made = tuple(x * y for x, y in zip(first.shape, second.shape, strict=True))
    if made != tuple(shape):
        raise ValueError(f"[{', '.join(map(str, made))}]")
    return torch.kron(first, second), rank


def _sides(tensor: Tensor) -> str:
    return ", ".join(map(str, tensor.shape))
