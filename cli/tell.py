"""`anchorshot tell`: a storyboard's texts in, a film without keyframes out (Text2Story)."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ..core.errors import InputError
from ..story.storyboard import load_storyboard
from .console import console, open_studio, print_files, resumable
from .film_paths import check_paths, hand_over
from .notes import show_notes, show_studio_notes
from .workers import check_workers, open_executor

if TYPE_CHECKING:
    from ..sampling.text2story.segments import StorySettings

__all__ = ["run"]

PARTS = ("dipw", "twb", "sar")


def run(options: argparse.Namespace) -> None:
    """Make the film and show what was made."""
    without = _without(options.without)
    check_workers(options)
    story = load_storyboard(options.story)
    show_notes(story, options.story)
    out = options.out if options.out is not None else Path("output") / f"{options.story.stem}_told"
    target = check_paths(options, out, resume=options.resume, task="tell")
    # Only sound arguments are worth the seconds that the model libraries take to import.
    from ..pipelines.text_film import make_text_film

    settings = _settings(options, without)
    studio = open_studio(options, target)
    executor = open_executor(options)
    show_studio_notes(story, options.story, studio, "video_text")
    with resumable(out) as progress:
        summary = make_text_film(
            story,
            studio,
            out,
            settings,
            preview=options.preview,
            cut=options.cut,
            resume=options.resume,
            progress=progress.update,
            say=progress.say,
            on_finish=progress.finished,
            executor=executor,
        )
    hand_over(target, summary, out, _show)


def _settings(options: argparse.Namespace, without: set[str]) -> StorySettings:
    """What of Text2Story is used; a value out of its range is named as the option that it was given with."""
    from ..sampling.text2story.action_similarity import SAR
    from ..sampling.text2story.prompt_mixing import DIPW
    from ..sampling.text2story.segments import StorySettings

    shift = options.prior_shift
    if shift is None:
        shift = DIPW.prior_shift if options.prior_clock == DIPW.prior_clock else 1.0
    sar = SAR(options.sar_encoder, options.sar_pair, options.sar_centred, options.sar_bounded)
    try:
        dipw = DIPW(every=options.every, prior_shift=shift, prior_clock=options.prior_clock)
        full = StorySettings(dipw, options.action_prompt, options.gamma, sar=sar, backward=options.backward)
    except InputError as error:
        raise InputError(f"--{error.field.replace('_', '-')}", error.rule, error.value, error.fix) from None
    return replace(
        full,
        dipw=None if "dipw" in without else full.dipw,
        gamma=0.0 if "twb" in without else full.gamma,
        semantic="sar" not in without,
    )


def _without(text: str | None) -> set[str]:
    names = {name.strip() for name in text.split(",")} if text else set()
    if not names <= set(PARTS):
        raise InputError("--without", f"must be among {', '.join(PARTS)}", text, "separate them by commas")
    return names


def _show(summary: dict[str, Any], out: Path) -> None:
    """The film's segments as a table, then where its files are."""
    table = Table(title=f"{summary['title']} · {summary['seconds']:.2f} s", title_justify="left")
    for name, side in (("shot", "left"), ("frames", "right"), ("blend γ'", "right"), ("made in", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for shot in summary["shots"]:
        made = "kept" if shot["kept"] else f"{shot['render_seconds']:.1f} s"
        table.add_row(shot["id"], str(shot["frames"]), f"{shot['gamma']:.2f}", made)
    console.print(table)
    print_files(out, summary["files"])
