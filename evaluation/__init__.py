"""Evaluation: a studio on held-out stories of the pocket world, whose ground truth is known for every frame.

Suites: `keyframes` (Captain Cinema's ablations), `video` and `upscale` (SmartDirector's two stages), `pairs`
(STAGE's) and `storytelling` (Text2Story's, which also runs on sets of prompt pairs, with a studio of any size); see
`suites.SUITES`, and docs/evaluation.md for every column.

`run` takes:

* `suite`: the name of one of them;
* `studio`: a studio, or its name or file (then on the CPU);
* `seed`: which held-out stories, and the noise; two seeds share no story of the pocket world;
* `stories`: how many stories, or clips (`video`, `upscale`); None takes 16, or all of a set;
* `shots`: shots or segments in each story; None takes 8, and 4 for `storytelling`. Written stories are as long as they
  are; `pairs` cuts them;
* `out`: folder for ``SUITE.json``, ``SUITE.png`` (plots) and ``SUITE_frames.png`` (frames); None writes nothing. While
  films of a set are made, ``storytelling_partial.json`` holds the figures of the stories that are finished, and
  ``storytelling_parts`` those of every film; so does `upscale`;
* `recogniser`: reads the frames of the pocket world; None takes the pocket studio's;
* `progress`: called with what is done;
* `variants`: the names of the rows; None runs all that `Suite.variants` lists;
* the suite's own options, such as those of `KeyframesOptions` and `Text2StoryOptions`.

Rows of `keyframes`: `ground_truth`, `full`, `none`, `joint`, `goldenmem` and `latent` (also with `:TIER` and
`:RANKING`), `retrieval:clip|text|recency` (also with `:TIER`), `noise:T` or `noise:LOW-HIGH`; of `video`:
`ground_truth`, `multi_chunk`, `latent_replacement`, `replication`; of `storytelling`: `ground_truth`, `full`,
`without_dipw`, `without_twb`, `without_sar`, `plain`, and what `text2story.variants.settings_of` names; of `pairs`:
those of `PairsSuite.variants` and of `suites.pairs.suite.EXTRA`; of `upscale`: those of `UpscaleSuite.variants`,
`near:N`, `steps:N`, `training_free:T`.

It returns ``{"suite", "studio", "seed", "stories", "shots", "set", "rows": [{"variant", …}], …}``, plain JSON; `shots`
is the largest of `pairs`, and `video` has no set. `keyframes` adds `by_shot` (identity along the story) and `reader`
(scores of the true frames), `video` adds `clips` and `change` (frame by frame), `storytelling` adds `weights` (of the
scene, by step) and what the metrics were measured with (`clip`, `features`, `jump_metric`, `judges`), `pairs` adds
`paired` (differences to `full`), `by_shot`, `films`, and the same of the metrics, `upscale` adds `paired` (to `bicubic`
and to `no_keyframes`), `clips`, `by_distance`, `reader` and `source`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import suites
from .folder import check_report_folder
from .options import check_owner, find
from .suite import Result, Run, Suite, SuiteOptions

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
    """Run a suite on held-out stories and return its report; the module describes both.

    Raises:
        InputError: an unknown suite or variant, a number, size or length out of range, or a missing model file.
    """
    settings = _settings(suite, {"seed": seed, "stories": stories, "shots": shots, **options})
    chosen = find(suites.SUITES, suite)
    models = _models(chosen, studio)
    folder = None if out is None else Path(out)
    if folder is not None:
        check_report_folder(folder, suite)
    found = chosen.run(models, settings, Run(folder, progress, recogniser))
    result = {"suite": suite, "studio": models.name, "seed": seed} | found.report()
    if folder is not None:
        _write(chosen, result, found, folder)
    found.finish()
    return result


def print_table(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the rows of a result of `run` as a table."""
    from .table import result_table

    if console is None:
        from rich.console import Console

        console = Console()
    console.print(result_table(find(suites.SUITES, result["suite"]), result))


def _settings(suite: str, given: Mapping[str, Any]) -> SuiteOptions:
    """The options that a suite runs with; raises InputError for those that it does not take."""
    check_owner(suites.SUITES, suite, given)
    return find(suites.SUITES, suite).options.parse(given)


def _models(suite: Suite[Any], studio: Studio | str | os.PathLike[str]) -> Studio:
    """The studio, which must be able to do what the suite measures."""
    from ..models.studio import Studio, load_studio  # here, so that the command can list the suites without torch

    models = studio if isinstance(studio, Studio) else load_studio(studio)
    suite.check(models)
    return models


def _write(suite: Suite[Any], result: Mapping[str, Any], found: Result, folder: Path) -> None:
    from .report import write_report

    write_report(suite, result, found.frames, folder)
