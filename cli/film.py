"""`anchorshot film`: a storyboard in, a film out."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from ..core.errors import InputError, printable
from ..story.storyboard import load_storyboard
from .console import console, open_studio, print_files, resumable
from .film_paths import check_paths, hand_over, images
from .notes import show_mode_notes, show_notes, show_studio_notes
from .workers import check_workers, open_executor

if TYPE_CHECKING:
    from ..agents.client import Client
    from ..models.studio import Studio
    from ..pipelines.upscale.film_job import FilmUpscale

__all__ = ["run"]


def run(options: argparse.Namespace) -> None:
    """Render the film and show what was made."""
    if options.dependents and not options.redo:
        raise InputError("--dependents", "goes with --redo", "no --redo", "add e.g. --redo s03")
    check_workers(options)
    story = load_storyboard(options.story)
    show_notes(story, options.story)
    pairs = story.mode == "pairs" if options.pairs is None else options.pairs
    if pairs and (flag := next((flag for flag in _FLAGS if getattr(options, flag) is not None), None)):
        rule, fix = "is for films of keyframes", "leave it out, or set defaults.pair in the studio"
        raise InputError(f"--{flag.replace('_', '-')}", rule, getattr(options, flag), fix)
    out = options.out if options.out is not None else Path("output") / options.story.stem
    story.subset(options.shots)
    target = check_paths(
        options,
        out,
        images(story),
        resume=options.resume or options.redo is not None,
        task="pairs" if pairs else "film",
    )
    # Only sound arguments are worth the seconds that the model libraries take to import.
    from ..pipelines.film import make_film

    keyframe = _keyframe(options)
    studio = open_studio(options, target)
    refiner = _refiner(options, pairs, studio.name)
    upscale = _upscale(options, studio, pairs)
    executor = open_executor(options)
    show_mode_notes(story, options.story, pairs)
    show_studio_notes(story, options.story, studio, "pair_text" if pairs else "keyframe_text")
    with resumable(out) as progress:
        summary = make_film(
            story,
            studio,
            out,
            shots=options.shots,
            resume=options.resume,
            redo=options.redo,
            dependents=options.dependents,
            keyframe=keyframe,
            check=options.check,
            pairs=pairs,
            refiner=refiner,
            upscale=upscale,
            progress=progress.update,
            say=progress.say,
            on_finish=progress.finished,
            executor=executor,
        )
    hand_over(target, summary, out, _show)


def _upscale(options: argparse.Namespace, studio: Studio, pairs: bool) -> FilmUpscale | None:
    """How the clips are made larger; None: they are not."""
    if options.upscale is None:
        if options.upscale_method is not None:
            raise InputError("--upscale-method", "goes with --upscale", options.upscale_method, "add e.g. --upscale 2")
        if options.sharp_keyframes:
            raise InputError("--sharp-keyframes", "goes with --upscale", "no --upscale", "add e.g. --upscale 2")
        return None
    if options.sharp_keyframes and pairs:
        fix = "leave it out; your own pictures may be larger"
        raise InputError("--sharp-keyframes", "is for films of keyframes", "start and end frames", fix)
    from ..pipelines.upscale.film_job import FilmUpscale
    from ..pipelines.upscale.job import UpscaleOptions

    method = UpscaleOptions.of(studio, options.upscale_method or "model")
    return FilmUpscale(options.upscale, method, options.sharp_keyframes)


_REFINER = {"client": "refine"} | {name: f"refiner_{name}" for name in ("model", "url", "key_env", "cache", "timeout")}
"""Options of `direct` that say who answers, and what they are called here."""


def _refiner(options: argparse.Namespace, pairs: bool, studio: str) -> Client | None:
    """Who writes the prompts of the shots' videos; None: their captions are the prompts."""
    given = {name: getattr(options, own) for name, own in _REFINER.items()}
    if all(value is None for name, value in given.items() if name != "timeout"):
        return None
    if not pairs:
        raise InputError("--refine", "goes with start and end frames", options.refine, "add --pairs")
    from .direct import open_client

    try:
        return open_client(argparse.Namespace(**given, device=None, seed=None), studio)
    except InputError as error:
        field, rule, fix = (_renamed(text) for text in (error.field, error.rule, error.fix))
        raise InputError(field, rule, error.value, fix) from None


def _renamed(text: str) -> str:
    """A text about options of `direct` with their names here."""
    for name, own in _REFINER.items():
        text = re.sub(rf"--{name.replace('_', '-')}\b", f"--{own.replace('_', '-')}", text)
    return text


_FLAGS = ("joint", "context_noise", "cfg", "negative", "sampler", "level", "cache")
"""Options of keyframes."""


def _keyframe(options: argparse.Namespace) -> dict[str, Any]:
    """What is asked for in place of the studio's settings of keyframes."""
    from ..models.layouts.pairs import read_noise

    named = {name: getattr(options, name) for name in ("cfg", "negative", "sampler", "level", "cache")}
    asked = {name: value for name, value in named.items() if value is not None}
    if options.joint is not None:
        asked |= {"window": options.joint, "mode": "full"}
    if options.context_noise is not None:
        noise = read_noise(options.context_noise)
        if noise is None:
            fix = "write e.g. 0.1 or 0.001-0.25"
            raise InputError("--context-noise", "must lie in 0…1, or be LOW-HIGH", options.context_noise, fix)
        asked["context_noise"] = list(noise) if isinstance(noise, tuple) else noise
    return asked


def _show(summary: dict[str, Any], out: Path) -> None:
    """The film's shots as a table, then where its files are."""
    table = Table(title=f"{summary['title']} · {summary['seconds']:.2f} s", title_justify="left")
    for name, side in (("shot", "left"), ("place", "left"), ("film time", "right"), ("keyframes", "left")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    checked = summary.get("check") is not None  # summaries of older films have none
    for name in ("take", *(["attempts"] * checked), "made in"):
        table.add_column(name, justify="right")
    for shot in summary["shots"]:
        keys = [_times(k["requested"], k["snapped"]) for k in shot["keyframes"]]
        span = f"{shot['start']:.2f} – {shot['start'] + shot['seconds']:.2f} s"
        made = "kept" if shot["kept"] else f"{shot['render_seconds']:.1f} s"
        tries = [", ".join(str(k.get("attempts", "–")) for k in shot["keyframes"])] * checked
        table.add_row(shot["id"], shot["place"] or "–", span, ", ".join(keys), str(shot["take"]), *tries, made)
    console.print(table)
    for line in _lacks(summary["shots"]):
        console.print(Text(printable(line)), soft_wrap=True)
    print_files(out, summary["files"])


def _lacks(shots: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each checked keyframe that still lacks something of its caption."""
    for shot in shots:
        for number, keyframe in enumerate(shot["keyframes"], 1):
            if (lack := keyframe.get("missing")) and "attempts" in keyframe:
                name = f"{shot['id']}, keyframe {number} of {len(shot['keyframes'])}"
                yield f"{name}: after {keyframe['attempts']} attempts still missing: {'; '.join(lack)}"


def _times(requested: float, snapped: float) -> str:
    """A keyframe's time, and the one that was asked for where it is shown as another."""
    shown = [f"{time:.2f}" for time in (requested, snapped)]
    return " → ".join(dict.fromkeys(shown)) + " s"
