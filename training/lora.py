"""LoRA for training: adapters on chosen linear layers of several models, the same models without them, and their file.

STAGE (§5.1) trains adapters on the transformer and on the text encoder together. The published weights have them on
every linear layer of the transformer's blocks but the modulations, and on those of the language model's layers, alpha
equal to the rank; so have these.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from ..core.errors import InputError
from ..core.files import atomic_path
from ..models.io import keymaps
from ..models.io.checkpoint import PathLike
from ..models.io.lora import LoraSpec, load_lora

__all__ = ["ADAPTER", "TARGETS", "Targets", "add_lora", "lora_tensors", "merge_lora", "without_lora", "write_lora"]

ADAPTER = "trained"
"""Name of the adapter in training."""


@dataclass(frozen=True)
class Targets:
    """Which linear layers of a kind of model get adapters, and how files call them.

    Attributes:
        inside: what their names begin with.
        without: parts of names that are left out.
        prefix: stands before the names in a file.
        public: whether files have the public names, not those of the class.
    """

    inside: str
    without: tuple[str, ...]
    prefix: str
    public: bool


TARGETS = {
    "qwen_image": Targets("transformer_blocks.", ("_mod.",), "transformer.", False),
    "wan": Targets("blocks.", (), "diffusion_model.", True),
    "qwen_vl": Targets("language_model.layers.", (), "text_encoders.qwen25_7b.transformer.", True),
}
"""By kind: Qwen-Image's names are diffusers' own, Wan's those of the published files, a text encoder's those under
which ComfyUI finds its layers.
"""


def add_lora(model: nn.Module, kind: str, rank: int, seed: int = 0) -> list[str]:
    """Freeze a model and give it adapters to train, alpha equal to the rank; they change nothing at first.

    Args:
        model: as loaded, without adapters.
        kind: a key of `TARGETS`.
        rank: of every adapter.
        seed: of their first halves, which are fp32 whatever the model is; the second halves are 0.

    Returns:
        The names of the layers.
    """
    model.requires_grad_(False)
    targets = TARGETS[kind]
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name.startswith(targets.inside)
        and not any(part in name for part in targets.without)
    ]
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules="|".join(re.escape(name) for name in names))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=ADAPTER)
        for name in names:
            layer = cast(Any, model.get_submodule(name))
            a, b = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
            a.to(torch.float32), b.to(torch.float32)
            nn.init.kaiming_uniform_(a.weight, a=5**0.5)  # peft's own, but in fp32
            nn.init.zeros_(b.weight)
    return names


@contextlib.contextmanager
def without_lora(*models: nn.Module) -> Iterator[None]:
    """Within the `with` block, the models are what they were before adapters were added."""
    # Not peft's `enable_adapters`: it also switches gradients off and on, which wrappers such as FSDP2 do not expect.
    layers = [module for model in models for module in model.modules() if isinstance(module, LoraLayer)]
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer._disable_adapters = was


def merge_lora(model: Any, kind: str, specs: Sequence[LoraSpec]) -> None:
    """Add LoRA files to a model's own weights, so that nothing is left of them as adapters.

    The sum is taken in fp32 and rounded to the weight's type once.

    Raises:
        InputError: not a LoRA of this model.
    """
    for spec in specs:
        load_lora(model, kind, spec, torch.float32)
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, LoraLayer):
            continue
        base = layer.get_base_layer()
        with torch.no_grad():
            weight = base.weight.float()
            for adapter in layer.active_adapters:
                a, b = layer.lora_A[adapter].weight.float(), layer.lora_B[adapter].weight.float()
                weight = weight + layer.scaling[adapter] * (b @ a)
            base.weight.copy_(weight)
        model.set_submodule(name, base)
    if getattr(model, "peft_config", None):
        del model.peft_config
        model._hf_peft_config_loaded = False


def lora_tensors(state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The adapters in a model's state (or in its trained part), under the names of LoRA files.

    Args:
        state: names as the model has them, `….lora_A.trained.weight`.
        kind: a key of `TARGETS`.
    """
    targets, table = TARGETS[kind], keymaps.lora_table(kind)
    tensors = {}
    for key, value in state.items():
        found = re.fullmatch(rf"(?P<module>.+)\.(?P<half>lora_[AB])\.{ADAPTER}\.weight", key)
        if found is None:
            continue
        name = found["module"]
        if targets.public and (entry := table.by_part(name)) is not None:
            name = entry.public
        tensors[f"{targets.prefix}{name}.{found['half']}.weight"] = value
    return tensors


def write_lora(
    path: PathLike,
    states: Mapping[str, Mapping[str, Tensor]],
    metadata: Mapping[str, str],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the adapters of several models as one LoRA file, which ComfyUI and the studios read for all of them and
    diffusers for the transformer. Alpha is the rank, so the file needs none.

    Args:
        path: the safetensors file; whole or not at all.
        states: by kind, see `lora_tensors`.
        metadata: the file's.
        dtype: of its tensors.

    Raises:
        InputError: no adapters in them.
    """
    tensors = {k: v for kind, state in states.items() for k, v in lora_tensors(state, kind).items()}
    if not tensors:
        raise InputError("lora", "there must be adapters to write", "none", "train with a rank of at least 1")
    tensors = {name: value.detach().cpu().to(dtype).contiguous() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", **metadata})
