"""A studio's model files: where they are looked for, what belongs to a part, and what results depend on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..core.errors import InputError
from ..core.files import file_identity, model_files
from ..story.vocabulary import Vocabulary
from .io.checkpoint import read_checkpoint, read_config
from .studio_config import StudioConfig
from .studio_parts import DTYPES, PairTextPart, Part, TextPart, TransformerPart

__all__ = [
    "EXTRA",
    "PAIR_PARTS",
    "PARTS",
    "RECOGNISER",
    "UPSCALE_PARTS",
    "StudioFiles",
    "check_name",
    "find_file",
    "model_roots",
]

RECOGNISER = "recogniser"
PAIR_PARTS = ("pair_text", "pair", "pair_vae")
UPSCALE_PARTS = ("upscale_text", "upscale_vae", "upscale")
EXTRA = (RECOGNISER, *PAIR_PARTS, *UPSCALE_PARTS)
"""Parts that no film with keyframes needs: only where their names are given are they proven, counted or fingerprinted.
So what was made without them stays resumable when a studio gains them."""
PARTS = ("clip", "keyframe_text", "image_vae", "keyframe", "video_text", "video_vae", "video", "video_low")
_TINY = 64 << 20
"""Weights of at most so many bytes make a studio tiny: loaded in a second, and no work for several cores."""


class StudioFiles:
    """The parts that a studio's file names, and their files.

    Attributes:
        config: the studio file's content.
        file: the studio file.
        roots: where files are looked for.
    """

    def __init__(
        self,
        config: StudioConfig,
        file: Path,
        dtype: torch.dtype | None = None,
        models_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.config = config
        self.file = file
        self.roots = model_roots(config, file, models_dir)
        self._dtype = dtype

    @property
    def name(self) -> str:
        """The studio's name."""
        return self.config.name

    def words(self, part: str = "keyframe_text") -> Vocabulary:
        """What a text encoder of the studio was taught, `keyframe_text` or `video_text`; empty if it reads any word.

        Only the file's header is read.

        Raises:
            InputError: the file is missing or cannot be read.
        """
        name = part if getattr(self.config, part) is not None else "keyframe_text"
        own = getattr(self.config, name)
        return Vocabulary() if own is None else Vocabulary.read(read_checkpoint(self._file(name, own)).metadata)

    def files(self, *parts: str) -> list[Path]:
        """All files of these parts (of all by default), those in folders included.

        Raises:
            InputError: one is missing.
        """
        paths = [path for field, part in self._chosen_parts(parts) for path in self._paths(field, part)]
        return [file for path in dict.fromkeys(paths) for file in model_files(path)]

    def is_tiny(self, *parts: str) -> bool:
        """Whether the files of these parts (of all by default) are small together, like the pocket studio's.

        Raises:
            InputError: one is missing.
        """
        return sum(file.stat().st_size for file in self.files(*parts)) <= _TINY

    def fingerprint(self, *parts: str) -> str:
        """What results depend on apart from the machine: settings, precision and files; 64 hex digits.

        Files up to 64 MiB count with their content; larger ones with size, time of change and first megabyte, because
        reading tens of gigabytes at every start is too slow.

        Args:
            parts: only these count, with none of the sampler defaults: for work that needs no others. All by default.

        Raises:
            InputError: no such part, or a file of one is missing.
        """
        digest = hashlib.sha256(self._settings(*parts).encode())
        digest.update(str(self._dtype).encode())
        for field, part in self._chosen_parts(parts):
            for path in self._paths(field, part):
                for file in model_files(path):
                    digest.update(f"|{field}|{file.name}|{file_identity(file)}".encode())
        return digest.hexdigest()

    def _settings(self, *parts: str) -> str:
        without: dict[str, Any] = {"models_dir": True, "description": True, "made_for": True}
        without |= {part: True for part in EXTRA if part not in parts}
        without["video"] = self.config.video.unset  # films made before there was such a field stay resumable
        without["defaults"] = {"keyframe": self.config.defaults.keyframe.unset, "pair": True, "upscale": True}
        for field in ("image_vae", "video_vae"):
            if (vae := getattr(self.config, field)) is not None:
                without[field] = vae.unset
        only = {field.partition(".")[0] for field, _ in self._chosen_parts(parts)} | {"dtype"}
        return self.config.model_dump_json(include=only if parts else None, exclude=without)

    def _chosen_parts(self, names: Sequence[str]) -> list[tuple[str, Part]]:
        """What belongs to these parts, all where none is named."""
        for name in names:
            check_name(name)
        found = []
        for field, part in self._named_parts():
            root = field.split(".")[0]
            chosen = root in names or field.replace(".", "_") in names if names else root not in EXTRA
            if chosen:
                found.append((field, part))
        return found

    def _named_parts(self) -> list[tuple[str, Part]]:
        c = self.config
        named: list[tuple[str, Part | None]] = [
            ("clip", c.clip),
            ("keyframe_text", c.keyframe_text),
            ("keyframe_text.clip_text", c.keyframe_text and c.keyframe_text.clip_text),
            ("image_vae", c.image_vae),
            ("keyframe", c.keyframe),
            ("video_text", c.video_text),
            ("video_vae", c.video_vae),
            ("video", c.video),
            ("video.low", c.video.low),
            (RECOGNISER, c.recogniser),
            ("pair_text", c.pair_text),
            ("pair", c.pair),
            ("pair_vae", c.pair_vae),
            ("upscale_text", c.upscale_text),
            ("upscale_vae", c.upscale_vae),
            ("upscale", c.upscale),
        ]
        found = [(field, part) for field, part in named if part is not None]
        for field, part in list(found):
            if isinstance(part, TransformerPart | PairTextPart):
                found += [(f"{field}.loras[{i}]", Part(file=lora.file)) for i, lora in enumerate(part.loras)]
        return found

    def _paths(self, field: str, part: Part) -> list[Path]:
        """All files and folders that a part names."""
        paths = [self._file(field, part)]
        if part.config is not None and (field != "clip" or part.config.endswith(".json")):
            paths += [p for p in [self._config(field, part)] if p]
        if isinstance(part, TextPart | PairTextPart) and part.tokenizer is not None:
            paths.append(self._find(f"{field}.tokenizer", part.tokenizer))
        return paths

    def _precision(self, part: Part) -> torch.dtype:
        return self._dtype or DTYPES[part.dtype or self.config.dtype]

    def _config(self, field: str, part: Part) -> Path | None:
        return None if part.config is None else self._find(f"{field}.config", [part.config])

    def _tokenizer(self, field: str, part: TextPart | PairTextPart) -> Path | None:
        return None if part.tokenizer is None else self._find(f"{field}.tokenizer", part.tokenizer)

    def _clip_config(self, part: Part) -> Any:
        """CLIP's config: a JSON file's, or the name of an architecture."""
        if part.config is None or not part.config.endswith(".json"):
            return part.config
        return read_config(self._config("clip", part))

    def _file(self, field: str, part: Any) -> Path:
        return self._find(f"{field}.file", part.file)

    def _find(self, field: str, names: list[str]) -> Path:
        return find_file(field, names, self.roots, self.file)


