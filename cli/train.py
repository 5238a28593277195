"""`anchorshot train`: train a model of the pocket studio from nothing, or resume."""

from __future__ import annotations

import argparse

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

    from ..pocket import recipes

    device = pick_device(options.device)
    threads = options.threads
    if threads is None and options.processes > 1 and device == "cpu":
        threads = max(1, torch.get_num_threads() // options.processes)
    how = (options.steps, options.warm, options.shard, threads)
    arguments = (options.recipe, options.out, options.resume, device, *how)
    if options.processes == 1:
        recipes.run(*arguments)
        return
    from ..training.processes import launch

    recipes.check(options.recipe, options.out, options.resume)
    launch(recipes.run, arguments, options.processes, device)
