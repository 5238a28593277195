"""Public checkpoint names ↔ diffusers / transformers names, and model arguments from shapes.

One map serves loading, saving and LoRA export. Public names are those of the published files and of ComfyUI:
Black Forest Labs' for Flux, the original ones for Wan and its VAEs, genmo's for Mochi and its VAE, transformers' own
for T5 and UMT5.

Kinds: `flux`, `wan`, `mochi`, `wan_vae`, `mochi_vae`, `t5`, `umt5`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from ...core.documents import as_object, parse_json
from ...core.errors import InputError
from ..backbones.flux import keymap as flux
from ..backbones.mochi import keymap as mochi
from ..backbones.mochi import vae_keymap as mochi_vae
from ..backbones.wan import keymap as wan
from ..backbones.wan import vae_keymap as wan_vae
from ..encoders import t5_keymap as t5
from .key_table import Entry, StateDict, Table, split_rows, swap_halves
from .shapes import count_blocks

__all__ = [
    "KINDS",
    "OTHER_PARTS",
    "Entry",
    "StateDict",
    "Table",
    "check_depth",
    "detect_kind",
    "from_public",
    "infer_config",
    "is_public",
    "lora_table",
    "part_prefix",
    "shapes_of",
    "split_rows",
    "strip_prefix",
    "swap_halves",
    "to_public",
]


class _Kind(NamedTuple):
    to_public: Callable[[Mapping[str, torch.Tensor]], StateDict]
    from_public: Callable[[Mapping[str, torch.Tensor]], StateDict]
    infer_config: Callable[[Mapping[str, torch.Tensor]], dict[str, Any]]
    public_marks: tuple[str, ...]  # a public file of this kind holds these tensors …
    ours_marks: tuple[str, ...]  # … and a diffusers / transformers state dict these
    prefixes: tuple[str, ...]  # where an all-in-one checkpoint keeps this part
    other_marks: tuple[tuple[str, ...], ...] = ()  # … or one of these sets, where a model is published in parts

    def is_public(self, names: Collection[str]) -> bool:
        marks = [[prefix + mark for mark in self.public_marks] for prefix in ("", *self.prefixes)]
        return any(all(mark in names for mark in some) for some in (*marks, *self.other_marks))


_UNET = ("model.diffusion_model.", "diffusion_model.")
_MAPS = {
    "flux": _Kind(
        flux.to_public,
        flux.from_public,
        flux.infer_config,
        ("img_in.weight", "double_blocks.0.img_attn.qkv.weight"),
        ("x_embedder.weight", "transformer_blocks.0.attn.add_q_proj.weight"),
        _UNET,
    ),
    "wan": _Kind(
        wan.to_public,
        wan.from_public,
        wan.infer_config,
        ("patch_embedding.weight", "blocks.0.self_attn.q.weight", "head.modulation"),
        ("patch_embedding.weight", "blocks.0.attn1.to_q.weight"),
        _UNET,
    ),
    "wan_vae": _Kind(
        wan_vae.to_public,
        wan_vae.from_public,
        wan_vae.infer_config,
        ("encoder.conv1.weight", "decoder.middle.0.residual.0.gamma"),
        ("encoder.conv_in.weight", "decoder.mid_block.resnets.0.norm1.gamma"),
        ("vae.", "first_stage_model."),
    ),
    "mochi": _Kind(
        mochi.to_public,
        mochi.from_public,
        mochi.infer_config,
        ("x_embedder.proj.weight", "t5_yproj.weight", "pos_frequencies"),
        ("patch_embed.proj.weight", "time_embed.caption_proj.weight", "pos_frequencies"),
        _UNET,
    ),
    "mochi_vae": _Kind(
        mochi_vae.to_public,
        mochi_vae.from_public,
        mochi_vae.infer_config,
        ("decoder.blocks.0.0.weight", "decoder.output_proj.weight"),
        ("decoder.conv_in.weight", "decoder.up_blocks.0.proj.weight", "decoder.proj_out.weight"),
        ("vae.", "first_stage_model."),
        (
            ("blocks.0.0.weight", "output_proj.weight"),
            ("layers.0.weight", "output_proj.weight", "output_norm.weight"),
            ("encoder.layers.0.weight", "encoder.output_proj.weight", "encoder.output_norm.weight"),
        ),
    ),
    "umt5": _Kind(
        t5.to_public,
        t5.from_public,
        t5.infer_config,
        (
            "encoder.block.0.layer.0.SelfAttention.q.weight",
            "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight",
        ),
        (),
        ("text_encoders.umt5xxl.transformer.",),
    ),
    "t5": _Kind(
        t5.to_public,
        t5.from_public,
        t5.infer_config,
        ("encoder.block.0.layer.0.SelfAttention.q.weight",),
        (),
        ("text_encoders.t5xxl.transformer.",),
    ),
}
KINDS = tuple(sorted(_MAPS))


def to_public(kind: str, state_dict: Mapping[str, torch.Tensor]) -> StateDict:
    """A diffusers / transformers state dict in public names (fused where the public format fuses).

    Args:
        kind: one of KINDS.
        state_dict: the whole model's tensors; the widths and the depth are read from them.

    Raises:
        InputError: unknown kind, or a tensor that such a model does not have.
    """
    with shapes_of(kind):
        return _kind(kind).to_public(state_dict)


def from_public(
    kind: str, state_dict: Mapping[str, torch.Tensor], config: Mapping[str, Any] | None = None
) -> StateDict:
    """The exact inverse of `to_public`; a checkpoint prefix (`model.diffusion_model.` …) is taken off first.

    Args:
        kind: one of KINDS.
        state_dict: tensors under public names.
        config: the model's arguments; only checked against the tensors' depth where given.

    Raises:
        InputError: unknown kind, a tensor that such a model does not have, or a config of another depth.
    """
    with shapes_of(kind):
        out = _kind(kind).from_public(strip_prefix(kind, state_dict))
    check_depth(kind, out, config or {})
    return out


_STACKS = {
    "flux": {"num_layers": "transformer_blocks.", "num_single_layers": "single_transformer_blocks."},
    "wan": {"num_layers": "blocks."},
    "mochi": {"num_layers": "transformer_blocks."},
    "t5": {"num_layers": "encoder.block."},
    "umt5": {"num_layers": "encoder.block."},
}


def check_depth(kind: str, state_dict: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> None:
    """Check that a config has as many blocks as a diffusers / transformers state dict.

    Raises:
        InputError: it has more or fewer.
    """
    for argument, prefix in _STACKS.get(kind, {}).items():
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
        kind: one of KINDS.
        state_dict: tensors under public names (only shapes are read, so meta tensors will do).
        metadata: the safetensors header's metadata.

    Raises:
        InputError: the metadata's config is no JSON object, or the shapes leave an argument open.
    """
    entry = _kind(kind)
    if metadata and "config" in metadata:
        return as_object(parse_json(metadata["config"], "metadata.config"), "metadata.config")
    with shapes_of(kind):
        return entry.infer_config(strip_prefix(kind, state_dict))


