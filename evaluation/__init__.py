"""Evaluation: a studio on held-out stories of the pocket world, whose ground truth is known for every frame.

Text2Story's suite runs on sets of prompt pairs, too, with a studio of any size.

Suites: `keyframes` (Captain Cinema's ablations), `video` (SmartDirector's) and `storytelling` (Text2Story's); see
`suites.SUITES`, and docs/evaluation.md for every column.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import suites
from .folder import check_report_folder
from .options import check_owner, find
from .suite import Run

if TYPE_CHECKING:
    from rich.console import Console

    from ..models.studio import Studio
    from ..pipelines.job import Progress
    from ..pocket.recogniser import Recogniser

__all__ = ["print_table", "run", "suites"]


def run(
    suite: str,
    studio: Studio | str | os.PathLike[str] = "pocket",
    seed: int = 0,
    stories: int | None = None,
    shots: int | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    recogniser: Recogniser | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Run a suite on held-out stories.

    Args:
        suite: `keyframes`, `video` or `storytelling`.
        studio: a studio, or its name or file (then on the CPU).
        seed: which held-out stories, and the noise; two seeds share no story of the pocket world.
        stories: how many stories (`keyframes`, `storytelling`) or clips (`video`); None takes 16, or all of a set.
        shots: shots or segments in each story; None takes 8, and 4 for `storytelling`. Written stories are as long as
            they are; `pairs` cuts them.
        out: folder for ``SUITE.json``, ``SUITE.png`` (plots) and ``SUITE_frames.png`` (frames); None writes nothing.
            While films of a set are made, ``storytelling_partial.json`` holds the figures of the stories that are
            finished, and ``storytelling_parts`` those of every film.
        recogniser: reads the frames of the pocket world; None takes the pocket studio's.
        progress: called with what is done.
        options: `variants`, the names of the rows (None runs all), and those of the suite: `KeyframesOptions`,
            `Text2StoryOptions`. Variants of `keyframes`: `ground_truth`, `full`, `none`, `joint`, `goldenmem` and
            `latent` (also with `:TIER` and `:RANKING`), `retrieval:clip|text|recency` (also with `:TIER`), `noise:T`
            or `noise:LOW-HIGH`; of `video`: `ground_truth`, `multi_chunk`, `latent_replacement`, `replication`; of
            `storytelling`: `ground_truth`, `full`, `without_dipw`, `without_twb`, `without_sar`, `plain`, and what
            `text2story.variants.settings_of` names.

    Returns:
        ``{"suite", "studio", "seed", "stories", "shots", "set", "rows": [{"variant", …}], …}``, plain JSON; `shots` is
        the largest of `pairs`, and `video` has no set. `keyframes` adds `by_shot` (identity along the story) and
        `reader` (scores of the true frames), `video` adds `clips` and `change` (frame by frame), `storytelling` adds
        `weights` (of the scene, by step) and what the metrics were measured with (`clip`, `features`, `jump_metric`,
        `judges`).

    Raises:
        InputError: an unknown suite or variant, a number out of range, a size or length that the studio cannot make, or
            a model file that is missing.
    """
    chosen, given = find(suites.SUITES, suite), {"seed": seed, "stories": stories, "shots": shots, **options}
    check_owner(suites.SUITES, suite, given)
    settings = chosen.options.parse(given)
    from ..models.studio import Studio, load_studio  # here, so that the command can list the suites without torch
    from .report import write_report

    models = studio if isinstance(studio, Studio) else load_studio(studio)
    models.check_task(suite)
    if out is not None:
        check_report_folder(Path(out), suite)
    found = chosen.run(models, settings, Run(None if out is None else Path(out), progress, recogniser))
    result = {"suite": suite, "studio": models.name, "seed": seed} | found.report()
    if out is not None:
        write_report(chosen, result, found.frames, Path(out))
    found.finish()
    return result


def print_table(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the rows of a result of `run` as a table."""
    from .table import result_table

    if console is None:
        from rich.console import Console

        console = Console()
    console.print(result_table(find(suites.SUITES, result["suite"]), result))
