"""Evaluation: a studio on held-out stories of the pocket world, whose ground truth is known for every frame.

Text2Story's suite runs on sets of prompt pairs, too, with a studio of any size.

Suites: `keyframes` (Captain Cinema's ablations), `video` (SmartDirector's) and `storytelling` (Text2Story's).
See docs/evaluation.md for every column.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from ..models.studio import Studio
    from ..pipelines.job import Progress
    from ..pocket.recogniser import Recogniser
    from .metrics.networks import JudgeFiles, Judges

__all__ = ["SUITES", "print_table", "run"]

SUITES = ("keyframes", "video", "storytelling")


def run(
    suite: str,
    studio: Studio | str | os.PathLike[str] = "pocket",
    seed: int = 0,
    stories: int | None = None,
    shots: int | None = None,
    *,
    variants: Sequence[str] | None = None,
    pairs: Sequence[int] | None = None,
    prompt_set: str | os.PathLike[str] | None = None,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    judges: Judges | JudgeFiles | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    recogniser: Recogniser | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run a suite on held-out stories.

    Args:
        suite: `keyframes`, `video` or `storytelling`.
        studio: a studio, or its name or file (then on the CPU).
        seed: which held-out stories, and the noise; two seeds share no story of the pocket world.
        stories: how many stories (`keyframes`, `storytelling`) or clips (`video`); None takes 16, or all of a set.
        shots: shots or segments in each story; None takes 8, and 4 for `storytelling`. Written stories are as long as
            they are; `pairs` cuts them.
        variants: names; None runs all. keyframes: `ground_truth`, `full`, `none`, `joint`, `goldenmem` and `latent`
            (also with `:TIER` and `:RANKING`), `retrieval:clip|text|recency` (also with `:TIER`), `noise:T` or
            `noise:LOW-HIGH`. video: `ground_truth`, `multi_chunk`, `latent_replacement`,
            `replication`. storytelling: `ground_truth`, `full`, `without_dipw`, `without_twb`, `without_sar`,
            `plain`, and what `storytelling.settings_of` names.
        pairs: for `keyframes`, several numbers of shots to measure in one run, e.g. 8, 16, 32, 48; None takes `shots`.
        prompt_set: for `keyframes`: `held_out` (the default; `stories` of them, `shots` each), `written` (stories that
            people wrote, as long as they are), or a folder of storyboards. For `storytelling`: `pocket`, or
            `benchmark` (404 prompt pairs) or the file of another set, which any studio can tell; nothing knows how they
            should look, so there is no `ground_truth` and nothing is read.
            None takes `pocket` where the studio can make films of its size and length, else `benchmark`.
        size: (height, width) of films of a set; None takes the size that the studio's video model was made for.
        frames: of a segment of a set; None takes the studio's, too.
        judges: for `storytelling`, networks from files, see `judges.Judges.load`; `JudgeFiles` are read once all else
            has been checked.
        out: folder for ``SUITE.json``, ``SUITE.png`` (plots) and ``SUITE_frames.png`` (pictures); None writes nothing.
            While a set is told, ``storytelling_partial.json`` holds the figures of the stories that are finished, and
            ``storytelling_parts`` those of every film.
        resume: for a set: take the films whose figures `out` has from a run that was broken off.
        recogniser: reads the frames of `keyframes` and `storytelling`; None takes the pocket studio's.
        progress: told what is done.

    Returns:
        ``{"suite", "studio", "seed", "stories", "shots", "rows": [{"variant", …}], …}``, plain JSON; `shots` is the
        largest of `pairs`. `keyframes` adds `by_shot` (identity along the story) and `reader` (scores of the true
        frames), `video` adds `clips` and `change` (frame by frame), `storytelling` adds `weights` (of
        the scene, by step) and who judged (`clip`, `features`, `jump_metric`, `judges`).

    Raises:
        InputError: an unknown suite or variant, a number out of range, a size or length that the studio cannot make, or
            a model file that is missing.
    """
    if suite not in SUITES:
        raise InputError("suite", f"must be one of {', '.join(SUITES)}", suite, "choose one of them")
    # Imported here, so that the command can list the suites without loading torch.
    from ..models.studio import Studio, load_studio
    from .folder import check_report_folder
    from .report import Partial, write_report
    from .suites.text2story.films import Parts

    models = studio if isinstance(studio, Studio) else load_studio(studio)
    models.check_task(suite)
    given: dict[str, Any] = {"progress": progress} if variants is None else {"progress": progress, "variants": variants}
    if variants is not None and not variants:
        raise InputError("variants", "must name at least one", variants, "leave it out to run all")
    _check_options(suite, pairs, prompt_set, size, frames, judges)
    if out is not None:
        check_report_folder(Path(out), suite)
    pictures: Mapping[str, Any]
    partial: Partial | None = None
    parts: Parts | None = None
    told = "held_out" if prompt_set is None else os.fspath(prompt_set)
    if suite == "storytelling":
        from .suites.text2story.story_size import check_files, check_pocket_size, choose_set

        told = choose_set(models, None if prompt_set is None else os.fspath(prompt_set))
        check_pocket_size(told, size, frames)
    if resume and (suite != "storytelling" or told == "pocket"):
        raise InputError("resume", "is for a set of storytelling", suite, "leave it out")
    if suite == "storytelling" and told != "pocket":
        from .suites.text2story.prompt_set import read_set, run_plots

        prompts = read_set(told)
        if out is not None:
            partial = Partial(Path(out), {"suite": suite, "studio": models.name, "seed": seed, "set": _set_name(told)})
            parts = Parts(Path(out) / "storytelling_parts", resume, models.device)
            given |= {"keep": partial.keep, "parts": parts}
        try:
            found, pictures = run_plots(
                models, prompts, seed, stories, shots, size=size, frames=frames, judges=judges, **given
            )
        except KeyboardInterrupt:
            kept = "" if partial is None else partial.kept or "what is finished stays"
            raise KeyboardInterrupt(kept and f"{kept}; add --resume to go on") from None
        stories, shots = found["stories"], found["shots"]
    else:
        asked, stories = stories, 16 if stories is None else stories
        shots = (4 if suite == "storytelling" else 8) if shots is None else shots
        if suite == "keyframes":
            from .stories import stories_of
            from .suites.keyframes.run import run_keyframes

            if written := stories_of(told, asked):
                stories, shots = len(written), max(len(story.shots) for story in written)
            counts = _pairs(pairs, shots)
            shots = counts[-1]
            reader = _recogniser() if recogniser is None else recogniser
            found, pictures = run_keyframes(models, reader, seed, stories, counts, told=written, **given)
        elif suite == "storytelling":
            from .metrics.networks import JudgeFiles
            from .suites.text2story.pocket import run_storytelling

            check_files(models)
            judges = judges.load() if isinstance(judges, JudgeFiles) else judges
            reader = _recogniser() if recogniser is None else recogniser
            found, pictures = run_storytelling(models, reader, seed, stories, shots, judges=judges, **given)
        else:
            from .suites.video.run import run_video

            found, pictures = run_video(models, seed, stories, shots, **given)
    result = {"suite": suite, "studio": models.name, "seed": seed, "stories": stories, "shots": shots}
    if suite != "video":
        result["set"] = _set_name(told)
    result |= found
    if out is not None:
        write_report(result, pictures, Path(out))
    if partial is not None and parts is not None:
        partial.remove()
        parts.remove()
    return result


