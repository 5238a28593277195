"""`anchorshot evaluate` and `anchorshot bench`: run a suite, show its table, write its files."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..core.errors import printable
from ..evaluation.folder import check_report_folder
from ..evaluation.options import Owner, check_owner, find, flag_options
from ..pipelines.kinds import check_outside
from .console import StageProgress, check_studio, console, open_studio, pick_device
from .targets import JsonFile, check_inputs, printed_anyway

__all__ = ["run_bench", "run_evaluate"]


def run_evaluate(options: argparse.Namespace) -> None:
    """Measure a studio: table on stdout, JSON, plots and frames in a folder."""
    from .. import evaluation

    suites = evaluation.suites.SUITES
    suite = find(suites, options.suite, "SUITE")  # before the seconds that the model libraries take to import
    given = _given(options, suites)
    out = options.out if options.out is not None else Path("output") / "evaluation"
    check_report_folder(out, suite.name)
    check_outside(out, "--out")
    target = _target(options, suites, partial(_is_report, out, suite.files()))
    studio = open_studio(options, target)
    with StageProgress() as progress:
        result = evaluation.run(suite.name, studio, out=out, progress=progress.update, **given)
    with printed_anyway(partial(evaluation.print_table, result, console)):
        target.write(result)
    console.print(f"plots, pictures and rows: {printable(str(out))}", soft_wrap=True)


def run_bench(options: argparse.Namespace) -> None:
    """Compare with the stock implementations: table on stdout, JSON on request."""
    from .. import benchmarks

    suites = benchmarks.suites.SUITES
    suite = find(suites, options.suite, "SUITE")
    given = _given(options, suites)
    target = _target(options, suites)
    if options.full_size:
        rows = benchmarks.run(suite.name, full_size=pick_device(options.device), **given)
    else:
        studio = open_studio(options, target)
        if suite.needs_studio:
            studio.check_task(suite.name)
        rows = benchmarks.run(suite.name, studio, **given)
    with printed_anyway(partial(benchmarks.print_table, rows, title=f"bench {suite.name}", console=console)):
        target.write(rows)


def _given(options: argparse.Namespace, suites: Sequence[Owner]) -> dict[str, Any]:
    """What was asked for, by field: read, and refused where it is another suite's."""
    flags = flag_options(suites)
    given = {option.field: getattr(options, option.field) for option in flags}
    given = {field: value for field, value in given.items() if value is not None and value is not False}
    check_owner(suites, options.suite, given, "--")
    for option in flags:
        if option.flag.read is not None and option.field in given:
            given[option.field] = option.flag.read(option.name, given[option.field])
    return given


def _target(
    options: argparse.Namespace, suites: Sequence[Owner], owns: Callable[[Path], bool] = lambda path: False
) -> JsonFile:
    """Where --json goes: to none of the files that the suite reads or writes."""
    files = [option for option in flag_options(suites) if option.flag.reads_file]
    given = [(option.name, Path(value)) for option in files if (value := getattr(options, option.field))]
    check_inputs(given, owns)
    return JsonFile(options.json, [check_studio(options.studio), *(path for _, path in given)], owns)


def _is_report(out: Path, names: Sequence[str], path: Path) -> bool:
    """Whether `path` is one of the files called `names` that the evaluation writes in `out`."""
    places = {Path(os.path.realpath(out / name)) for name in names}
    real = Path(os.path.realpath(path))
    return real in places or real.parent in places
