"""`anchorshot evaluate` and `anchorshot bench`: run a suite, show its table, write its files."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import InputError, printable
from ..evaluation.folder import check_report_folder, report_names
from ..pipelines.kinds import check_outside
from .console import StageProgress, check_studio, console, open_studio, pick_device
from .targets import JsonFile, check_inputs, printed_anyway

if TYPE_CHECKING:
    from ..evaluation.metrics.networks import JudgeFiles

__all__ = ["run_bench", "run_evaluate"]


def run_evaluate(options: argparse.Namespace) -> None:
    """Measure a studio: table on stdout, JSON, plots and pictures in a folder."""
    from .. import evaluation

    _check_suite(options.suite, evaluation.SUITES)
    pairs = None if options.pairs is None else _numbers(options.pairs, "--pairs")
    variants = None if options.variants is None else [name.strip() for name in options.variants.split(",")]
    size = None if options.size is None else _size(options.size)
    _check_storytelling(options, "size", "frames", "clip", "dino", "lpips")
    if options.suite == "video" and options.set is not None:
        raise InputError("--set", "is for the suites keyframes and storytelling", options.set, "leave it out")
    out = options.out if options.out is not None else Path("output") / "evaluation"
    check_report_folder(out, options.suite)
    check_outside(out, "--out")
    target = _target(options, partial(_is_report, out, options.suite))
    studio = open_studio(options, target)
    with StageProgress() as progress:
        result = evaluation.run(
            options.suite,
            studio,
            options.seed,
            options.stories,
            options.shots,
            variants=variants,
            pairs=pairs,
            prompt_set=options.set,
            size=size,
            frames=options.frames,
            judges=_judges(options, str(studio.device)),
            out=out,
            resume=options.resume,
            progress=progress.update,
        )
    with printed_anyway(partial(evaluation.print_table, result, console)):
        target.write(result)
    console.print(f"plots, pictures and rows: {printable(str(out))}", soft_wrap=True)


def run_bench(options: argparse.Namespace) -> None:
    """Compare with the stock implementations: table on stdout, JSON on request."""
    from .. import benchmarks

    _check_suite(options.suite, benchmarks.SUITES)
    size = None if options.size is None else _size(options.size)
    _check_storytelling(options, "set", "size", "frames")
    target = _target(options)
    if options.full_size:
        rows = benchmarks.run(options.suite, full_size=pick_device(options.device))
    else:
        studio = open_studio(options, target)
        studio.check_task(options.suite)
        rows = benchmarks.run(options.suite, studio, prompt_set=options.set, size=size, frames=options.frames)
    with printed_anyway(partial(benchmarks.print_table, rows, title=f"bench {options.suite}", console=console)):
        target.write(rows)


def _target(options: argparse.Namespace, owns: Callable[[Path], bool] = lambda path: False) -> JsonFile:
    """Where --json goes: to none of the files that the suite reads or writes."""
    names = ("set", "clip", "dino", "lpips")
    given = [(f"--{name}", Path(value)) for name in names if (value := getattr(options, name, None))]
    check_inputs(given, owns)
    return JsonFile(options.json, [check_studio(options.studio), *(path for _, path in given)], owns)


def _is_report(out: Path, suite: str, path: Path) -> bool:
    """Whether `path` is one of the files that the evaluation of `suite` writes in `out`."""
    places = {Path(os.path.realpath(out / name)) for name in report_names(suite)}
    real = Path(os.path.realpath(path))
    return real in places or real.parent in places


def _judges(options: argparse.Namespace, device: str) -> JudgeFiles | None:
    """The networks whose files are given."""
    if options.clip is None and options.dino is None and options.lpips is None:
        return None
    from ..evaluation.metrics.networks import JudgeFiles

    clip, config = options.clip, None
    if clip is not None and "," in clip and not Path(clip).is_file():
        clip, _, config = clip.rpartition(",")
    return JudgeFiles(clip, config, options.dino, options.lpips, device)


def _size(text: str) -> tuple[int, int]:
    """`WxH` → (height, width)."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() and 0 < int(side) < 100_000 for side in sides):
        raise InputError("--size", "must be width x height in pixels", text, "write e.g. 832x480")
    return int(sides[1]), int(sides[0])


def _check_suite(suite: str, known: tuple[str, ...]) -> None:
    """Before the seconds that the model libraries take to import."""
    if suite not in known:
        raise InputError("SUITE", f"must be one of {', '.join(known)}", suite, "choose one of them")


def _check_storytelling(options: argparse.Namespace, *names: str) -> None:
    """Refuse what only storytelling takes with another suite."""
    for name in names:
        value = getattr(options, name)
        if value is not None and options.suite != "storytelling":
            raise InputError(f"--{name}", "is for the suite storytelling", value, "leave it out")


def _numbers(text: str, field: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 0 < int(part) < 10_000 for part in parts):
        raise InputError(field, "must be numbers separated by commas", text, "write e.g. 8,16,32,48")
    return [int(part) for part in parts]
