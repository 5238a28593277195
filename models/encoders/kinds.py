"""The registry of text encoders: what each kind is called, its classes and its tensors' names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...core.errors import InputError
from ..io.kinds import KeyMap, ModelKind, listed
from . import qwen_vl_keymap, t5_keymap

__all__ = ["TEXT_KINDS", "TextKind", "find_text"]


@dataclass(frozen=True)
class TextKind(ModelKind):
    """A kind of text encoder.

    Attributes:
        classes: gives transformers' config class and model class.
        padding_is_zero: `pad_to` fills up with zeros, as its pipeline does; else the model is run on the padded ids.
        sees: it reads pictures as well as text, and has a wrapper of its own (`qwen_vl.QwenVLEncoder`).
    """

    classes: Callable[[], tuple[Any, Any]]
    padding_is_zero: bool = False
    sees: bool = False

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


def _qwen_vl() -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

    return Qwen2_5_VLConfig, Qwen2_5_VLModel


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
    TextKind(
        "qwen_vl",
        "Qwen2.5-VL",
        KeyMap(
            qwen_vl_keymap.from_public,
            qwen_vl_keymap.infer_config,
            qwen_vl_keymap.to_public,
            public_keys=("model.layers.0.self_attn.q_proj.bias", "visual.merger.ln_q.weight"),
            other_public_keys=(
                ("model.language_model.layers.0.self_attn.q_proj.bias", "model.visual.merger.ln_q.weight"),
            ),
            own_keys=("language_model.layers.0.self_attn.q_proj.bias", "visual.merger.ln_q.weight"),
            prefixes=("text_encoders.qwen25_7b.transformer.",),
            stacks={"num_hidden_layers": "language_model.layers."},
            lora_table=lambda modules: qwen_vl_keymap.TABLE,
            lora_aliases=qwen_vl_keymap.lora_aliases,
        ),
        _qwen_vl,
        sees=True,
    ),
)
"""The more particular first: T5's names are among UMT5's."""


def find_text(kind: str, sees: bool | None = None) -> TextKind:
    """The text encoder of a kind; with `sees` one that reads pictures, or one that does not.

    Raises:
        InputError: there is none.
    """
    known = [text for text in TEXT_KINDS if sees in (None, text.sees)]
    for text in known:
        if text.kind == kind:
            return text
    kinds = sorted(text.kind for text in known)
    raise InputError("kind", f"must be {listed(kinds)}", kind, "choose one of them")
