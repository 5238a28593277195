"""LoRA files: read what diffusers, ComfyUI and kohya's trainers write (Flux, Wan, Mochi); write what both hosts read.

Every reader takes the names of the public format or of diffusers. The scale alpha/r is baked into B on both ways,
because diffusers keeps alpha in the metadata, where ComfyUI does not look.
"""

from __future__ import annotations

import json
import logging
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import nn

from ..story.errors import InputError
from ..story.files import atomic_path
from . import keymaps
from .checkpoint import Checkpoint, PathLike, read_checkpoint

__all__ = ["LoraFile", "LoraSpec", "export_lora", "load_lora", "parse_lora"]

logger = logging.getLogger(__name__)

_PREFIX = re.compile(
    r"^(base_model\.model\.)?(transformer\.|model\.diffusion_model\.|diffusion_model\.|lora_unet__?|lora_transformer_|unet\.)?"
)
_TEXT = re.compile(r"^(text_encoders?\.|text_encoder_\d\.|lora_te\d?_|clip_)")
_KEY = re.compile(r"^(?P<module>.+?)\.(?P<part>lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up)(\.[^.]+)?\.weight$")
_OTHER = re.compile(r"^(?P<module>.+)\.(?P<part>alpha|diff|diff_b)$")
_FOREIGN = re.compile(r"\.(dora_scale|lora_magnitude_vector.*|lokr_.*|hada_.*|oft_.*|lora_mid\.weight|reshape_weight)$")
_FIX = "use a plain LoRA of this model"


@dataclass(frozen=True)
class LoraSpec:
    """A LoRA to load.

    Args:
        path: a safetensors file.
        strength: 1 is the strength it was trained at.
        name: the adapter's name on the model; None numbers it.
    """

    path: PathLike
    strength: float = 1.0
    name: str | None = None


@dataclass
class LoraFile:
    """A LoRA under diffusers names: ΔW = B A per module, and tensors that are added to parameters as they are."""

    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    deltas: dict[str, torch.Tensor] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)


def load_lora(model: Any, kind: str, spec: LoraSpec, dtype: torch.dtype | None = None) -> str:
    """Add a LoRA file to a transformer as a peft adapter; returns the adapter's name.

    Adapters already there stay active; change strengths later with the model's `set_adapters`. Biases and norms that
    some files carry as differences are added to the parameters themselves.

    Args:
        model: CaptainFlux, DirectorWan, their stock class, or Mochi's, before fp8 casting and offloading.
        kind: `flux`, `wan` or `mochi`.
        spec: file, strength, name.
        dtype: precision of the adapter; None takes the model's.

    Raises:
        InputError: not a LoRA of this model, tensors that do not fit it, or a variant such as DoRA, LoKr, LoHa.
    """
    checkpoint = read_checkpoint(spec.path, "lora")
    lora = parse_lora(model, kind, checkpoint)
    if lora.unused:
        logger.warning(
            "%s: %d tensors have no place in this model, e.g. %s", checkpoint.name, len(lora.unused), lora.unused[0]
        )
    present = dict(getattr(model, "peft_config", {}))
    name = spec.name or f"lora{len(present)}"
    if name in present:
        raise InputError("lora", "adapter names must differ", name, "give another name")
    if lora.pairs:
        strengths = {other: _strength(model, other) for other in present}
        _inject(model, lora.pairs, name, dtype or model.dtype)
        strengths[name] = float(spec.strength)
        model.set_adapters(list(strengths), list(strengths.values()))
        for parameter_name, parameter in model.named_parameters():
            if f".{name}." in parameter_name:
                parameter.requires_grad_(False)  # activating an adapter makes it trainable
    with torch.no_grad():
        parameters = dict(model.named_parameters())
        for key, delta in lora.deltas.items():
            module, _, suffix = key.rpartition(".")
            parameter = parameters[key if key in parameters else f"{module}.base_layer.{suffix}"]
            parameter.add_(delta.to(parameter) * spec.strength)
    return name


def parse_lora(model: nn.Module, kind: str, checkpoint: Checkpoint) -> LoraFile:
    """Sort a LoRA file's tensors by the model's modules, split where the public format fuses, alpha baked into B.

    Raises:
        InputError: as `load_lora`.
    """
    source = checkpoint.name
    modules = _modules(model)
    table = keymaps.lora_table(kind, modules.keys())
    spellings = _spellings(table, modules)
    found: dict[str, dict[str, torch.Tensor]] = {}
    out = LoraFile()
    for key, tensor in checkpoint.state.items():
        if _TEXT.match(key):
            out.unused.append(key)
            continue
        if foreign := _FOREIGN.search(key):
            raise InputError(source, "LoRA variants other than plain A and B are not read", foreign[1], _FIX)
        match = _KEY.match(key) or _OTHER.match(key)
        spelled = _PREFIX.sub("", match["module"], count=1) if match else ""
        if not match or spelled not in spellings:
            out.unused.append(key)
            continue
        part = {"lora_A": "A", "lora_down": "A", "lora.down": "A"}.get(match["part"])
        part = part or {"lora_B": "B", "lora_up": "B", "lora.up": "B"}.get(match["part"], match["part"])
        if not torch.isfinite(tensor.float()).all():
            raise InputError(source, "weights must be finite numbers", f"{key}: NaN or infinity", "copy the file again")
        found.setdefault(spelled, {})[part] = tensor
    for spelled, tensors in found.items():
        entry, public = spellings[spelled]
        _add(out, entry, public, tensors, modules, spelled, checkpoint)
    if not out.pairs and not out.deltas:
        seen = next(iter(checkpoint.state), "nothing")
        raise InputError(source, f"file must hold a LoRA for {kind}", seen, _FIX)
    return out


