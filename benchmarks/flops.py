"""FLOPs of FLUX.1-dev at full size over interleaved keyframes, beside Captain Cinema's Table 3.

Frames of 400×800 px are 25×50 tokens. The layouts, for P pairs:

* full: every pair at full size, full attention (Table 3, first rows).
* GoldenMem: P/4 new pairs at full size and 3 tiers × P/4 remembered ones. 16 = 4 + 3×4, 32 = 8 + 3×8 and
  48 = 12 + 3×12 is the only reading in which Table 3's pairs and groups add up; Appendix E also has 12 + 4.
* GoldenMem, one new: one new pair, all others remembered on 3 tiers.
* GoldenMem + cache: the same, with keys and values of the remembered pairs cached (causal attention).
"""

from __future__ import annotations

import math

import torch

from ..memory.golden_mem import GoldenMem
from ..models.backbones.flux.cost import FLUX_DEV, count_flux, flux_cost
from ..models.backbones.flux.headless import CaptainFlux
from ..models.cost import Cost, Pair, memory_pairs
from .table import Row, row

__all__ = ["PAIRS", "TABLE_3", "flops_rows", "layouts"]

FRAME = (25, 50)
PAIRS = (1, 8, 16, 32, 48)
CAPTIONS = (64, 512)
STEPS = 28
"""Steps of a frame in the rows that spread the filling of the cache over them; FLUX.1-dev's usual number."""

TABLE_3 = {
    ("full", 16): 30.0,
    ("GoldenMem", 16): 21.0,
    ("full", 32): 55.0,
    ("GoldenMem", 32): 35.0,
    ("GoldenMem", 48): 52.0,
}
"""The paper's estimate in PFLOPs, #tokens × steps × FLOP/token; 48 full pairs ran out of memory."""


def layouts(pairs: int, text: int) -> dict[str, tuple[list[Pair], list[Pair]]]:
    """Return (pairs that are computed, pairs that are cached) of each layout, captions of `text` tokens."""
    frame = Pair(FRAME, text)
    if pairs == 1:
        return {"full": ([frame], [])}
    new = max(1, pairs // 4)
    memory = memory_pairs(GoldenMem(3, new).plan(3 * new, FRAME), text)
    rest = pairs - 1
    behind = memory_pairs(GoldenMem(3, math.ceil(rest / 3)).plan(rest, FRAME), text)
    return {
        "full": ([frame] * pairs, []),
        "GoldenMem": ([*memory, *[frame] * new], []),
        "GoldenMem, one new": ([*behind, frame], []),
        "GoldenMem + cache, one new": ([frame], behind),
    }


def _cost(layout: tuple[list[Pair], list[Pair]]) -> Cost:
    computed, cached = layout
    return flux_cost(FLUX_DEV, computed, mode="causal" if cached else "full", cached=cached, output="all")


def flops_rows(count_on_meta: bool = True) -> list[Row]:
    """Return the rows: what a step takes, against full pairs and a single image, and against the paper's ratios."""
    rows: list[Row] = []
    for text in CAPTIONS:
        captions = f"captions of {text}"
        single = _cost(layouts(1, text)["full"]).flops
        base = _cost(layouts(16, text)["full"])
        for pairs in PAIRS:
            full = _cost(layouts(pairs, text)["full"]).flops
            for name, layout in layouts(pairs, text).items():
                cost = _cost(layout)  # the first, `full`, has itself as reference: its row gives the figure
                what = f"TFLOP a step, {pairs} pairs, {name}; reference: full; {captions}"
                rows.append(row(what, cost.flops / 1e12, full / 1e12))
        for pairs in PAIRS[1:]:
            computed, cached = layouts(pairs, text)["GoldenMem + cache, one new"]
            step = _cost((computed, cached)).flops
            what = f"TFLOP a step on the cache, {pairs} pairs; reference: a single image; {captions}"
            rows.append(row(what, step / 1e12, single / 1e12))
            fill = flux_cost(FLUX_DEV, cached, mode="causal", output="none").flops
            what = f"the same, {pairs} pairs, with its share of filling the cache once in {STEPS} steps; {captions}"
            rows.append(row(what, (step + fill / STEPS) / 1e12, single / 1e12))
        for (name, pairs), petaflops in list(TABLE_3.items())[1:]:
            cost = _cost(layouts(pairs, text)[name])
            paper = petaflops / TABLE_3["full", 16]
            what = f"FLOPs, {pairs} pairs, {name}, over 16 full pairs; reference: Table 3; {captions}"
            rows.append(row(what, cost.flops / base.flops, paper))
            what = f"tokens, {pairs} pairs, {name}, over 16 full pairs; reference: Table 3; {captions}"
            rows.append(row(what, cost.tokens / base.tokens, paper))
    return rows + (_meta_rows() if count_on_meta else [])


def _meta_rows() -> list[Row]:
    """Compare the closed form with a count of the real class on the meta device, at 48 pairs."""
    with torch.device("meta"):
        model = CaptainFlux(**FLUX_DEV)
    rows = []
    for name, (computed, cached) in layouts(48, 64).items():
        counted = count_flux(model, computed, mode="causal" if cached else "full", cached=cached)
        what = f"TFLOP a step, 48 pairs, {name}, closed form; reference: counted on the meta device"
        rows.append(row(what, _cost((computed, cached)).flops / 1e12, counted / 1e12))
    return rows
