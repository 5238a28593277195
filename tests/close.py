"""Comparison of results that two runs computed apart.

Runs that encode other texts together, or other pictures in one batch, take other paths through a processor's matrix
kernels: their numbers agree to about 1e-7 of each value, and to the last bit on some processors only.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["same_picture", "same_result"]

#: A hundred times what was seen between batch sizes on different processors (4e-9 … 3e-7), a thousandth of what a
#: wrong seed, prompt or frame changes.
TOLERANCE = 1e-5


def same_result(a: Any, b: Any, tolerance: float = TOLERANCE) -> bool:
    """Whether two JSON values are the same but for the rounding of floats."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_result(a[key], b[key], tolerance) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same_result(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) or math.isnan(a) and math.isnan(b)
    return bool(a == b)


def same_picture(a: Any, b: Any) -> bool:
    """Whether two picture files show the same: at most one code apart (a value on the edge of rounding), and rarely."""
    x, y = (np.asarray(Image.open(path)).astype(int) for path in (a, b))
    return x.shape == y.shape and bool((abs(x - y) <= 1).all()) and bool((x != y).mean() < 0.01)
