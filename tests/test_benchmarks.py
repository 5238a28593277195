"""Benchmarks: the figures that need no clock, and the tools that compare."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from anchorshot.benchmarks import print_table, run
from anchorshot.benchmarks.flops import PAIRS, flops_rows, layouts
from anchorshot.benchmarks.keyframes import KeyframeBench
from anchorshot.benchmarks.odd_outcome import judge
from anchorshot.benchmarks.server_clock import slowest
from anchorshot.core.errors import InputError
from anchorshot.evaluation.metrics.cost import peak_bytes, seconds
from anchorshot.models.backbones.flux.cost import FLUX_DEV, flux_cost
from anchorshot.models.layouts.pairs import pack_latent


def flops(pairs: int, name: str, text: int = 64) -> int:
    computed, cached = layouts(pairs, text)[name]
    return flux_cost(FLUX_DEV, computed, mode="causal" if cached else "full", cached=cached, output="all").flops


def test_golden_mem_stays_below_the_paper_and_the_cache_below_two_images() -> None:
    full = flops(16, "full")
    assert flops(48, "GoldenMem") / full <= 52 / 30  # Captain Cinema, Table 3
    assert flops(32, "GoldenMem") / full <= 35 / 30
    assert flops(16, "GoldenMem") / full <= 21 / 30
    assert flops(48, "GoldenMem + cache, one new") / flops(1, "full") <= 1.7


@pytest.mark.parametrize("pairs", PAIRS[1:])
def test_every_layout_holds_all_pairs(pairs: int) -> None:
    for name, (computed, cached) in layouts(pairs, 64).items():
        assert len(computed) + len(cached) == pairs, name
        new = sum(pair.image == (25, 50) for pair in computed)
        assert new == {"full": pairs, "GoldenMem": pairs // 4}.get(name, 1), name


def test_flops_rows_are_ratios_of_what_they_show() -> None:
    rows = flops_rows(count_on_meta=False)
    assert all(set(row) == {"what", "ours", "reference", "ratio"} for row in rows)
    assert all(row["ratio"] == pytest.approx(row["ours"] / row["reference"]) for row in rows)
    assert len({row["what"] for row in rows}) == len(rows)


def test_peak_memory_is_exact() -> None:
    def call(temporaries: int) -> None:
        kept = torch.ones(1 << 18)  # 1 MiB
        for _ in range(temporaries):
            torch.ones(1 << 19)  # 2 MiB each, freed at once
        kept.sum()

    assert peak_bytes(lambda: call(0)) == pytest.approx(1 << 20, rel=0.01)
    assert peak_bytes(lambda: call(1)) == pytest.approx(3 << 20, rel=0.01)
    assert peak_bytes(lambda: call(5)) == pytest.approx(3 << 20, rel=0.01)


def test_calls_take_turns_in_both_orders() -> None:
    order: list[str] = []
    taken = seconds({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2, warmup=1)
    assert "".join(order) == "ab" + "ab" + "ba"
    assert set(taken) == {"a", "b"} and min(taken.values()) >= 0


def test_table_shows_every_row() -> None:
    rows = [{"what": "TFLOP a step", "ours": 26.496, "reference": 18.182, "ratio": 1.4572}]
    rows.append({"what": "seconds", "ours": 0.01234, "reference": 1234.5, "ratio": 1e-5})
    stream = io.StringIO()
    print_table(rows, "keyframes", Console(file=stream, width=100))
    text = stream.getvalue()
    for part in ("keyframes", "TFLOP a step", "26.50", "18.18", "1.457", "0.0123", "1,234"):
        assert part in text, part


def test_an_unknown_suite_is_refused() -> None:
    with pytest.raises(InputError, match="keyframes, video"):
        run("audio")


def test_one_frame_equals_the_stock_pipeline() -> None:
    """What is timed is the same computation: same weights, same noise, same steps, same latents."""
    bench = KeyframeBench()
    text = bench.text()
    assert torch.allclose(pack_latent(bench.ours([text])[0]), bench.stock(text), atol=1e-5)


def test_memory_of_the_bench_is_compressed() -> None:
    bench = KeyframeBench()
    assert [tuple(frame.latent.shape[-2:]) for frame in bench.memory(3)] == [(6, 12), (2, 4), (2, 4)]
    assert {tuple(frame.latent.shape[-2:]) for frame in bench.memory(3, compressed=False)} == {(10, 20)}


@pytest.mark.parametrize(
    ("kind", "raised", "message", "expected"),
    [
        ("AnchorshotFilm", "anchorshot.InputError", "clip_0: must be pictures (got nothing); connect some", "clear"),
        ("AnchorshotFilm", "anchorshot.InputError", "wall: must be pictures (got nothing); connect some", "unnamed"),
        ("AnchorshotFilm", "anchorshot.InputError", "clips: must be pictures (got /tmp/x.png); connect some", "path"),
        ("AnchorshotFilm", "anchorshot.InputError", "it went wrong", "raw"),
        ("AnchorshotFilm", "anchorshot.InputError", "clips: torch.float32 (got nothing); connect some", "raw"),
        ("AnchorshotFilm", "RuntimeError", "mat1 and mat2 shapes cannot be multiplied", "raw"),
        ("KSampler", "RuntimeError", "mat1 and mat2 shapes cannot be multiplied", "core"),
    ],
)
def test_errors_of_odd_graphs_are_judged(kind: str, raised: str, message: str, expected: str) -> None:
    error = {"exception_type": raised, "exception_message": message + "\n", "traceback": ['  File "/c/execution.py"']}
    assert judge(kind, {"clips", "fps"}, error, "/tmp/base").kind == expected
    ours = error | {"traceback": ['  File "/c/custom_nodes/anchorshot/nodes/film.py", line 3, in execute']}
    assert judge(kind, {"clips", "fps"}, ours, "/tmp/base").kind == ("raw" if expected == "core" else expected)


def test_a_list_that_comfyui_fails_on_before_the_node_runs_is_its_own() -> None:
    early = {"exception_type": "IndexError", "exception_message": "list index out of range",
             "traceback": ['  File "/c/execution.py", line 3, in slice_dict']}  # fmt: skip
    assert judge("AnchorshotFilm", {"clips"}, early, "/base").kind == "core"
    ours = early | {"traceback": [*early["traceback"], '  File "/c/custom_nodes/anchorshot/nodes/film.py"']}
    assert judge("AnchorshotFilm", {"clips"}, ours, "/base").kind == "raw"


def test_waiting_is_what_overlaps() -> None:
    asked = [(0.0, 0.1), (0.2, 1.7), (2.0, 5.0)]
    assert slowest(asked, [(1.0, 1.5)]) == pytest.approx(1.5) and slowest(asked, [(1.8, 1.9)]) == 0
