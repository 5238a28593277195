"""MetricModels from files: the networks that a paper's metrics are named after, in the place of what comes along."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import InputError
from ...core.files import file_identity, model_files
from ...models.encoders.clip import ClipScorer
from .clip import load_clip
from .dino import load_dino
from .lpips import load_lpips

__all__ = ["MetricFiles", "MetricModels"]

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class MetricModels:
    """The networks that films are scored with; None leaves it to what the suite has at hand.

    Attributes:
        clip: scores text alignment; else the studio's CLIP does. The studio's still steers the sampling.
        dino: pictures `[B, 3, H, W]` in 0…1 → features `[B, D]` for consistency.
        lpips: pictures on both sides of a joint, `[N, 3, H, W]` each → distances `[N]`; else 1 − SSIM is taken.
        names: of their files, for the report.
        identities: texts that change with what is in them; networks that come without are like no others.
    """

    clip: ClipScorer | None = None
    dino: Callable[[Tensor], Tensor] | None = None
    lpips: Callable[[Tensor, Tensor], Tensor] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    identities: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = [name for name in ("clip", "dino", "lpips") if getattr(self, name) is not None]
        known = {name: self.identities.get(name, secrets.token_hex()) for name in given}
        object.__setattr__(self, "identities", known)

    @classmethod
    def load(
        cls,
        clip: PathLike | None = None,
        clip_config: PathLike | None = None,
        dino: PathLike | None = None,
        lpips: PathLike | None = None,
        device: torch.device | str = "cpu",
    ) -> MetricModels:
        """Read the networks whose files are given.

        Args:
            clip: open_clip safetensors.
            clip_config: a model name that open_clip knows, or a JSON file; None reads the weights' own metadata.
            dino: a transformers folder, see `load_dino`.
            lpips: safetensors in the `lpips` package's key names, see `load_lpips`.
            device: where they compute.

        Raises:
            InputError: what is wrong with which of them.
        """
        if clip is None and clip_config is not None:
            raise InputError("clip_config", "is for a CLIP file", str(clip_config), "give the file as clip, too")
        scorer = None if clip is None else load_clip(clip, clip_config, device)
        features = None if dino is None else load_dino(dino, device)
        distances = None if lpips is None else load_lpips(lpips, device)
        files = {"clip": clip, "dino": dino, "lpips": lpips}
        given = {name: Path(path) for name, path in files.items() if path is not None}
        identities = {name: "|".join(map(file_identity, model_files(path))) for name, path in given.items()}
        if scorer is not None:
            identities["clip"] += json.dumps(scorer.config, sort_keys=True)
        names = {name: path.name or str(path) for name, path in given.items()}
        return cls(scorer, features, distances, names, identities)


@dataclass(frozen=True)
class MetricFiles:
    """Files that are not read yet, so that bad options are refused first; see `MetricModels.load`."""

    clip: PathLike | None = None
    clip_config: PathLike | None = None
    dino: PathLike | None = None
    lpips: PathLike | None = None
    device: torch.device | str = "cpu"

    def load(self) -> MetricModels:
        """Read them. Raises InputError: what is wrong with which of them."""
        return MetricModels.load(self.clip, self.clip_config, self.dino, self.lpips, self.device)
