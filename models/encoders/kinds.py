"""The registry of text encoders: what each kind is called, its classes and its tensors' names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...core.errors import InputError
from ..io.kinds import KeyMap, ModelKind, listed
from . import t5_keymap

__all__ = ["TEXT_KINDS", "TextKind", "find_text"]


@dataclass(frozen=True)
class TextKind(ModelKind):
    """A kind of text encoder.

    Attributes:
        classes: gives transformers' config class and model class.
        padding_is_zero: `pad_to` fills up with zeros, as its pipeline does; else the model is run on the padded ids.
    """

    classes: Callable[[], tuple[Any, Any]]
    padding_is_zero: bool = False

    @property
    def described(self) -> str:
        """The kind in words, such as ``a T5 encoder``."""
        return f"a {self.title} encoder"


def _t5() -> tuple[Any, Any]:
    from transformers import T5Config, T5EncoderModel

    return T5Config, T5EncoderModel


def _umt5() -> tuple[Any, Any]:
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5Config, UMT5EncoderModel


def _keys(prefix: str, *more: str) -> KeyMap:
    return KeyMap(
        t5_keymap.from_public,
        t5_keymap.infer_config,
        t5_keymap.to_public,
        public_keys=("encoder.block.0.layer.0.SelfAttention.q.weight", *more),
        prefixes=(prefix,),
        stacks={"num_layers": "encoder.block."},
    )


TEXT_KINDS = (
    TextKind(
        "umt5",
        "UMT5",
        _keys(
            "text_encoders.umt5xxl.transformer.",
            "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight",
        ),
        _umt5,
        padding_is_zero=True,
    ),
    TextKind("t5", "T5", _keys("text_encoders.t5xxl.transformer."), _t5),
)
"""The more particular first: T5's names are among UMT5's."""


def find_text(kind: str) -> TextKind:
    """The text encoder of a kind. Raises InputError if there is none."""
    for text in TEXT_KINDS:
        if text.kind == kind:
            return text
    kinds = sorted(text.kind for text in TEXT_KINDS)
    raise InputError("kind", f"must be {listed(kinds)}", kind, "choose one of them")
