"""A LoRA file in memory: its tensors sorted by the modules of a model, whichever tool wrote them.

Every reader takes the names of the public format or of diffusers. The scale alpha/r is baked into B.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ...core.documents import as_number, as_object, parse_json, read_bytes
from ...core.errors import InputError
from . import keymaps
from .checkpoint import MAX_JSON, Checkpoint, PathLike, dequantise, read_checkpoint
from .lora_names import FOREIGN, TEXT_PREFIXES, Place, branch_of, key_of, of_text, places, resolve, text_key
from .lora_variants import VARIANTS, difference

__all__ = ["LoraFile", "parse_lora", "read_lora", "remarks", "used"]

_FIX = "use a LoRA of this model"
_INPUTS = ("img_in", "patch_embedding", "x_embedder.proj")
MAX_ALPHA = 1e6
OF_TEXT, OF_TRANSFORMER = "of a text encoder", "of a transformer"
"""Why tensors are left out that are for another model; `remarks` does not speak of them where that one gets them."""


@dataclass
class LoraFile:
    """A LoRA under diffusers names.

    Attributes:
        pairs: (A, B) per linear module, ΔW = B A.
        deltas: what is added to parameters as it is.
        left: tensors that are not applied, by the reason.
        outer_scales: factors that come from the metadata, where ComfyUI does not look.
    """

    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    deltas: dict[str, torch.Tensor] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)
    outer_scales: set[float] = field(default_factory=set)

    @property
    def unused(self) -> list[str]:
        """Names of all tensors that are not applied."""
        return [key for keys in self.left.values() for key in keys]


def read_lora(path: PathLike) -> Checkpoint:
    """A LoRA file's tensors; peft keeps alpha in an adapter_config.json beside its adapter_model.safetensors.

    Raises:
        InputError: as `read_checkpoint`, or a broken adapter_config.json.
    """
    checkpoint = read_checkpoint(path, "lora")
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    beside = folder / "adapter_config.json"
    if "lora_adapter_metadata" not in checkpoint.metadata and beside.is_file() and _is_peft(Path(path)):
        config = read_bytes(beside, beside.name, limit=MAX_JSON).decode("utf-8", "replace")
        checkpoint.metadata["lora_adapter_metadata"] = config
    return checkpoint


def _is_peft(path: Path) -> bool:
    return path.is_dir() or path.name == "adapter_model.safetensors"


def remarks(checkpoint: Checkpoint, lora: LoraFile, both: bool = False) -> list[str]:
    """What the user should know: what of a LoRA is not applied, and where ComfyUI makes another strength of it.

    With `both` the file is loaded into a transformer and a text encoder, and neither needs to be told of the other's.
    """
    lines = []
    left = {reason: keys for reason, keys in lora.left.items() if not (both and reason in (OF_TEXT, OF_TRANSFORMER))}
    if left:
        total = len(checkpoint.state)
        parts = [
            f"{len(keys)} {reason} ({', '.join(sorted(keys)[:3])}{', …' * (len(keys) > 3)})"
            for reason, keys in left.items()
        ]
        lines.append(
            f"{checkpoint.name}: {total - len(lora.unused)} of {total} tensors are applied; not: {'; '.join(parts)}"
        )
    if other := sorted(scale for scale in lora.outer_scales if scale != 1):
        seen = " and ".join(f"{scale:g}" for scale in other[:3])
        lines.append(
            f"{checkpoint.name}: alpha/r = {seen} stands in the metadata, where ComfyUI does not look: it uses this "
            "LoRA at 1; save it with alpha baked in to have one strength in both"
        )
    return lines


def used(checkpoint: Checkpoint, lora: LoraFile, title: str) -> str:
    """In one line, how many of a file's tensors go to how many modules of a model."""
    modules = len(lora.pairs.keys() | {key.rpartition(".")[0] for key in lora.deltas})
    total = len(checkpoint.state)
    return (
        f"{checkpoint.name}: {total - len(lora.unused)} of {total} tensors for {modules} modules of the {title} model"
    )


