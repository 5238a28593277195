"""`anchorshot train`: train a model of the pocket studio, or what a recipe file says."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from ..core.files import check_folder
from ..pipelines.kinds import check_outside
from .console import pick_device

__all__ = ["run"]


def run(options: argparse.Namespace) -> None:
    """Run one recipe; checkpoints and the loss curve go to the run's folder."""
    if options.out is not None:
        check_folder(options.out, "--out")
        check_outside(options.out, "--out")
    import torch

    device = pick_device(options.device)
    threads = options.threads
    if threads is None and options.processes > 1 and device == "cpu":
        threads = max(1, torch.get_num_threads() // options.processes)
    train, check, arguments = (_by_file if _is_file(options.recipe) else _by_name)(options, device, threads)
    if options.processes == 1:
        train(*arguments)
        return
    from ..training.processes import launch

    check(arguments[0], options.out, options.resume)
    launch(train, arguments, options.processes, device)


Job = tuple[Callable[..., None], Callable[..., Path], tuple[Any, ...]]
"""What trains, what checks before processes are started, and the arguments of the first."""


def _by_name(options: argparse.Namespace, device: str, threads: int | None) -> Job:
    """A recipe of the pocket studio."""
    from ..pocket import recipes

    how = (options.out, options.resume, device, options.steps, options.warm, options.shard, threads)
    return recipes.run, recipes.check, (options.recipe, *how)


def _by_file(options: argparse.Namespace, device: str, threads: int | None) -> Job:
    """A recipe file. Raises InputError for what is the pocket studio's alone."""
    if options.warm:
        fix = "remove it; name weights to begin with under lora.start"
        raise InputError("--warm", "is for the pocket studio's recipes", options.recipe, fix)
    from ..training.pairs import run as pairs
    from ..training.pairs.recipe_file import read_mapping
    from ..training.upscale import run as upscale
    from ..training.upscale.recipe_file import STAGE

    files: Any = upscale if read_mapping(Path(options.recipe))[0].get("stage") == STAGE else pairs
    how = (options.out, options.resume, device, options.steps, options.shard, threads)
    return files.run, files.check, (Path(options.recipe), *how)


def _is_file(recipe: str) -> bool:
    """Whether a recipe is meant as a file rather than by its name."""
    return Path(recipe).suffix.lower() in (".yaml", ".yml") or Path(recipe).name != recipe