def check_name(part: str) -> None:
    """Refuse what is no part of a studio (InputError)."""
    if part not in (*PARTS, *EXTRA):
        known = ", ".join((*PARTS, *EXTRA))
        raise InputError("part", f"must be one of {known}", part, "name a part of the studio")


def model_roots(config: StudioConfig, file: Path, models_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """Folders in which a studio's relative paths are looked for, in order.

    An explicit `models_dir` (the call's, else the file's, relative to the file) stands alone. Without one:
    ANCHORSHOT_MODELS (folders separated as in PATH), then COMFYUI_PATH's `models`.
    """
    if models_dir is not None:
        return [Path(models_dir).expanduser()]
    if config.models_dir is not None:
        return [file.parent / Path(config.models_dir).expanduser()]
    roots = [Path(p).expanduser() for p in os.environ.get("ANCHORSHOT_MODELS", "").split(os.pathsep) if p.strip()]
    if comfyui := os.environ.get("COMFYUI_PATH", "").strip():
        roots.append(Path(comfyui).expanduser() / "models")
    return roots


def find_file(field: str, names: Sequence[str], roots: Sequence[Path], studio: Path) -> Path:
    """The first of a studio's alternatives that exists in one of the folders.

    Args:
        field: what names it, such as ``keyframe.file``.
        names: the alternatives, absolute or relative to one of the folders.
        roots: the folders, in order.
        studio: the studio's file, for messages.

    Raises:
        InputError: none of them is there.
    """
    for name in names:
        path = Path(name).expanduser()
        for candidate in [path] if path.is_absolute() else [root / path for root in roots]:
            if _exists(candidate):
                return candidate
    shown = names[0] if len(names) == 1 else f"{names[0]} or {len(names) - 1} alternatives"
    if roots:
        fix = f"put it under {' or '.join(map(str, roots))}, or correct the name in {studio.name}"
    else:
        fix = f"set models_dir in {studio.name}, or the environment's ANCHORSHOT_MODELS or COMFYUI_PATH"
    raise InputError(field, "file must exist", shown, fix, studio.name)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, a zero byte
        return False