def parse_lora(model: nn.Module, kind: str, checkpoint: Checkpoint) -> LoraFile:
    """Sort a LoRA file's tensors by the model's modules, split where the public format fuses, alpha baked into B.

    The model may be empty (on the meta device); so may the tensors of the file, but for single numbers.

    Raises:
        InputError: as `load_lora`.
    """
    source = checkpoint.name
    modules, keys, text = _modules(model), keymaps.find_keys(kind), keymaps.is_text(kind)
    table = keymaps.lora_table(kind, modules.keys())
    known = places(table, modules, _parameters(model), keys.lora_aliases)
    prefixes: tuple[tuple[str, ...], ...] = ((*keys.prefixes, *TEXT_PREFIXES),) if text else ()
    out, alphas = LoraFile(), LoraAlpha.of(checkpoint)
    found: dict[Place, dict[int, dict[str, torch.Tensor]]] = {}
    spelled_as: dict[Place, str] = {}
    for key, tensor in dequantise(checkpoint, torch.float32).items():
        if text_key(key) and not text:
            out.left.setdefault(OF_TEXT, []).append(key)
            continue
        if foreign := FOREIGN.search(key):
            raise InputError(source, "LoRA variants other than LoRA, LoHa and LoKr are not read", foreign[1], _FIX)
        if key.endswith(".reshape_weight"):
            raise _control(source, key.removesuffix(".reshape_weight"), "more input channels")
        name = key_of(key)
        place = name and resolve(name[0], known, *prefixes)
        if name is None or place is None:
            out.left.setdefault(_reason(key, text, name is not None), []).append(key)
            continue
        spelled, part = name
        _check_values(source, key, part, tensor)
        branch = found.setdefault(place, {}).setdefault(branch_of(key), {})
        if part in branch:
            raise InputError(source, "a LoRA must not name a module twice", f"{key} and {spelled_as[place]}", _FIX)
        branch[part] = tensor
        spelled_as.setdefault(place, spelled)
    for place, branches in found.items():
        for number, tensors in branches.items():
            # What has no number, such as alpha, stands with branch 0 and holds for all.
            alpha = branches[0]["alpha"] if number and "alpha" in branches.get(0, {}) else None
            whole = tensors if alpha is None else {"alpha": alpha, **tensors}
            if whole.keys() != {"alpha"} or len(branches) == 1:
                _add(out, place, whole, modules, _Naming(source, spelled_as[place]), alphas, len(branches) > 1)
    if not out.pairs and not out.deltas:
        seen = next(iter(checkpoint.state), "nothing")
        raise InputError(source, f"file must hold a LoRA for {kind}", seen, _FIX)
    return out


