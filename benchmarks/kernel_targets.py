"""Kernels compiled ahead of time for GPUs that need not be there: what each would take of a GPU's registers and shared
memory, at the shapes of the public models.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..kernels import modulation, pair_attention_kernel, rotary
from ..kernels.launch import jit

__all__ = ["SHARED", "TARGETS", "Build", "Variant", "compile_variant", "variants"]

KIB = 1024
SHARED = {80: 163 * KIB, 89: 99 * KIB, 90: 227 * KIB, 100: 227 * KIB, 120: 99 * KIB}
"""Bytes of shared memory that one program may take, by compute capability (CUDA C++ Programming Guide, technical
specifications): A100, RTX 4090, H100, B200, RTX 5090.
"""
TARGETS = tuple(SHARED)

_REGISTERS = 65536
"""Of a multiprocessor; a thread has at most 255."""


@dataclass(frozen=True)
class Variant:
    """One kernel for one kind of input.

    Attributes:
        name: the operator and what it is for.
        kernel: the function.
        pointers: element types of its pointers by name.
        constants: its compile-time arguments.
        warps, stages: as its launch chooses them.
        floats: its arguments that are floats.
        helpers: as in `jit`.
        odd: integers that are no multiples of 16, at these shapes.
    """

    name: str
    kernel: Callable[..., Any]
    pointers: dict[str, str]
    constants: dict[str, Any]
    warps: int
    stages: int = 3
    floats: tuple[str, ...] = ("eps",)
    helpers: tuple[str, ...] = ()
    odd: tuple[str, ...] = ("tokens", "run", "heads", "cos_p", "sin_p", "past_tokens")


@dataclass(frozen=True)
class Build:
    """What a compiled kernel takes.

    Attributes:
        shared: bytes of shared memory of a program.
        registers: of a thread.
        spilled: bytes of a thread that did not fit into registers.
        most: registers that a thread may have with so many warps.
    """

    variant: Variant = field(repr=False)
    target: int
    shared: int
    registers: int
    spilled: int
    most: int


def variants(target: int) -> Iterator[Variant]:
    """The kernels as FLUX.1, Qwen-Image, and Wan 2.1 and 2.2 would launch them on a GPU of this compute capability."""
    for width, rows, indexed, rms in (
        (3072, "bf16", True, False),
        (5120, "fp32", False, False),
        (5120, "fp32", True, True),
    ):
        block, warps = modulation.row_block(width)
        pointers = {"x": "bf16", "out": "bf16", "index": "i64" if indexed else "bf16"}
        constants = {"INDEXED": indexed, "BLOCK": block}
        more = {"scale": rows, "shift": rows}
        name = f"segment_norm_modulate, width {width}"
        yield Variant(name, modulation._norm_modulate_kernel, pointers | more, constants | {"RMS": rms}, warps)
        more = {"update": "bf16", "gate": rows}
        name = f"segment_gate_residual, width {width}"
        yield Variant(name, modulation._gate_residual_kernel, pointers | more, constants, warps, floats=())
    for heads, across, interleaved in ((24, False, True), (40, True, True), (28, False, False)):
        block_h, block_d, warps = rotary.tile(heads, 128)
        yield Variant(
            f"qk_norm_rope, {heads} heads",
            rotary._norm_rope_kernel,
            {"x": "bf16", "weight": "bf16", "cos": "fp32", "sin": "fp32", "out": "bf16"},
            {"ACROSS": across, "INTERLEAVED": interleaved, "BLOCK_H": block_h, "BLOCK_D": block_d},
            warps,
        )
    for channels, kind, past in (
        (128, "bf16", "none"),
        (128, "bf16", "bf16"),
        (128, "bf16", "fp8"),
        (64, "fp16", "fp16"),
        (256, "bf16", "bf16"),
        (128, "fp32", "fp32"),
    ):
        cut = pair_attention_kernel.blocks(channels, 4 if kind == "fp32" else 2, SHARED[target], past == "fp8")
        kept = {"none": kind, "fp8": "u8"}.get(past, past)
        scales = "fp32" if past == "fp8" else kind
        yield Variant(
            f"pair_attention, {channels} channels in {kind}, cache {past}",
            pair_attention_kernel._pair_attention_kernel,
            dict.fromkeys(("q", "k", "v", "out"), kind)
            | {"past_k": kept, "past_v": kept, "key_scale": scales, "value_scale": scales}
            | {"tiles": "i32", "lse": "fp32"},
            {
                "PAST": past != "none",
                "QUANTISED": past == "fp8",
                "BLOCK_M": cut.queries,
                "BLOCK_N": cut.keys,
                "BLOCK_D": channels,
            },
            cut.warps,
            cut.stages,
            floats=("scale",),
            helpers=("_walk",),
            odd=("tokens", "past_tokens", "heads", *(f"{s}_scale_{i}" for s in ("key", "value") for i in "blh")),
        )


def compile_variant(variant: Variant, target: int) -> Build:
    """Compile for an NVIDIA GPU of a compute capability such as 90, and read what the machine code takes.

    Raises:
        Exception: whatever Triton or the assembler refuses.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = jit(variant.kernel, *variant.helpers)
    names = list(inspect.signature(variant.kernel).parameters)
    signature, aligned = {}, {}
    for i, name in enumerate(names):
        if name in variant.constants:
            signature[name] = "constexpr"
            continue
        if name in variant.pointers:
            signature[name] = f"*{variant.pointers[name]}"
        else:
            signature[name] = "fp32" if name in variant.floats else "i32"
        if name not in (*variant.odd, *variant.floats):
            aligned[(i,)] = [["tt.divisibility", 16]]  # what Triton finds at a launch with these shapes
    source = ASTSource(function, signature, constexprs=variant.constants, attrs=aligned)
    options = {"num_warps": variant.warps, "num_stages": variant.stages}
    built = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
    usage = _usage(built.asm["cubin"])
    most = min(255, _REGISTERS // (32 * built.metadata.num_warps))
    return Build(variant, target, built.metadata.shared, usage["REG"], usage["STACK"] + usage["LOCAL"], most)


def _usage(cubin: bytes) -> dict[str, int]:
    """REG, STACK and LOCAL (bytes) of machine code, as NVIDIA's own tool reads them; Triton brings it along."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        done = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True)
    return {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", done.stdout)}
