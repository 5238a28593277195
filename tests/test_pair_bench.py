"""What a memory costs a pair: the bound that is promised, and a cost that does not grow with the film."""

from __future__ import annotations

import pytest

from anchorshot.benchmarks import pairs
from anchorshot.benchmarks.pairs import FULL, FULL_TEXT, PACKS, PairBench, run_pairs, step_flops
from anchorshot.models.backbones.qwen_image.cost import QWEN_IMAGE_EDIT


@pytest.mark.parametrize("name", ["canvas of 0.35 frames", "pyramid from 0.15 frames"])
def test_eight_remembered_frames_cost_a_quarter_at_most(name: str) -> None:
    cost = [step_flops(QWEN_IMAGE_EDIT, FULL, pack, 8, FULL_TEXT) for pack in (PACKS[name], None)]
    assert 1.0 < cost[0] / cost[1] <= 1.25


@pytest.mark.parametrize("name", [name for name in PACKS if "uncompressed" not in name])
def test_after_the_fourth_shot_nothing_grows(name: str) -> None:
    tokens = [PACKS[name].tokens(2 * (shot - 1), FULL) for shot in range(5, 25)]
    assert max(tokens) <= 1.05 * min(tokens)


def test_rows_compare_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pairs._RANDOM, "num_layers", 1)  # times are not looked at
    monkeypatch.setattr(pairs, "LARGE", (6, 12))
    rows = run_pairs(None, repeats=1)
    assert all(row["ratio"] == pytest.approx(row["ours"] / row["reference"]) for row in rows)
    counted = [row["ratio"] for row in rows if "FLOP" in row["what"] and "uncompressed" not in row["what"]]
    assert min(counted) > 1.0
    assert sum("peak MiB" in row["what"] for row in rows) == len(PACKS) - 1
    assert len(PairBench().memory(PACKS["canvas of one frame"], 46)) == 5