def _reason(key: str, text: bool, known_form: bool) -> str:
    """Why a tensor is not applied."""
    if of_text(key) and not text:
        return OF_TEXT
    if text and not of_text(key):
        return OF_TRANSFORMER
    return "of modules that this model does not have" if known_form else "in a form that is not read"


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules under the names they have without adapters."""
    out: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if ".lora_" in name or ".base_layer" in name:
            continue
        base = getattr(module, "get_base_layer", None)  # of peft's layers; ComfyUI has no peft to ask
        out[name] = module if base is None else base()
    return out


def _parameters(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters() if ".lora_" not in name]


class _Naming(NamedTuple):
    source: str
    spelled: str


def _check_values(source: str, key: str, part: str, tensor: torch.Tensor) -> None:
    if part != "alpha" and not tensor.is_floating_point():
        raise InputError(source, "weights must be floating point", f"{key}: {tensor.dtype}", _FIX)
    if not tensor.is_meta and not torch.isfinite(tensor.float()).all():
        raise InputError(source, "weights must be finite numbers", f"{key}: NaN or infinity", "copy the file again")


def _control(source: str, spelled: str, seen: object) -> InputError:
    rule = f"{spelled} must take the model's own input channels; control LoRAs, which look at a picture, are not read"
    return InputError(source, rule, seen, "use a LoRA without a control picture")


def _add(
    out: LoraFile,
    place: Place,
    tensors: Mapping[str, torch.Tensor],
    modules: Mapping[str, nn.Module],
    naming: _Naming,
    alphas: LoraAlpha,
    several: bool = False,
) -> None:
    """Sort one module's tensors in; a fused module gives its A to every part and its rows of B to each."""
    source, spelled = naming
    entry = place.entry
    if place.parameter:
        _add_table(out, entry.parts[0], tensors, modules, naming)
        return
    parts = [p for p in entry.parts if p in modules]
    heights = [_weight(modules[p]).shape[0] for p in parts]
    shape = (sum(heights), *_weight(modules[parts[0]]).shape[1:])

    def split(tensor: torch.Tensor) -> list[torch.Tensor]:
        if not tensor.ndim or tensor.shape[0] != shape[0]:
            raise InputError(source, f"{spelled} must have {shape[0]} output rows", tuple(tensor.shape), _FIX)
        tensor = keymaps.swap_halves(tensor) if place.public and entry.swapped else tensor
        return [rows.clone() for rows in tensor.split(heights)]

    def add(tensor: torch.Tensor, suffix: str, part_of: str) -> None:
        for part, rows in zip(parts, split(tensor.float()), strict=True):
            parameter = getattr(modules[part], suffix, None)
            if parameter is None or parameter.shape != rows.shape:
                raise InputError(source, f"{spelled}.{part_of} must fit {part}.{suffix}", tuple(rows.shape), _FIX)
            _accumulate(out, f"{part}.{suffix}", rows)

    for suffix, key in (("weight", "diff"), ("bias", "diff_b")):
        if key in tensors:
            add(tensors[key], suffix, key)
    if ("A" in tensors) != ("B" in tensors) or ("B" not in tensors and ("mid" in tensors or "bias" in tensors)):
        seen = f"{spelled} has only {', '.join(sorted(tensors))}"
        raise InputError(source, "every LoRA pair must be whole", seen, "copy the file again")
    linear = all(isinstance(modules[p], nn.Linear) for p in parts)
    scale = 1.0
    if "A" in tensors and linear and "mid" not in tensors:
        a, b = tensors["A"].float(), tensors["B"].float()
        a, b = (t.flatten(1) if t.ndim > 2 else t for t in (a, b))
        _check_inputs(a, shape, entry, naming)
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != shape[1] or a.shape[0] != b.shape[1] or not len(a):
            rule, seen = (
                f"{spelled} must have A [r, {shape[1]}] and B [rows, r]",
                f"A {tuple(a.shape)}, B {tuple(b.shape)}",
            )
            raise InputError(source, rule, seen, _FIX)
        scale = alphas.scale(tensors.get("alpha"), len(a), parts[0], out, naming.spelled)
        for part, rows in zip(parts, split(b * scale), strict=True):
            if part in out.pairs and several:
                out.pairs[part] = (torch.cat([out.pairs[part][0], a]), torch.cat([out.pairs[part][1], rows], 1))
                continue
            if part in out.pairs:
                raise InputError(source, "a LoRA must not name a module twice", f"{spelled} and {part}", _FIX)
            out.pairs[part] = (a, rows)
    elif "A" in tensors or any(name in tensors for name in VARIANTS):
        if "A" in tensors:
            _check_inputs(tensors["A"], shape, entry, naming)
        delta, rank = _difference(tensors, shape, naming)
        if rank is not None:
            scale = alphas.scale(tensors.get("alpha"), rank, parts[0], out, naming.spelled)
        add(delta * scale, "weight", "difference")
    elif not tensors.keys() & {"diff", "diff_b"}:
        seen = f"{spelled} has only {', '.join(sorted(tensors))}"
        raise InputError(source, "every LoRA pair must be whole", seen, "copy the file again")
    if "bias" in tensors:  # peft scales it like B
        add(tensors["bias"].float() * scale, "bias", "lora_B.bias")


