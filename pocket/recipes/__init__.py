"""Training recipes of the pocket family; `run` is what `anchorshot train` calls."""

from .family import RECIPES, run

__all__ = ["RECIPES", "run"]