def print_table(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the rows of a result of `run` as a table."""
    from .table import result_table

    if console is None:
        from rich.console import Console

        console = Console()
    console.print(result_table(result))


def _check_options(
    suite: str,
    pairs: object,
    prompt_set: str | os.PathLike[str] | None,
    size: object,
    frames: object,
    judges: object,
) -> None:
    """Refuse what another suite is asked with."""
    asked: dict[str, tuple[object, str]] = {"pairs": (pairs, "keyframes")}
    if suite == "video":
        asked["set"] = (None if prompt_set is None else str(prompt_set), "keyframes and storytelling")
    asked |= {"size": (size, "storytelling"), "frames": (frames, "storytelling")}
    asked["judges"] = (judges, "storytelling")
    for name, (value, owner) in asked.items():
        if value is not None and suite != owner:
            shown = list(value) if name == "pairs" and isinstance(value, Sequence) else value
            raise InputError(name, f"is for the suite{'s' if ' and ' in owner else ''} {owner}", shown, "leave it out")


def _set_name(told: str) -> str:
    return told if told in ("pocket", "benchmark", "held_out", "written") else Path(told).resolve().name


def _pairs(pairs: Sequence[int] | None, shots: int) -> list[int]:
    counts = [shots] if pairs is None else list(pairs)
    if not counts or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in counts):
        raise InputError("pairs", "must be whole numbers of at least 1", pairs, "use for example 8, 16, 32, 48")
    return sorted(set(counts))


def _recogniser() -> Recogniser:
    """The pocket studio's recogniser."""
    from ..pocket.recogniser import load_recogniser

    path = Path(__file__).resolve().parent.parent / "pocket" / "weights" / "recogniser.safetensors"
    if not path.is_file():
        fix = "train it with `anchorshot train recogniser`, or pass one"
        raise InputError("recogniser", "file must exist", path.name, fix)
    return load_recogniser(path)
