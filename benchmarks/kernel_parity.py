"""Kernels against their references on random shapes, in Triton's interpreter.

    TRITON_INTERPRET=1 python -m anchorshot.benchmarks.kernel_parity --cases 500

The interpreter has to be chosen before Triton is imported, so this is a program of its own, with TRITON_INTERPRET=1 in
its environment. It prints one JSON line for every case.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kernels import launch, modulation, pair_attention, rotary

__all__ = ["FAMILIES", "MARKS", "Case", "check", "excess", "ragged"]

MARKS = {"fp32": 2e-6, "bf16": 1e-2, "gradient": 1e-5}
"""The largest errors that pass, as `excess` measures them."""

Inputs = dict[str, Any]
"""Arguments of an operator; tensors of floats among them get gradients."""

Floors = Callable[[Inputs], list[Tensor | None]]

Case = (
    tuple[Callable[..., Any], Callable[..., Any], Inputs]
    | tuple[Callable[..., Any], Callable[..., Any], Inputs, Floors]
)
"""(operator, reference, arguments), and what bf16 errors are measured against if not the size of the results."""


def ragged(rng: random.Random, segments: int, longest: int) -> list[int]:
    """Lengths of segments, at least one token each."""
    return [rng.randint(1, longest) for _ in range(segments)]


def _randn(*shape: int) -> Tensor:
    return torch.randn(*shape)


def _segments(rng: random.Random) -> tuple[int, int, Tensor | None]:
    """(tokens, segments, index): equal lengths, or an index of ragged runs, or one in any order."""
    segments = rng.randint(1, 5)
    kind = rng.choice(["equal", "ragged", "any"])
    if kind == "equal":
        return segments * rng.randint(1, 6), segments, None
    lengths = ragged(rng, segments, 7)
    index = torch.repeat_interleave(torch.arange(segments), torch.tensor(lengths))
    index = index[torch.randperm(len(index))] if kind == "any" else index
    return sum(lengths), segments, index.to(rng.choice([torch.int32, torch.int64]))


def norm_modulate(rng: random.Random) -> Case:
    """LayerNorm or RMSNorm; modulation as a slice of a wider tensor, as blocks have it, or one for all samples."""
    tokens, segments, index = _segments(rng)
    batch, width = rng.randint(1, 3), rng.choice([1, 7, 16, 33, 64, 129, 512])
    rows = _randn(rng.choice([1, batch]), segments, 2 * width)
    inputs = {
        "x": 3 * _randn(batch, tokens, width) + rng.choice([0, 1]),
        "scale": rows[..., :width],
        "shift": rows[..., width:],
        "index": index,
        "eps": rng.choice([1e-6, 1e-5]),
        "rms": rng.random() < 0.5,
    }
    if width == 1:  # the norm of a single channel is 0: nothing to compare but rounding
        inputs["rms"] = True
    return modulation.segment_norm_modulate, modulation.norm_modulate_reference, inputs


def gate_residual(rng: random.Random) -> Case:
    """The update is a view whose tokens are apart, every other time."""
    tokens, segments, index = _segments(rng)
    batch, width = rng.randint(1, 3), rng.choice([1, 7, 16, 33, 64, 129, 512])
    update = _randn(batch, tokens, 2 * width)[..., :width] if rng.random() < 0.5 else _randn(batch, tokens, width)
    gate = _randn(rng.choice([1, batch]), segments, width)
    inputs = {"x": _randn(batch, tokens, width), "update": update, "gate": gate, "index": index}
    return modulation.segment_gate_residual, modulation.gate_residual_reference, inputs


def norm_rope(rng: random.Random) -> Case:
    """Norm over a head or over all; fractional positions on up to three axes; a table for all samples or for each."""
    batch, tokens, heads = rng.randint(1, 2), rng.randint(1, 9), rng.choice([1, 2, 3, 6])
    axes = rng.choice([(2,), (4, 2), (4, 6, 6), (16, 24, 24), (16, 56, 56)])
    channels = sum(axes)
    per_sample = (batch,) if rng.random() < 0.5 else ()
    positions = torch.randint(-8, 65, (*per_sample, tokens, len(axes))) + rng.choice([0, 0.25, 0.5])
    angles = rotary.rope_angles(positions, axes)
    x = _randn(batch, tokens, heads, channels)
    if rng.random() < 0.5:  # a projection of queries, keys and values in one
        x = _randn(batch, tokens, 3, heads, channels)[:, :, 1]
    inputs = {
        "x": x,
        "weight": 1 + 0.3 * _randn(channels * rng.choice([1, heads])),
        "rope": (angles.cos(), angles.sin()),
        "eps": 1e-6,
        "interleaved": rng.random() < 0.6,
    }
    return rotary.norm_rope, rotary.norm_rope_reference, inputs


def pairs(rng: random.Random) -> Case:
    """Packed rows of ragged pairs, without a cache or behind one: full precision or fp8, shared or a row's own."""
    batch, heads, channels = rng.randint(1, 3), rng.randint(1, 3), rng.choice([2, 8, 16, 24, 64, 128])
    lengths = ragged(rng, rng.randint(1, 5), rng.choice([3, 20, 150]))
    qkv = _randn(batch, sum(lengths), 3, heads, channels)
    inputs: Inputs = dict(zip("qkv", qkv.unbind(2), strict=True))
    inputs |= {"lengths": lengths, "mode": rng.choice(["full", "causal", "causal", "local"])}
    inputs |= dict.fromkeys(("past_k", "past_v", "key_scale", "value_scale"))
    kind = rng.choice(["none", "same", "token", "head"])
    if kind != "none":
        kept = rng.choice([1, 7, 40, 100])
        past = _randn(2, rng.choice([1, batch]), kept + 5, heads, channels)[:, :, :kept]  # of a longer one
        inputs |= {"past_k": past[0], "past_v": past[1]}
        for name, scale in (("past_k", "key_scale"), ("past_v", "value_scale")) if kind != "same" else ():
            inputs[name], inputs[scale] = pair_attention.quantise(inputs[name], kind)  # type: ignore[arg-type]
    reference = _with_cache(pair_attention.pair_attention_reference)

    def floors(given: Inputs) -> list[Tensor | None]:
        """Σ weight·|value| of every result: weights rounded to bf16 cannot do better, however values cancel."""
        values = {key: given[key] for key in ("v", "past_v") if given[key] is not None}
        sizes = {key: value.float().abs().to(value.dtype) for key, value in values.items()}
        return [reference(**given | sizes).out, None]

    return _with_cache(pair_attention.pair_attention), reference, inputs, floors


