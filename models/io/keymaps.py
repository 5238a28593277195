"""Public checkpoint names ↔ diffusers / transformers names, and model arguments from shapes.

One map serves loading, saving and LoRA export. Public names are those of the published files and of ComfyUI. Every
kind of model (backbones, their VAEs, text encoders) brings its own map; what is here serves any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ...core.documents import as_object, parse_json
from ...core.errors import InputError
from .. import backbones
from ..encoders.kinds import TEXT_KINDS
from .key_table import Entry, StateDict, Table, split_rows, swap_halves
from .kinds import UNET_PREFIXES, KeyMap, ModelKind, listed
from .shapes import count_blocks

__all__ = [
    "OTHER_PARTS",
    "Entry",
    "StateDict",
    "Table",
    "check_depth",
    "detect_kind",
    "find_keys",
    "find_kind",
    "from_public",
    "infer_config",
    "is_public",
    "is_text",
    "kinds",
    "lora_table",
    "part_prefix",
    "shapes_of",
    "split_rows",
    "strip_prefix",
    "swap_halves",
    "to_public",
]


def to_public(kind: str, state_dict: Mapping[str, torch.Tensor]) -> StateDict:
    """A diffusers / transformers state dict in public names (fused where the public format fuses).

    Args:
        kind: one of `kinds`.
        state_dict: the whole model's tensors; the widths and the depth are read from them.

    Raises:
        InputError: unknown kind, or a tensor that such a model does not have.
    """
    with shapes_of(kind):
        return _writable(kind)(state_dict)


def from_public(
    kind: str, state_dict: Mapping[str, torch.Tensor], config: Mapping[str, Any] | None = None
) -> StateDict:
    """The exact inverse of `to_public`; a checkpoint prefix (`model.diffusion_model.` …) is taken off first.

    Args:
        kind: one of `kinds`.
        state_dict: tensors under public names.
        config: the model's arguments; only checked against the tensors' depth where given.

    Raises:
        InputError: unknown kind, a tensor that such a model does not have, or a config of another depth.
    """
    with shapes_of(kind):
        out = find_keys(kind).from_public(strip_prefix(kind, state_dict))
    check_depth(kind, out, config or {})
    return out


def check_depth(kind: str, state_dict: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> None:
    """Check that a config has as many blocks as a diffusers / transformers state dict.

    Raises:
        InputError: it has more or fewer.
    """
    for argument, prefix in find_keys(kind).stacks.items():
        layers = config.get(argument)
        if layers is None:
            continue
        seen = count_blocks(state_dict, prefix)
        if seen != layers:
            raise InputError(
                f"config.{argument}",
                "the config must describe the file's own depth",
                layers,
                f"the file has {seen} blocks; give the config that belongs to it",
            )


def infer_config(
    kind: str, state_dict: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Model arguments: the file metadata's `config` (JSON) if there is one, else read from names and shapes.

    Args:
        kind: one of `kinds`.
        state_dict: tensors under public names (only shapes are read, so meta tensors will do).
        metadata: the safetensors header's metadata.

    Raises:
        InputError: the metadata's config is no JSON object, or the shapes leave an argument open.
    """
    keys = find_keys(kind)
    if metadata and "config" in metadata:
        return as_object(parse_json(metadata["config"], "metadata.config"), "metadata.config")
    with shapes_of(kind):
        return keys.infer_config(strip_prefix(kind, state_dict))


def detect_kind(keys: Collection[str]) -> str | None:
    """Which kind of model a set of tensor names belongs to (public or diffusers names, prefix or not), or None."""
    names = set(keys)
    fitting = (model.kind for model in kinds() if model.keys.is_public(names) or model.keys.is_own(names))
    return next(fitting, None)


def is_public(kind: str, keys: Collection[str]) -> bool:
    """Whether these are the public names of `kind` rather than diffusers' (T5's are both)."""
    return find_keys(kind).is_public(set(keys))


OTHER_PARTS = (
    *UNET_PREFIXES, "vae.", "first_stage_model.", "text_encoders.", "cond_stage_model.", "conditioner.", "clip_vision.",
    "model_ema.", "audio_vae.", "vocoder.",
)  # fmt: skip
"""Where all-in-one checkpoints keep their parts."""


def part_prefix(kind: str, names: Collection[str]) -> str | None:
    """The prefix under which an all-in-one checkpoint of these tensor names keeps a model of `kind`, or None."""
    return next((prefix for prefix in find_keys(kind).prefixes if any(name.startswith(prefix) for name in names)), None)


def strip_prefix(kind: str, state_dict: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """The part of a checkpoint that belongs to `kind`: with a known prefix, only the tensors under it, without it."""
    if prefix := part_prefix(kind, state_dict.keys()):
        return {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
    complete = find_keys(kind).complete
    return state_dict if complete is None else complete(state_dict)


def is_text(kind: str) -> bool:
    """Whether this is a kind of text encoder."""
    return any(text.kind == kind for text in TEXT_KINDS)


def lora_table(kind: str, modules: Collection[str] = ()) -> Table:
    """The module table of a kind that LoRA files exist for.

    Args:
        kind: which.
        modules: names of the model's modules; some tables depend on its depth.
    """
    readable = {model.kind: model.keys.lora_table for model in kinds() if model.keys.lora_table is not None}
    if kind not in readable:
        rule = f"LoRA files are read for {listed(readable, 'and')}"
        raise InputError("kind", rule, kind, "choose one of them")
    return readable[kind](modules)


@contextmanager
def shapes_of(kind: str) -> Iterator[None]:
    """Tensors of the right names and impossible shapes are the file's fault, wherever they stop the arithmetic."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, LookupError, TypeError, RuntimeError, ArithmeticError) as error:
        raise InputError(
            "state_dict",
            f"tensors must have the shapes of a {kind} model",
            str(error),
            "check that the file is whole and holds the kind of model that is asked for",
        ) from error


def kinds() -> list[ModelKind]:
    """All kinds of models that files are read for."""
    return [*backbones.BACKBONES, *backbones.vaes(), *TEXT_KINDS]


def find_kind(kind: str) -> ModelKind:
    """What a kind says about itself. Raises InputError if there is none."""
    found = {model.kind: model for model in kinds()}
    if kind not in found:
        raise InputError("kind", f"must be one of {', '.join(sorted(found))}", kind, "choose a supported kind of model")
    return found[kind]


def find_keys(kind: str) -> KeyMap:
    """The tensor names of a kind. Raises InputError if there is none."""
    return find_kind(kind).keys


def _writable(kind: str) -> Callable[[Mapping[str, torch.Tensor]], StateDict]:
    convert = find_keys(kind).to_public
    if convert is None:
        rule = f"{find_kind(kind).described} is only read, not written in public names"
        raise InputError("kind", rule, kind, "save it in its own names")
    return convert
