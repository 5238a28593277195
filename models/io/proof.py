"""Whether a studio's files would load and fit each other, told before anything is rendered.

Of large files only headers are read: it takes seconds, and no memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...core.errors import InputError
from ..layouts.pairs import PATCH
from .lora_file import parse_lora, read_lora

__all__ = ["files_key", "fit_together", "named", "prove_lora"]


@contextmanager
def named(field: str, file: str) -> Iterator[None]:
    """Errors inside name the studio's field, and its file."""
    try:
        yield
    except InputError as error:
        inner = "" if error.field in ("path", "lora", "clip") or error.where else f": {error.field}"
        outer = error.field if error.where else field
        raise InputError(f"{outer}{inner}", error.rule, error.value, error.fix, file) from error


def prove_lora(model: Any, kind: str, path: Path) -> None:
    """Match a LoRA file against an empty transformer.

    Raises:
        InputError: it does not fit, or its values are no numbers.
    """
    parse_lora(model, kind, read_lora(path).without_large_values())


def files_key(paths: list[Path]) -> tuple[Any, ...]:
    """What changes when one of these files (or folders' files) does."""
    found = []
    for path in paths:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            state = os.stat(file)
            found.append((str(file), state.st_size, state.st_mtime_ns, state.st_ino))
    return tuple(found)


def fit_together(models: Mapping[str, Any], file: str) -> None:
    """Check that a studio's models speak of the same tensors.

    Args:
        models: empty models by the part's name, of those that were asked for.
        file: the studio's file, for messages.

    Raises:
        InputError: two of them do not fit; the message names both and the numbers.
    """

    def fit(field: str, argument: str, other: str, width: int | None) -> None:
        model = models.get(field)
        have = None if model is None else model.config.get(argument)
        if have is not None and width is not None and have != width:
            rule = f"{argument} must be what {other} gives ({width})"
            raise InputError(
                field, rule, have, f"give models that belong together: {field} or {other} is another one's", file
            )

    image = models.get("image_vae")
    fit("keyframe", "in_channels", "the image VAE", image and image.latent_channels * PATCH**2)
    fit("keyframe", "joint_attention_dim", "keyframe_text", _width(models.get("keyframe_text")))
    fit("keyframe", "pooled_projection_dim", "the pooling CLIP", _pooled(models))
    pair = models.get("pair_vae")
    fit("pair", "in_channels", "the VAE", pair and pair.latent_channels * PATCH**2)
    fit("pair", "joint_attention_dim", "pair_text", _seeing_width(models.get("pair_text")))
    for field, encoder, vae in (
        ("video", "video_text", "video_vae"),
        ("video.low", "video_text", "video_vae"),
        ("upscale", "upscale_text", "upscale_vae"),
    ):
        for argument in ("text_dim", "text_embed_dim"):
            fit(field, argument, encoder, _width(models.get(encoder)))
        for argument in ("in_channels", "out_channels"):
            fit(field, argument, vae, models.get(vae) and models[vae].latent_channels)


def _width(encoder: Any) -> int | None:
    return None if encoder is None else int(encoder.config.d_model)


def _seeing_width(encoder: Any) -> int | None:
    return None if encoder is None else int(encoder.config.text_config.hidden_size)


def _pooled(models: Mapping[str, Any]) -> int | None:
    """Width of the pooled text: the CLIP text model's, or the studio's own CLIP's."""
    if "keyframe_text.clip_text" in models:
        return int(models["keyframe_text.clip_text"].config.hidden_size)
    return int(models["clip"].ln_final.weight.shape[0]) if "keyframe_text" in models and "clip" in models else None