def _with_cache(operator: Callable[..., pair_attention.Part]) -> Callable[..., pair_attention.Part]:
    def call(past_k: Any, past_v: Any, key_scale: Any, value_scale: Any, **given: Any) -> pair_attention.Part:
        cache = None if past_k is None else pair_attention.Cache(past_k, past_v, key_scale, value_scale)
        return operator(**given, cache=cache)

    return call


FAMILIES: dict[str, Callable[[random.Random], Case]] = {
    "segment_norm_modulate": norm_modulate,
    "segment_gate_residual": gate_residual,
    "qk_norm_rope": norm_rope,
    "pair_attention": pairs,
}


_ONE = torch.ones(())


def excess(a: Tensor, b: Tensor, floor: Tensor | None = None) -> float:
    """The largest |a − b| / max(|b|, floor); by default the floor is the root mean square of b.

    fp32 is measured with a floor of 1: absolute below that, and relative above, where a single last bit of a value of
    16 is 2e-6 already. bf16 is measured against each value, but not against those that are 0 by cancellation.
    """
    if not b.numel():
        return 0.0
    a, b = a.detach().double(), b.detach().double()
    least = b.square().mean().sqrt().clamp(min=1e-3) if floor is None else floor.double()
    return float(((a - b).abs() / torch.maximum(b.abs(), least)).max())


