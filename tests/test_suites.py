"""A suite and a benchmark are one object each: tiny ones of this file, in the registries, are run by both commands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from PIL import Image

from anchorshot import benchmarks, evaluation
from anchorshot.benchmarks.suite import Benchmark
from anchorshot.benchmarks.table import Row, row
from anchorshot.cli import main
from anchorshot.core.errors import InputError
from anchorshot.evaluation.options import Flag, Options, numbers, whole
from anchorshot.evaluation.plots import bars
from anchorshot.evaluation.suite import Result, Run, Suite, SuiteOptions
from anchorshot.evaluation.table import NAME, figure


class TinyOptions(SuiteOptions):
    """Options of `Tiny`."""

    defaults = SuiteOptions.defaults | {"shots": 2}

    levels: Annotated[tuple[int, ...], Flag("grey levels that are drawn", "LIST", name="grey-levels", read=numbers)] = (
        128,
    )
    blurred: Annotated[bool, Flag("draw them soft")] = False


class Tiny(Suite[TinyOptions]):
    """Measures how bright grey images are; asks no model."""

    name = "tiny"
    options = TinyOptions
    variants = ("plain", "inverted")
    subject = "grey cards"

    def run(self, studio: Any, options: TinyOptions, run: Run) -> Result:
        cards = torch.tensor(options.levels)[:, None, None, None, None].expand(-1, 1, 3, 8, 8) / 255
        frames = {"truth": cards, "plain": cards, "inverted": 1 - cards}
        names = options.variants or self.variants
        rows = [{"variant": name, "brightness": float(frames[name].mean())} for name in names]
        return Result({"rows": rows, "soft": options.blurred}, len(cards), options.number("shots"), frames)

    def tables(self, result: Mapping[str, Any]) -> Sequence[Any]:
        return [NAME | {"brightness": figure("brightness", 2)}]

    def note(self, result: Mapping[str, Any]) -> str:
        return "1 is white"

    def panels(self, result: Mapping[str, Any]) -> Sequence[Any]:
        return [lambda axes: bars(axes, result["rows"], "brightness", "share", "brightness", None)]

    def strips(self, result: Mapping[str, Any], frames: Mapping[str, Any]) -> Sequence[Any]:
        return [[("card", frames["truth"][n], ()) for n in range(len(frames["truth"]))]]


class TinyBenchOptions(Options):
    """Options of `TinyBench`."""

    turns: Annotated[int, whole(1, 9), Flag("how often", "N", whole=(1, 9))] = 2


class TinyBench(Benchmark[TinyBenchOptions]):
    """Compares nothing."""

    name = "tiny"
    options = TinyBenchOptions

    def run(self, studio: Any, options: TinyBenchOptions) -> list[Row]:
        return [row("turns; reference: one", options.turns, 1)]


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation.suites, "SUITES", (*evaluation.suites.SUITES, Tiny()))
    monkeypatch.setattr(benchmarks.suites, "SUITES", (*benchmarks.suites.SUITES, TinyBench()))


@pytest.mark.usefixtures("_tiny")
def test_a_new_suite_has_flags_a_run_a_table_and_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "keyframes, video, storytelling, pairs, upscale or tiny" in shown and "grey levels that are drawn" in shown
    assert "(default: 8; storytelling 4; tiny 2)" in shown
    arguments = ["evaluate", "tiny", "--grey-levels", "51,204", "--blurred", "--out", str(tmp_path), "--device", "cpu"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "tiny · pocket · 2 grey cards, seed 0" in out and "inverted" in out and "1 is white" in out
    result = json.loads((tmp_path / "tiny.json").read_text())
    assert [r["brightness"] for r in result["rows"]] == pytest.approx([0.5, 0.5])
    assert (result["suite"], result["shots"], result["soft"]) == ("tiny", 2, True) and "set" not in result
    for name in ("tiny.png", "tiny_frames.png"):
        with Image.open(tmp_path / name) as image:
            image.load()
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.json", "tiny.png", "tiny_frames.png"}


@pytest.mark.usefixtures("_tiny")
def test_its_options_are_refused_elsewhere_and_others_here(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["evaluate", "video", "--grey-levels", "1"], "--grey-levels: is for the suite tiny"),
        (["evaluate", "video", "--blurred"], "--blurred: is for the suite tiny"),
        (["evaluate", "tiny", "--pairs", "8"], "--pairs: is for the suite keyframes"),
        (["evaluate", "tiny", "--set", "written"], "--set: is for the suites keyframes and storytelling"),
        (["evaluate", "tiny", "--grey-levels", "dark"], "--grey-levels: must be numbers separated by commas"),
        (["bench", "video", "--turns", "3"], "--turns: is for the suite tiny"),
        (["bench", "tiny", "--turns", "10"], "--turns: must be a whole number from 1 to 9"),
    ):
        assert main([*arguments, "--device", "cpu"]) == 2
        assert words in capsys.readouterr().err, arguments
    for suite, options, words in (
        ("video", {"levels": [1]}, "^grey-levels: is for the suite tiny"),
        ("tiny", {"levels": "dark"}, "^levels: "),
        ("tiny", {"variants": []}, "^variants: must name at least one"),
        ("tiny", {"stories": 0}, "^stories: must be a whole number from 1"),
        ("everything", {}, "^suite: must be one of keyframes, video, storytelling, pairs, upscale, tiny"),
    ):
        with pytest.raises(InputError, match=words):
            evaluation.run(suite, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'loudness'"):  # a programmer's mistake
        evaluation.run("tiny", loudness=1)


@pytest.mark.usefixtures("_tiny")
def test_a_new_benchmark_has_flags_a_run_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    assert main(["bench", "tiny", "--turns", "3", "--device", "cpu", "--json", str(file)]) == 0
    assert "bench tiny" in capsys.readouterr().out
    assert json.loads(file.read_text()) == [row("turns; reference: one", 3, 1)]
    with pytest.raises(InputError, match="suite: has no full size"):
        benchmarks.run("tiny", full_size="cuda")
