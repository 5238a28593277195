"""What every kind of model file says about itself: its name, what it is called in errors, and its tensors' names.

A backbone, a VAE and a text encoder are such kinds; each describes itself beside its own code, and whoever reads files
asks the description instead of the kind's name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from .key_table import StateDict, Table

__all__ = ["UNET_PREFIXES", "VAE_PREFIXES", "KeyMap", "ModelKind", "listed"]

State = Mapping[str, torch.Tensor]

UNET_PREFIXES = ("model.diffusion_model.", "diffusion_model.")
VAE_PREFIXES = ("vae.", "first_stage_model.")
"""Where all-in-one checkpoints keep their transformer and their VAE."""


@dataclass(frozen=True)
class KeyMap:
    """Public tensor names ↔ those of the diffusers or transformers class.

    Attributes:
        from_public: a state dict under public names → under the class's.
        infer_config: the class's arguments from public names and shapes.
        to_public: the inverse of `from_public`; None where files are only read, and `infer_config` takes either names.
        public_keys: a file in public names holds these tensors …
        other_public_keys: … or one of these sets, where a model is published in several files.
        own_keys: a state dict of the class holds these; empty where the public names are the class's own.
        prefixes: where an all-in-one checkpoint keeps this model.
        stacks: prefixes of numbered blocks, by the argument that counts them.
        complete: puts the names of a model published in several files as if it were one; None leaves them.
        lora_table: the table that LoRA files are read by, from the names of the model's modules; None: there are none.
        lora_names: how `export_lora` names modules, ``own`` or ``public``; None: it does not.
        lora_aliases: other names of a module (of the class's own names) that LoRA files use.
    """

    from_public: Callable[[State], StateDict]
    infer_config: Callable[[State], dict[str, Any]]
    to_public: Callable[[State], StateDict] | None
    public_keys: tuple[str, ...]
    own_keys: tuple[str, ...] = ()
    other_public_keys: tuple[tuple[str, ...], ...] = ()
    prefixes: tuple[str, ...] = ()
    stacks: Mapping[str, str] = field(default_factory=dict)
    complete: Callable[[State], State] | None = None
    lora_table: Callable[[Collection[str]], Table] | None = None
    lora_names: Literal["own", "public"] | None = None
    lora_aliases: Callable[[str], tuple[str, ...]] = lambda name: ()

    def is_public(self, names: Collection[str]) -> bool:
        """Whether these are the names of a public file, with or without a prefix."""
        sets = [[prefix + key for key in self.public_keys] for prefix in ("", *self.prefixes)]
        return any(all(key in names for key in keys) for keys in (*sets, *self.other_public_keys))

    def is_own(self, names: Collection[str]) -> bool:
        """Whether these are the names of the diffusers or transformers class, where they differ."""
        return bool(self.own_keys) and all(key in names for key in self.own_keys)


@dataclass(frozen=True)
class ModelKind:
    """One kind of model.

    Attributes:
        kind: what studios and code call it.
        title: what errors call it.
        keys: its tensors' names.
    """

    kind: str
    title: str
    keys: KeyMap

    @property
    def described(self) -> str:
        """The kind in words, such as ``a T5 encoder``."""
        return f"a {self.title}"


def listed(words: Collection[str], last: str = "or") -> str:
    """``a, b or c``."""
    *most, end = words
    return f"{', '.join(most)} {last} {end}" if most else end
