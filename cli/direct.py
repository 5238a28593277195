"""`anchorshot direct`: a theme in, a storyboard out."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ..agents.client import Client
from ..agents.director import check_theme, direct
from ..core.errors import InputError, printable, shorten
from ..core.files import check_folder, write_atomic
from ..models.studio_config import read_studio
from ..story.lengths import read_number
from ..story.storyboard import Storyboard
from ..story.timeline import frame_rate
from ..story.writer import story_text
from .console import console, pick_device
from .targets import JsonFile, printed_anyway

__all__ = ["open_client", "run"]

_SUFFIXES = (".yaml", ".yml")
_SIZE, _FPS = (1280, 720), 16.0
"""For a studio that was made for any size and rate."""


def run(options: argparse.Namespace) -> None:
    """Ask for a storyboard, write it, show it."""
    theme = check_theme(options.theme)
    out = _check_out(options.out)
    config, studio_file = read_studio(options.studio)
    target = JsonFile(options.json, [studio_file], lambda path: os.path.realpath(path) == os.path.realpath(out))
    size = _size(options.size) or config.made_for.size or _SIZE
    fps = _fps(options.fps) or config.made_for.fps or _FPS
    client = open_client(options, config.name)
    story = direct(client, theme, options.shots, fps=fps, size=size)
    write_atomic(out, f"# Directed by {client.who}.\n{story_text(story)}")
    cost = client.cost.line(client.who)
    with printed_anyway(lambda: _show(story, out, cost, options.client)):
        target.write(_summary(story, out, client))


def open_client(options: argparse.Namespace, studio: str) -> Client:
    """Who answers: as named, or as the other options tell."""
    kind = options.client or ("endpoint" if options.url else "transformers" if options.model else "rules")
    for name, owner in (("url", "endpoint"), ("key_env", "endpoint"), ("device", "transformers")):
        value = getattr(options, name)
        if value is not None and kind != owner:
            fix = f"add --client {owner}" if options.client is None else "leave it out"
            raise InputError(f"--{name.replace('_', '-')}", f"belongs to --client {owner}", f"--client {kind}", fix)
    if kind == "rules":
        return _rules(options, studio)
    if not options.model:
        rule = "must name the model" if kind == "endpoint" else "must be the folder of a model of transformers"
        raise InputError("--model", rule, None, "add --model")
    from ..agents.cache import AnswerCache

    shared = {"seed": options.seed, "timeout": options.timeout}
    shared["cache"] = None if options.cache is None else AnswerCache(options.cache)
    if kind == "transformers":
        from ..agents.local import TransformersClient

        return TransformersClient(options.model, device=pick_device(options.device or "auto"), **shared)
    if not options.url:
        fix = "add --url, e.g. http://127.0.0.1:8080/v1"
        raise InputError("--url", "must be the endpoint's address", None, fix)
    from ..agents.endpoint import EndpointClient

    return EndpointClient(options.url, options.model, key_env=options.key_env, **shared)


def _rules(options: argparse.Namespace, studio: str) -> Client:
    from ..agents.rules import RulesClient

    if options.model or options.cache:
        name = "--model" if options.model else "--cache"
        raise InputError(name, "is of no use to --client rules", getattr(options, name[2:]), "leave it out")
    if studio != "pocket":
        fix = "add --model FOLDER, or --url URL --model NAME"
        raise InputError("--client", "must be a language model, because rules know the pocket studio only", studio, fix)
    return RulesClient(options.seed or 0)


def _check_out(out: Path) -> Path:
    """A new YAML file in a folder that can be written to."""
    if out.suffix.lower() not in _SUFFIXES:
        raise InputError("--out", f"must end in {' or '.join(_SUFFIXES)}", str(out), "write e.g. story.yaml")
    if os.path.lexists(out):
        raise InputError("--out", "must not exist yet", str(out), "give another name, or delete the file")
    check_folder(out.absolute().parent, "--out")
    return out


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() and len(side) < 6 for side in sides):
        raise InputError("--size", "must be WIDTHxHEIGHT", text, "write e.g. 1280x720")
    return _checked_size(int(sides[0]), int(sides[1]))


def _checked_size(width: int, height: int) -> tuple[int, int]:
    """The storyboard's own rules, before a model has worked for nothing."""
    try:
        Storyboard.parse({"size": [width, height], "shots": [{"scene": "x"}]})
    except InputError as error:
        raise InputError("--size", error.rule, f"{width}x{height}", error.fix) from None
    return width, height


def _fps(text: str | None) -> float | None:
    if text is None:
        return None
    number = read_number(text)
    if number is None:
        raise InputError("--fps", "must be a number", text, "write e.g. 24")
    try:
        frame_rate(float(number))
    except InputError as error:
        raise InputError("--fps", error.rule, text, error.fix) from None
    return float(number)


def _summary(story: Storyboard, out: Path, client: Client) -> dict[str, Any]:
    cost = client.cost
    return {
        "story": str(out), "title": story.title, "shots": len(story.shots), "directed_by": client.who,
        "requests": cost.requests, "retries": cost.retries, "cached": cost.cached,
        "prompt_tokens": cost.prompt_tokens, "completion_tokens": cost.completion_tokens, "notes": list(story.notes),
    }  # fmt: skip


def _show(story: Storyboard, out: Path, cost: str, asked: str | None) -> None:
    """The shots as a table, then what was mended, what it cost and where it is."""
    table = Table(title=printable(story.title), title_justify="left")
    for name in ("shot", "place", "camera", "s", "what is seen"):
        table.add_column(name, justify="right" if name == "s" else "left", overflow="fold")
    for shot in story.shots:
        camera = ", ".join((shot.camera.scale, *([shot.camera.angle] * (shot.camera.angle != "eye level")),
                            shot.camera.movement))  # fmt: skip
        text = shorten(" ".join(filter(None, (shot.scene, shot.action))), 200)
        table.add_row(shot.id, shot.place or "–", camera, f"{shot.seconds:g}", text)
    console.print(table)
    for note in story.notes:
        console.print(Text(printable(note)), soft_wrap=True)
    if asked is None and cost.startswith("rules"):
        line = "rules know the words of the pocket studio only; --model or --url asks a language model"
        console.print(line, soft_wrap=True)
    console.print(Text(printable(cost)), soft_wrap=True)
    console.print(Text(printable(f"{out}, for anchorshot film")), soft_wrap=True)
