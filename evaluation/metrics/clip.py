"""CLIP from a file, for text alignment."""

from __future__ import annotations

import os
from typing import Any

import torch

from ...core.errors import InputError
from ...models.encoders.clip import ClipScorer
from ...models.io.checkpoint import read_config

__all__ = ["load_clip"]

PathLike = str | os.PathLike[str]


def load_clip(path: PathLike, config: PathLike | None, device: torch.device | str) -> ClipScorer:
    """Read open_clip safetensors whose weights are all finite.

    Args:
        path: the file.
        config: a model name that open_clip knows, or a JSON file; None reads the weights' own metadata.
        device: where it computes.

    Raises:
        InputError: a fault of the file; `where` is ``clip``.
    """
    try:
        found: Any = config
        if config is not None and str(config).endswith(".json"):
            found = read_config(config)
        scorer = ClipScorer.load(path, None if found is None else found, device=device)
    except InputError as error:  # it names the file; say what the file was given for
        raise InputError(error.field, error.rule, error.value, error.fix, where="clip") from error
    for key, value in scorer.model.state_dict().items():
        if key != "attn_mask" and not torch.isfinite(value).all():
            fix = "copy or download the file again"
            raise InputError(str(path), "weights must be finite numbers", f"{key}: NaN or infinity", fix, where="clip")
    return scorer
