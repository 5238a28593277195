"""Whether prompts fit a MODEL of ComfyUI's, said before sampling: torch would speak of matrices.

Classes are told by their names; ComfyUI itself is not imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ...core.errors import InputError

__all__ = ["fit_tokens", "fit_texts", "text_width"]


def text_width(model: Any) -> int | None:
    """Width of the prompt tokens that a MODEL of the Flux or Wan class reads; None of others and where unknown."""
    network = getattr(model.model, "diffusion_model", None)
    classes = {kind.__name__ for kind in type(network).__mro__}
    width: int | None = None
    if "Flux" in classes:
        width = getattr(getattr(network, "params", None), "context_in_dim", None)
    elif "WanModel" in classes and network is not None:
        width = getattr(network.text_embedding[0], "in_features", None)
    return width


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