def check(family: str, seed: int) -> dict[str, Any]:
    """One case in fp32 and in bf16: {family, seed, fp32, bf16, gradient}, errors as in `excess`.

    In bf16 the reference gets the same rounded inputs and computes in fp32. The gradient of a random linear function
    of all results is compared with the reference's in fp64.
    """
    rng = random.Random(seed)
    torch.manual_seed(seed)
    kernel, reference, inputs, *more = FAMILIES[family](rng)
    found: dict[str, Any] = {"family": family, "seed": seed}
    with torch.no_grad():
        truth = _results(reference, inputs)
        found["fp32"] = max(map(excess, _results(kernel, inputs), truth, [_ONE] * len(truth)))
        rounded = _cast(inputs, torch.bfloat16)
        exact = _cast(rounded, torch.float32)
        truth = _results(reference, exact)
        floors = more[0](exact) if more else [None] * len(truth)
        found["bf16"] = max(map(excess, _results(kernel, rounded), truth, floors))
    weights = [torch.randn(y.shape, dtype=torch.float64) for y in truth]
    gradients = []
    for operator, dtype in ((kernel, torch.float32), (reference, torch.float64)):
        given = _leaves(_cast(inputs, dtype))
        total = sum((y * w.to(y.dtype)).sum() for y, w in zip(_results(operator, given), weights, strict=True))
        learning = [value for key, value in given.items() if _learns(key, value)]
        gradients.append(torch.autograd.grad(total, learning, allow_unused=True))  # type: ignore[arg-type]
    found["gradient"] = 0.0
    for a, b in zip(*gradients, strict=True):
        if b is not None:  # `local` does not see the cache
            found["gradient"] = max(found["gradient"], excess(a, b, _ONE))
    return found


def _results(operator: Callable[..., Any], inputs: Inputs) -> list[Tensor]:
    out = operator(**inputs)
    return list(out) if isinstance(out, tuple) else [out]


def _learns(name: str, value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dtype.itemsize > 1 and "_scale" not in name


def _cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """The tensors that learn in another precision; tables and scales stay as they are."""
    return {key: value.to(dtype) if _learns(key, value) else value for key, value in inputs.items()}


def _leaves(inputs: Inputs) -> Inputs:
    """The same, where tensors collect gradients."""
    return {k: v.detach().clone().requires_grad_() if _learns(k, v) else v for k, v in inputs.items()}


def _as_gpus_compute() -> None:
    """Teach the interpreter what GPUs do with bf16: round to nearest (it truncates), and multiply values (it multiplies
    their bits).
    """
    from triton import language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, _convert_float

    cast, dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

    def rounding_cast(self: Any, x: Any, dtype: Any) -> Any:
        if x.dtype.scalar == tl.float32 and getattr(dtype, "scalar", dtype) == tl.bfloat16:
            bits = x.data.view(np.uint32)
            nearest = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
            x = TensorHandle(np.where(np.isfinite(x.data), nearest, bits).view(np.float32), x.dtype)
        return cast(self, x, dtype)

    def exact_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        if a.dtype.scalar == tl.bfloat16:
            a, b = (
                TensorHandle(
                    _convert_float(x.data, tl.bfloat16, tl.float32, None).view(np.float32).reshape(x.data.shape),
                    tl.float32,
                )
                for x in (a, b)
            )
        return dot(self, a, b, *rest)

    InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot = rounding_cast, exact_dot


def cases(count: int, seed: int, families: Sequence[str]) -> Iterator[dict[str, Any]]:
    """`count` cases, the families in turn."""
    for i in range(count):
        yield check(families[i % len(families)], seed + i)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a JSON line for every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", action="append", choices=list(FAMILIES))
    options = parser.parse_args(argv)
    os.environ[launch.SWITCH] = "always"
    if not launch.interpreted():
        sys.exit("Triton is not installed, or TRITON_INTERPRET=1 is not set")
    _as_gpus_compute()
    torch.set_num_threads(1)
    for found in cases(options.cases, options.seed, options.family or list(FAMILIES)):
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
