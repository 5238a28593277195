"""Kernels without a GPU: random shapes in Triton's interpreter against the references, and the GPUs they compile for.

Nothing here is a time. On a machine with a GPU the keyframe and video suites time the models that use the kernels; the
environment variable ANCHORSHOT_KERNELS=off gives the figures without.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from ..core.errors import InputError
from .kernel_parity import FAMILIES, MARKS
from .kernel_targets import SHARED, Build, compile_variant, variants
from .table import Row, row

__all__ = ["run_kernels"]

CASES = 600
_UNIT = {"fp32": "error in fp32", "bf16": "relative error in bf16", "gradient": "error of gradients in fp32"}


def run_kernels(count: int = CASES) -> list[Row]:
    """Rows of largest errors beside the marks, and of what compiled kernels take beside what a GPU has.

    Args:
        count: random shapes, the kernels in turn.

    Raises:
        InputError: Triton is not installed.
        RuntimeError: a kernel does not run in the interpreter.
    """
    if importlib.util.find_spec("triton") is None:
        fix = "install it (`make kernels` does), or use another suite: kernels are optional"
        raise InputError("triton", "must be installed to check the kernels", None, fix)
    return [*_parity_rows(list(_cases(count))), *_build_rows()]


def _cases(count: int) -> Iterator[dict[str, Any]]:
    """Figures of `kernel_parity.check`, from a process in which Triton interprets."""
    command = [sys.executable, "-m", f"{__package__}.kernel_parity", "--cases", str(count)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError("a kernel does not run in Triton's interpreter, see above")
    yield from map(json.loads, done.stdout.splitlines())


def _parity_rows(found: list[dict[str, Any]]) -> Iterator[Row]:
    for family in FAMILIES:
        cases = [case for case in found if case["family"] == family]
        for name, mark in MARKS.items():
            worst = max(cases, key=lambda case: case[name])
            what = (
                f"{family}: largest {_UNIT[name]} over {len(cases)} shapes (seed {worst['seed']}); reference: the mark"
            )
            yield row(what, worst[name], mark)


def _build_rows() -> Iterator[Row]:
    """For each GPU and operator, the variants that take most."""
    for target, shared in SHARED.items():
        builds: dict[str, list[Build]] = {}
        for variant in variants(target):
            builds.setdefault(variant.name.split(",")[0], []).append(compile_variant(variant, target))
        for operator, all_ in builds.items():
            spilled = max(build.spilled for build in all_)
            worst = max(all_, key=lambda build: build.registers / build.most)
            what = f"{operator}, {len(all_)} variants on sm_{target}"
            yield row(
                f"{what}: registers ({spilled} bytes spilled at most); reference: the most", worst.registers, worst.most
            )
            most = max(build.shared for build in all_)
            yield row(f"{what}: bytes of shared memory; reference: the most that the GPU has", most, shared)