def detect_kind(keys: Collection[str]) -> str | None:
    """Which kind of model a set of tensor names belongs to (public or diffusers names, prefix or not), or None."""
    names = set(keys)
    for kind, entry in _MAPS.items():
        if entry.is_public(names):
            return kind
        if entry.ours_marks and all(mark in names for mark in entry.ours_marks):
            return kind
    return None


def is_public(kind: str, keys: Collection[str]) -> bool:
    """Whether these are the public names of `kind` rather than diffusers' (T5's are both)."""
    return _kind(kind).is_public(set(keys))


OTHER_PARTS = (
    *_UNET, "vae.", "first_stage_model.", "text_encoders.", "cond_stage_model.", "conditioner.", "clip_vision.",
    "model_ema.", "audio_vae.", "vocoder.",
)  # fmt: skip
"""Where all-in-one checkpoints keep their parts."""


def part_prefix(kind: str, names: Collection[str]) -> str | None:
    """The prefix under which an all-in-one checkpoint of these tensor names keeps a model of `kind`, or None."""
    return next((prefix for prefix in _kind(kind).prefixes if any(name.startswith(prefix) for name in names)), None)


def strip_prefix(kind: str, state_dict: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """The part of a checkpoint that belongs to `kind`: with a known prefix, only the tensors under it, without it."""
    if prefix := part_prefix(kind, state_dict.keys()):
        return {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
    return mochi_vae.with_side(state_dict) if kind == "mochi_vae" else state_dict


def lora_table(kind: str, modules: Collection[str] = ()) -> Table:
    """The module table of a kind that LoRA files exist for (`flux`, `wan`, `mochi`).

    Args:
        kind: which.
        modules: names of the model's modules; Mochi's table depends on its depth.
    """
    if kind == "mochi":
        return mochi.table_of(modules)
    tables = {"flux": flux.TABLE, "wan": wan.TABLE}
    if kind not in tables:
        raise InputError("kind", "LoRA files are read for flux, wan and mochi", kind, "choose one of them")
    return tables[kind]


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


def _kind(kind: str) -> _Kind:
    if kind not in _MAPS:
        raise InputError("kind", f"must be one of {', '.join(KINDS)}", kind, "choose a supported kind of model")
    return _MAPS[kind]
