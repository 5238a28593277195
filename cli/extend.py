"""`anchorshot extend`: a video goes on, by a prompt or shot by shot by a storyboard."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from ..core.errors import InputError, printable
from ..pipelines.kinds import check_run, owns
from ..story.storyboard import Storyboard, load_storyboard
from .console import check_studio, console, open_studio, print_files, resumable
from .film_paths import hand_over
from .notes import show_notes
from .targets import JsonFile, check_inputs
from .upscale import read_size
from .workers import check_workers, open_executor

if TYPE_CHECKING:
    from ..pipelines.extend_plan import NewShot

__all__ = ["run"]

_TASK = "extend"


def run(options: argparse.Namespace) -> None:
    """Extend the video and show what was made."""
    check_workers(options)
    story = _story(options)
    out = options.out if options.out is not None else Path("output") / f"{options.video.stem}_extended"
    size = read_size(options.size, example="832x480")
    own = _pictures(options.keyframes)
    redo = [] if options.redo is None else _redone(options.redo, story)
    target = _check_paths(options, out, story, [path for _, path in own])
    # Only sound arguments are worth the seconds that the model libraries take to import.
    from ..pipelines.extend import make_extension

    shots = _prompted(options, own) if story is None else _told(options, story)
    studio = open_studio(options, target)
    executor = open_executor(options)
    with resumable(out) as progress:
        summary = make_extension(
            options.video,
            shots,
            studio,
            out,
            context=options.context,
            size=None if size is None else size[::-1],
            fps=options.fps,
            resume=options.resume,
            redo=redo,
            progress=progress.update,
            say=progress.say,
            on_finish=progress.finished,
            executor=executor,
        )
    hand_over(target, summary, out, _show)


def _story(options: argparse.Namespace) -> Storyboard | None:
    """The storyboard, or None where a prompt stands for it; what only fits the other is refused."""
    if (options.story is None) == (options.prompt is None):
        seen = "neither" if options.story is None else "both"
        raise InputError("--prompt", "or --story must say what follows, one of them", seen, "write e.g. --prompt TEXT")
    if options.prompt is not None:
        if not options.prompt.strip():
            raise InputError("--prompt", "must say what is seen", options.prompt, "write a sentence")
        if options.seconds is None:
            raise InputError("--seconds", "goes with --prompt", None, "add e.g. --seconds 3")
        return None
    for flag in ("seconds", "keyframes", "seed"):
        if getattr(options, flag) is not None:
            fix = "write it in the storyboard, or use --prompt"
            raise InputError(f"--{flag}", "goes with --prompt", getattr(options, flag), fix)
    story = load_storyboard(options.story)
    show_notes(story, options.story)
    return story


def _check_paths(options: argparse.Namespace, out: Path, story: Storyboard | None, pictures: list[Path]) -> JsonFile:
    """Refuse a studio, folder or --json that cannot be used, and inputs that would be replaced."""
    studio = check_studio(options.studio)
    check_run(out, resume=options.resume or options.redo is not None, task=_TASK)
    if story is not None:
        pictures = [path for shot in story.shots for key in shot.keyframes if (path := story.image_path(key))]
    inputs = [("VIDEO", options.video), ("--studio", studio), *(("keyframe", path) for path in pictures)]
    if options.story is not None:
        inputs.append(("--story", options.story))
    check_inputs(inputs, partial(owns, out))
    return JsonFile(options.json, [path for _, path in inputs], partial(owns, out))


def _pictures(given: list[str] | None) -> list[tuple[float, Path]]:
    """Keyframes written as SECONDS=PICTURE, in order of time."""
    found = []
    for text in given or ():
        time, separator, file = text.partition("=")
        try:
            found.append((float(time), Path(file)))
        except ValueError:
            separator = ""
        if not separator or not file:
            fix = "write e.g. 1.5=images/mira.png"
            raise InputError("--keyframes", "must be SECONDS=PICTURE", text, fix)
    return sorted(found)


def _redone(text: str, story: Storyboard | None) -> list[str]:
    if story is None:
        return [part.strip() for part in text.split(",")]
    return [story.shots[i].id for i in story.subset(text)]


def _prompted(options: argparse.Namespace, pictures: list[tuple[float, Path]]) -> list[NewShot]:
    """One shot that a prompt tells of."""
    from ..pipelines.extend_plan import NewShot

    return [NewShot("s01", options.prompt.strip(), options.seconds, tuple(pictures), options.seed or 0)]


def _told(options: argparse.Namespace, story: Storyboard) -> list[NewShot]:
    """The shots of a storyboard; of its keyframes those that have a picture."""
    from ..pipelines.extend_plan import NewShot

    shots, left_out = [], []
    for shot, caption in zip(story.shots, story.captions(), strict=True):
        pictures = []
        for keyframe in shot.keyframes:
            path = story.image_path(keyframe)
            if path is not None:
                pictures.append((keyframe.at, path))
            elif keyframe.at or keyframe.text:
                left_out.append(shot.id)
        timeline = shot.timeline(story.fps)
        seconds = float((timeline.requested or timeline.length).exact)
        blends = shot.joined == "blend"
        shots.append(NewShot(shot.id, caption.prompt, seconds, tuple(pictures), shot.noise_seed(), blends))
    if left_out:
        names = ", ".join(dict.fromkeys(left_out))
        note = f"keyframes without a picture are left out, each shot goes on from the one before it: {names}"
        console.print(Text(f"{options.story.name}: {note}"), soft_wrap=True)
    return shots


def _show(summary: dict[str, Any], out: Path) -> None:
    """The new shots as a table, what became of the video's own frames, then where the files are."""
    title = f"{Path(summary['video']).name} + {summary['new_seconds']:.2f} s"
    table = Table(title=printable(title), title_justify="left")
    for name, side in (("shot", "left"), ("new", "right"), ("keyframes", "left"), ("join", "right"), ("take", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    table.add_column("made in", justify="right")
    for shot in summary["shots"]:
        first = shot["parts"][0]
        how = "dissolve" if first.get("dissolves") else "cut"
        join = how if first["cuts"] else f"{first['join_psnr_db']:.1f} dB ({first['before_psnr_db']:.1f} before it)"
        keys = [f"{key['requested']:.2f} s" for part in shot["parts"] for key in part["keyframes"]]
        made = "kept" if shot["kept"] else f"{shot['render_seconds']:.1f} s"
        table.add_row(shot["id"], f"{shot['seconds']:.2f} s", ", ".join(keys) or "–", join, str(shot["take"]), made)
    console.print(table)
    how = "its packets copied" if summary["copied"] else f"encoded again, because {summary['encoded_because']}"
    console.print(Text(printable(f"the video's own frames: {how}")), soft_wrap=True)
    print_files(out, summary["files"])
