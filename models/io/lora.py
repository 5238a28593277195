"""LoRA files: read what diffusers, ComfyUI and kohya's trainers write; write what both hosts read.

Every reader takes the names of the public format or of diffusers. The scale alpha/r is baked into B on both ways,
because diffusers keeps alpha in the metadata, where ComfyUI does not look.
"""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import nn

from ...core.errors import InputError
from ...core.files import atomic_path
from . import keymaps
from .checkpoint import PathLike
from .kinds import listed
from .lora_file import LoraFile, parse_lora, read_lora, remarks, used

__all__ = ["LoraFile", "LoraSpec", "export_lora", "load_lora", "parse_lora", "read_lora", "remarks"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoraSpec:
    """A LoRA to load.

    Args:
        path: a safetensors file.
        strength: 1 is the strength it was trained at.
        name: the adapter's name on the model; None numbers it.
        both: the file is loaded into a transformer and into a text encoder; what is the other's is not remarked upon.
    """

    path: PathLike
    strength: float = 1.0
    name: str | None = None
    both: bool = False


def load_lora(model: Any, kind: str, spec: LoraSpec, dtype: torch.dtype | None = None) -> str:
    """Add a LoRA file to a transformer or a text encoder as a peft adapter; returns the adapter's name.

    Adapters already there stay active; change strengths later with the model's `set_adapters`. Biases and norms that
    some files carry as differences are added to the parameters themselves.

    Args:
        model: a backbone's or a text encoder's, as loaded or of the stock class, before fp8 casting and offloading.
        kind: the backbone's or the text encoder's.
        spec: file, strength, name.
        dtype: precision of the adapter; None takes the model's.

    Raises:
        InputError: not a LoRA of this model, tensors that do not fit it, or a variant such as DoRA, LoKr, LoHa.
    """
    checkpoint = read_lora(spec.path)
    lora = parse_lora(model, kind, checkpoint)
    for line in remarks(checkpoint, lora, spec.both):
        logger.warning("%s", line)
    logger.info("%s", used(checkpoint, lora, keymaps.find_kind(kind).title))
    present = dict(getattr(model, "peft_config", {}))
    name = spec.name or f"lora{len(present)}"
    if name in present:
        raise InputError("lora", "adapter names must differ", name, "give another name")
    if lora.pairs:
        strengths = {other: _strength(model, other) for other in present}
        _inject(model, lora.pairs, name, dtype or model.dtype)
        strengths[name] = float(spec.strength)
        _activate(model, strengths)
    with torch.no_grad():
        parameters = dict(model.named_parameters())
        for key, delta in lora.deltas.items():
            module, _, suffix = key.rpartition(".")
            parameter = parameters[key if key in parameters else f"{module}.base_layer.{suffix}"]
            # In fp32: a difference may be smaller than a step of the parameter's own type, and fp8 cannot add.
            parameter.copy_((parameter.float() + delta.to(parameter.device) * spec.strength).to(parameter.dtype))
    return name


def export_lora(
    model: nn.Module, kind: str, path: PathLike, adapter: str = "default", metadata: Mapping[str, str] | None = None
) -> None:
    """Write a model's adapter as one file that ComfyUI and diffusers both read.

    The scale (alpha/r, and its rank-stabilised form) is baked into B and no alpha is written. All matrices get one
    rank, filled up with zeros where they differ: diffusers takes one alpha for the whole file. Its backbone says
    (`KeyMap.lora_names`) whether modules keep diffusers' names, under `transformer.`, or get the public ones, under
    `diffusion_model.`.

    Args:
        model: a transformer with the peft adapter `adapter`.
        kind: the backbone's.
        path: the safetensors file to write; whole or not at all.
        adapter: the adapter's name.
        metadata: the file's metadata (recipe, seed, figures …).

    Raises:
        InputError: no such adapter, or another kind.
    """
    writable = {model.kind: model.keys.lora_names for model in keymaps.kinds() if model.keys.lora_names}
    if kind not in writable:
        rule = f"LoRA files are written for {listed(writable, 'and')}"
        raise InputError("kind", rule, kind, "choose one of them")
    public = writable[kind] == "public"
    table = keymaps.lora_table(kind)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer) and adapter in m.lora_A}
    if not layers:
        have = ", ".join(getattr(model, "peft_config", {})) or "none"
        raise InputError("adapter", f"the model must have an adapter {adapter}", have, "name one that it has")
    rank = max(layer.r[adapter] for layer in layers.values())
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in layers.items():
        a = layer.lora_A[adapter].weight.detach()
        b = layer.lora_B[adapter].weight.detach() * (layer.lora_alpha[adapter] / _divisor(layer, adapter))
        pad = rank - a.shape[0]
        a, b = nn.functional.pad(a, (0, 0, 0, pad)), nn.functional.pad(b, (0, pad))
        entry = table.by_part(name)
        if public and entry:
            name = entry.public
        prefix = "diffusion_model" if public else "transformer"
        tensors[f"{prefix}.{name}.lora_A.weight"] = a.cpu().contiguous()
        tensors[f"{prefix}.{name}.lora_B.weight"] = b.cpu().contiguous()
    with atomic_path(path) as temporary:
        save_file(tensors, str(temporary), metadata={"format": "pt", **(metadata or {})})


def _activate(model: nn.Module, strengths: Mapping[str, float]) -> None:
    """Use these adapters and no others, each at its strength: diffusers' `set_adapters` for any model."""
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.set_adapter([name for name in strengths if name in layer.lora_A])
            for name, strength in strengths.items():
                layer.set_scale(name, strength)
    for parameter in model.parameters():  # activating an adapter makes it trainable
        parameter.requires_grad_(id(parameter) in trained)


def _strength(model: nn.Module, adapter: str) -> float:
    """The strength at which an adapter is used now."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and adapter in layer.scaling:
            return layer.scaling[adapter] * _divisor(layer, adapter) / layer.lora_alpha[adapter]
    return 1.0


def _divisor(layer: LoraLayer, adapter: str) -> float:
    """r, or √r for rank-stabilised LoRA. Not `layer.scaling`: the strength it is used at now is in there too."""
    rank = layer.r[adapter]
    return math.sqrt(rank) if getattr(layer, "use_rslora", {}).get(adapter) else rank


def _inject(model: Any, pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]], name: str, dtype: torch.dtype) -> None:
    # Anchored patterns: peft otherwise matches ends of names, and a name such as `proj_out` may stand in every block
    # and once more at the end.
    ranks = {f"^{re.escape(module)}": a.shape[0] for module, (a, _) in pairs.items()}
    config = LoraConfig(
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        target_modules="|".join(re.escape(module) for module in pairs),
        rank_pattern=ranks,
        alpha_pattern=dict(ranks),
        inference_mode=True,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are meant
        inject_adapter_in_model(config, model, adapter_name=name, low_cpu_mem_usage=True)
    model._hf_peft_config_loaded = True  # what diffusers' own loader sets; its adapter methods ask for it
    for module, (a, b) in pairs.items():
        layer = model.get_submodule(module)
        device = layer.get_base_layer().weight.device
        for weights, value in ((layer.lora_A, a), (layer.lora_B, b)):
            weights[name].weight = nn.Parameter(value.to(device, dtype), requires_grad=False)
