"""`anchorshot evaluate` and `anchorshot bench`: run a suite, show its table, write its files."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..story.errors import InputError
from .console import StageProgress, check_json_path, console, pick_device, write_json

__all__ = ["run_bench", "run_evaluate"]


def run_evaluate(options: argparse.Namespace) -> None:
    """Measure a studio: table on stdout, JSON, plots and pictures in a folder."""
    from .. import evaluation

    _check_suite(options.suite, evaluation.SUITES)
    check_json_path(options.json)
    pairs = None if options.pairs is None else _numbers(options.pairs, "--pairs")
    variants = None if options.variants is None else [name.strip() for name in options.variants.split(",")]
    out = options.out if options.out is not None else Path("output") / "evaluation"
    from ..models.studio import load_studio

    studio = load_studio(options.studio, device=pick_device(options.device))
    with StageProgress() as progress:
        result = evaluation.run(
            options.suite,
            studio,
            options.seed,
            options.stories,
            options.shots,
            variants=variants,
            pairs=pairs,
            out=out,
            progress=progress.update,
        )
    evaluation.print_table(result, console)
    write_json(options.json, result)
    console.print(f"plots, pictures and rows: {out}", soft_wrap=True)


def run_bench(options: argparse.Namespace) -> None:
    """Compare with the stock implementations: table on stdout, JSON on request."""
    from .. import benchmarks

    _check_suite(options.suite, benchmarks.SUITES)
    check_json_path(options.json)
    from ..models.studio import load_studio

    device = pick_device(options.device)
    if options.full_size:
        rows = benchmarks.run(options.suite, full_size=device)
    else:
        studio = load_studio(options.studio, device=device)
        studio.check_task(options.suite)
        rows = benchmarks.run(options.suite, studio)
    benchmarks.print_table(rows, title=f"bench {options.suite}", console=console)
    write_json(options.json, rows)


def _check_suite(suite: str, known: tuple[str, ...]) -> None:
    """Before the seconds that the model libraries take to import."""
    if suite not in known:
        raise InputError("SUITE", f"must be one of {', '.join(known)}", suite, "choose one of them")


def _numbers(text: str, field: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 0 < int(part) < 10_000 for part in parts):
        raise InputError(field, "must be numbers separated by commas", text, "write e.g. 8,16,32,48")
    return [int(part) for part in parts]
