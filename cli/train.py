"""`anchorshot train`: train a model of the pocket studio from nothing, or go on with it."""

from __future__ import annotations

import argparse
from pathlib import Path

from .console import pick_device

__all__ = ["run"]


def run(options: argparse.Namespace) -> None:
    """Run one recipe; checkpoints and the loss curve go to the run's folder."""
    from .. import training

    out = options.out if options.out is not None else Path("runs") / options.recipe
    training.run(options.recipe, out, resume=options.resume, device=pick_device(options.device))
