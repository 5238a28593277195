"""Whether prompts fit a MODEL of ComfyUI's, said before sampling: torch would speak of matrices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

from torch import Tensor

from ...core.errors import InputError
from .native_models import backbone_of

__all__ = ["fit_tokens", "fit_texts", "text_width"]


def text_width(model: Any) -> int | None:
    """Width of the prompt tokens that a MODEL reads, where its backbone says where that stands; else None."""
    native = backbone_of(model)
    if native is None:
        return None
    try:
        return int(reduce(getattr, native.text_width.split("."), model.model.diffusion_model))
    except (AttributeError, TypeError, ValueError):  # a patched or quantised class that keeps it elsewhere
        return None


def fit_tokens(tokens: Any, field: str, width: int | None) -> None:
    """Tokens `[B, T, D]` of the prompt `field` must be `width` wide; None where nobody knows.

    Raises:
        InputError: encoded by another model's text encoder.
    """
    if width is not None and isinstance(tokens, Tensor) and tokens.shape[-1] != width:
        fix = "encode it with the text encoder of this model"
        raise InputError(field, f"must be {width} wide, as the model reads it", tuple(tokens.shape), fix)


def fit_texts(guider: Any, names: Mapping[str, str] | None = None) -> None:
    """All prompts that a GUIDER samples with must fit its MODEL. For wrappers, where sampling starts.

    Args:
        guider: has `conds` and `model_patcher`.
        names: what prompts are called where not as in `conds`.

    Raises:
        InputError: see `fit_tokens`.
    """
    width = text_width(guider.model_patcher)
    conds: Iterable[tuple[str, Any]] = guider.conds.items()
    for name, prompts in conds:
        for prompt in prompts or ():
            fit_tokens(prompt.get("cross_attn"), (names or {}).get(name, name), width)
