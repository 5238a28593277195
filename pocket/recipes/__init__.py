"""Training recipes of the pocket family; `run` is what `anchorshot train` calls."""

from .family import RECIPES, check, run

__all__ = ["RECIPES", "check", "run"]