def _add_table(
    out: LoraFile, name: str, tensors: Mapping[str, torch.Tensor], modules: Mapping[str, nn.Module], naming: _Naming
) -> None:
    """A difference of a parameter that stands for itself, such as a table of modulations."""
    owner, _, leaf = name.rpartition(".")
    parameter = getattr(modules[owner], leaf)
    delta = tensors.get("diff")
    if tensors.keys() != {"diff"} or delta is None or delta.shape != parameter.shape:
        rule = f"{naming.spelled} must be a difference of shape {tuple(parameter.shape)}"
        seen = ", ".join(f"{part} {tuple(t.shape)}" for part, t in tensors.items())
        raise InputError(naming.source, rule, seen, _FIX)
    _accumulate(out, name, delta.float())


def _accumulate(out: LoraFile, name: str, delta: torch.Tensor) -> None:
    out.deltas[name] = out.deltas[name] + delta if name in out.deltas else delta


def _check_inputs(a: torch.Tensor, shape: tuple[int, ...], entry: keymaps.Entry, naming: _Naming) -> None:
    if a.ndim > 1 and entry.public in _INPUTS and a.shape[1] > shape[1] and a[0, 0].numel() <= math.prod(shape[2:]):
        raise _control(naming.source, naming.spelled, f"{a.shape[1]} instead of {shape[1]}")


def _difference(
    tensors: Mapping[str, torch.Tensor], shape: tuple[int, ...], naming: _Naming
) -> tuple[torch.Tensor, int | None]:
    try:
        return difference(tensors, shape)
    except KeyError as error:
        seen = f"{naming.spelled} has no {error.args[0]}"
        raise InputError(naming.source, "every LoRA pair must be whole", seen, "copy the file again") from error
    except (ValueError, RuntimeError, IndexError) as error:
        rule = f"{naming.spelled} must make a difference of shape {tuple(shape)}"
        raise InputError(naming.source, rule, str(error), _FIX) from error


def _weight(module: nn.Module) -> torch.Tensor:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return weight


@dataclass(frozen=True)
class LoraAlpha:
    """alpha, and what diffusers and peft write into the metadata in its place.

    Attributes:
        source: the file, for messages.
        alpha: of all modules that are not in `pattern`; None where the metadata tells none.
        pattern: of single modules, by the end of their name.
        root: divide by √r instead of r (rank-stabilised LoRA).
    """

    source: str
    alpha: float | None = None
    pattern: Mapping[str, float] = field(default_factory=dict)
    root: bool = False

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> LoraAlpha:
        """Read a file's metadata; InputError where it is broken."""
        where = f"{checkpoint.name}: lora_adapter_metadata"
        stored = as_object(parse_json(checkpoint.metadata.get("lora_adapter_metadata", "{}"), where), where)
        config = {key.removeprefix("transformer."): value for key, value in stored.items()}
        if config.get("lora_alpha") is None:
            return cls(checkpoint.name)
        pattern = as_object(config.get("alpha_pattern") or {}, f"{where}: alpha_pattern")
        return cls(
            checkpoint.name,
            _alpha(config["lora_alpha"], f"{where}: lora_alpha"),
            {name: _alpha(value, f"{where}: alpha_pattern") for name, value in pattern.items()},
            bool(config.get("use_rslora")),
        )

    def scale(self, own: torch.Tensor | None, rank: int, module: str, out: LoraFile, spelled: str) -> float:
        """The factor of one module: alpha / r from the file's own alpha, else from the metadata; 1 without either."""
        if own is not None:
            if own.numel() != 1:
                raise InputError(self.source, f"{spelled}.alpha must be one number", tuple(own.shape), _FIX)
            return _alpha(own.float().item(), f"{self.source}: {spelled}.alpha") / rank
        if self.alpha is None:
            return 1.0
        value = self.alpha
        for pattern, special in self.pattern.items():
            if module == pattern.lstrip("^") or module.endswith("." + pattern):
                value = special
        scale = value / (math.sqrt(rank) if self.root else rank)
        out.outer_scales.add(scale)
        return scale


def _alpha(value: Any, field: str) -> float:
    return as_number(value, field, -MAX_ALPHA, MAX_ALPHA)