def export_lora(
    model: nn.Module, kind: str, path: PathLike, adapter: str = "default", metadata: Mapping[str, str] | None = None
) -> None:
    """Write a model's adapter as one file that ComfyUI and diffusers both read.

    The scale (alpha/r, and its rank-stabilised form) is baked into B and no alpha is written. All matrices get one
    rank, filled up with zeros where they differ: diffusers takes one alpha for the whole file. Flux keeps diffusers
    names under `transformer.`, Wan gets its original names under `diffusion_model.`.

    Args:
        model: a transformer with the peft adapter `adapter`.
        kind: `flux` or `wan`.
        path: the safetensors file to write; whole or not at all.
        adapter: the adapter's name.
        metadata: the file's metadata (recipe, seed, figures …).

    Raises:
        InputError: no such adapter, or another kind.
    """
    if kind not in ("flux", "wan"):
        raise InputError("kind", "LoRA files are written for flux and wan", kind, "choose one of them")
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
        if kind == "wan" and entry:
            name = entry.public
        prefix = "transformer" if kind == "flux" else "diffusion_model"
        tensors[f"{prefix}.{name}.lora_A.weight"] = a.cpu().contiguous()
        tensors[f"{prefix}.{name}.lora_B.weight"] = b.cpu().contiguous()
    with atomic_path(path) as temporary:
        save_file(tensors, str(temporary), metadata={"format": "pt", **(metadata or {})})


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


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules under the names they have without adapters."""
    out: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if ".lora_" in name or ".base_layer" in name:
            continue
        out[name] = module.get_base_layer() if isinstance(module, LoraLayer) else module
    return out


def _spellings(table: keymaps.Table, modules: Mapping[str, nn.Module]) -> dict[str, tuple[keymaps.Entry, bool]]:
    """Every way to write a module's name → (its line of the table, whether the name is the public one)."""
    out: dict[str, tuple[keymaps.Entry, bool]] = {}
    for name in modules:
        entry = table.by_part(name)
        if entry is None:
            continue
        for spelled, line, public in ((name, keymaps.Entry(name, (name,)), False), (entry.public, entry, True)):
            # diffusers first: where both formats share a name (Wan's patch_embedding) they mean the same module.
            out.setdefault(spelled, (line, public))
            out.setdefault(spelled.replace(".", "_"), (line, public))
    return out


def _add(
    out: LoraFile,
    entry: keymaps.Entry,
    public: bool,
    tensors: Mapping[str, torch.Tensor],
    modules: Mapping[str, nn.Module],
    spelled: str,
    checkpoint: Checkpoint,
) -> None:
    """Sort one module's tensors in; a fused module gives its A to every part and its rows of B to each."""
    source = checkpoint.name
    parts = [p for p in entry.parts if p in modules]
    heights = [_weight(modules[p]).shape[0] for p in parts]

    def split(tensor: torch.Tensor) -> list[torch.Tensor]:
        if tensor.shape[0] != sum(heights):
            raise InputError(source, f"{spelled} must have {sum(heights)} output rows", tensor.shape[0], _FIX)
        tensor = keymaps.swap_halves(tensor) if public and entry.swapped else tensor
        return [rows.clone() for rows in tensor.split(heights)]

    for suffix, key in (("weight", "diff"), ("bias", "diff_b")):
        if key in tensors:
            for part, rows in zip(parts, split(tensors[key]), strict=True):
                parameter = getattr(modules[part], suffix, None)
                if parameter is None or parameter.shape != rows.shape:
                    raise InputError(source, f"{spelled}.{key} must fit {part}.{suffix}", tuple(rows.shape), _FIX)
                out.deltas[f"{part}.{suffix}"] = rows
    if ("A" in tensors) != ("B" in tensors):
        raise InputError(
            source, "every LoRA pair must be whole", f"{spelled} has only {'AB'['B' in tensors]}", "copy the file again"
        )
    if "A" not in tensors:
        return
    a, b = tensors["A"].float(), tensors["B"].float()
    if not all(isinstance(modules[p], nn.Linear) for p in parts):
        raise InputError(source, "LoRA is read for linear layers", spelled, _FIX)
    inputs = _weight(modules[parts[0]]).shape[1]
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != inputs or a.shape[0] != b.shape[1]:
        raise InputError(
            source,
            f"{spelled} must have A [r, {inputs}] and B [rows, r]",
            f"A {tuple(a.shape)}, B {tuple(b.shape)}",
            _FIX,
        )
    scale = _scale(tensors.get("alpha"), a.shape[0], checkpoint.metadata, parts[0])
    for part, rows in zip(parts, split(b * scale), strict=True):
        out.pairs[part] = (a, rows)


def _weight(module: nn.Module) -> torch.Tensor:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return weight


def _scale(alpha: torch.Tensor | None, rank: int, metadata: Mapping[str, str], module: str) -> float:
    """alpha / r from the file's own alpha, or from what diffusers writes into the metadata; 1 without either."""
    if alpha is not None:
        return float(alpha) / rank
    try:
        stored = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except ValueError:
        stored = {}
    config = {k.removeprefix("transformer."): v for k, v in stored.items()} if isinstance(stored, dict) else {}
    if config.get("lora_alpha") is None:
        return 1.0
    value = float(config["lora_alpha"])
    for pattern, special in (config.get("alpha_pattern") or {}).items():
        if module == pattern.lstrip("^") or module.endswith("." + pattern):
            value = float(special)
    return value / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _inject(model: Any, pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]], name: str, dtype: torch.dtype) -> None:
    # Anchored patterns: peft otherwise matches ends of names, and Flux has a `proj_out` in every block and a last one.
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
