"""`anchorshot evaluate` and `anchorshot bench`: run a suite, show its table, write its JSON."""

from __future__ import annotations

import argparse

from ..story.errors import InputError
from .console import check_json_path, console, pick_device, print_rows, write_json

__all__ = ["run"]

SUITES = ("keyframes", "video")


def run(options: argparse.Namespace) -> None:
    """Run one suite of either command."""
    if options.suite not in SUITES:
        raise InputError("SUITE", f"must be one of {', '.join(SUITES)}", options.suite, "choose one of them")
    check_json_path(options.json)
    from ..models.studio import load_studio

    studio = load_studio(options.studio, device=pick_device(options.device))
    if options.action == "evaluate":
        from .. import evaluation

        result = evaluation.run(options.suite, studio, options.seed, options.stories, options.shots)
        print_rows(f"{options.suite} · {options.stories} stories of {options.shots} shots", result["rows"])
        write_json(options.json, result)
    else:
        from .. import benchmarks

        rows = benchmarks.run(options.suite, studio)
        benchmarks.print_table(rows, title=f"bench {options.suite}", console=console)
        write_json(options.json, rows)
