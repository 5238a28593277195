"""Weights from disk into a model: safetensors only, checked before anything is built on them.

What ComfyUI users keep on disk is read as it is: bf16, fp16, fp32, plain fp8, and fp8 with one scale per tensor or per
row (ComfyUI's "scaled fp8"). Other quantised formats, pickles and GGUF are refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ...core.documents import as_object, as_text, parse_json, read_json, regular_file
from ...core.errors import InputError
from .weight_file import PICKLES, read_weights

__all__ = [
    "FP8",
    "Checkpoint",
    "check_values",
    "compare",
    "dequantise",
    "load_weights",
    "read_checkpoint",
    "read_config",
    "weight_files",
]

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
PathLike = str | os.PathLike[str]
Model = TypeVar("Model", bound=nn.Module)

SMALL_FILE = 256 << 20
"""Up to so many bytes of tensors, a check before loading looks at every value."""
MAX_JSON = 4 << 20
"""Largest config.json or index in bytes."""
MAX_ENTRIES = 4096
"""Most files in a folder that is to be one model."""
_SCALES = (".weight_scale", ".scale_weight")
# Scales of activations and markers of the storage format: nothing that weights are computed from.
_MARKS = (".input_scale", ".scale_input", ".comfy_quant", "scaled_fp8")
_FOREIGN = re.compile(
    r"\.(absmax|quant_map|quant_state\..*|qweight|qzeros|g_idx|smooth_factor|weight_scale_2|wscales)$"
)


@dataclass
class Checkpoint:
    """Tensors by name, the header's metadata, and where they came from.

    Attributes:
        state: tensors, memory-mapped.
        metadata: of the safetensors header.
        source: the file or folder.
        config: a folder's config.json.
        unread: tensors of formats that are not read, with the format; refused where a model needs them.
        prefix: what was taken off the names, where this is a part of an all-in-one file.
    """

    state: dict[str, torch.Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    source: str = "weights"
    config: dict[str, Any] | None = None
    unread: dict[str, str] = field(default_factory=dict)
    prefix: str = ""

    @property
    def name(self) -> str:
        """The file's or folder's name, for messages."""
        return Path(self.source).name or self.source

    def part(self, prefix: str) -> Checkpoint:
        """The tensors under `prefix`, their names without it."""
        size = len(prefix)
        state = {key[size:]: value for key, value in self.state.items() if key.startswith(prefix)}
        unread = {key[size:]: value for key, value in self.unread.items() if key.startswith(prefix)}
        return replace(self, state=state, unread=unread, prefix=self.prefix + prefix)

    def without(self, prefixes: tuple[str, ...]) -> Checkpoint:
        """All but the tensors under these prefixes, where anything is left."""
        state = {key: value for key, value in self.state.items() if not key.startswith(prefixes)}
        unread = {key: value for key, value in self.unread.items() if not key.startswith(prefixes)}
        return replace(self, state=state, unread=unread) if state else self

    def without_large_values(self) -> Checkpoint:
        """The same; above `SMALL_FILE` with tensors that have names, shapes and types but no values (meta device)."""
        if sum(value.nbytes for value in self.state.values()) <= SMALL_FILE:
            return self
        # What is read as text or as one number stays: it says how the others are to be read.
        state = {
            key: value if value.numel() <= 1 or key.endswith(".comfy_quant") else value.to("meta")
            for key, value in self.state.items()
        }
        return replace(self, state=state)


def read_checkpoint(path: PathLike, field: str = "path") -> Checkpoint:
    """Read a safetensors file, or a diffusers / transformers folder of one (or several) with its config.json.

    Tensors are memory-mapped: nothing is copied until it is used.

    Args:
        path: the file or folder.
        field: what to call it in errors.

    Raises:
        InputError: missing, unreadable, truncated, no safetensors, or a pickle (whatever its name).
    """
    path = Path(path)
    try:
        exists = path.exists()
    except (OSError, ValueError):  # a name too long, a zero byte
        exists = False
    if not exists:
        raise InputError(field, "file must exist", str(path), "check the path, or where models are looked for")
    if not path.is_dir():
        found = read_weights(path, field)
        return Checkpoint(found.state, found.metadata, str(path), unread=found.unread)
    whole = Checkpoint({}, {}, str(path))
    for file in _parts(path, field):
        found = read_weights(file, field)
        if twice := (whole.state.keys() | whole.unread.keys()) & (found.state.keys() | found.unread.keys()):
            fix = "copy or download the folder again"
            raise InputError(field, "parts of a model must not hold a tensor twice", min(twice), fix)
        whole.state.update(found.state)
        whole.unread.update(found.unread)
        whole.metadata.update(found.metadata)
    if (path / "config.json").exists():
        whole.config = as_object(read_json(path / "config.json", field, limit=MAX_JSON), f"{path.name}/config.json")
    return whole


def weight_files(path: Path, field: str = "path") -> list[Path]:
    """The safetensors files that `read_checkpoint` reads.

    Raises:
        InputError: as `read_checkpoint`, of what can be told without opening them.
    """
    return _parts(path, field) if path.is_dir() else [regular_file(path, field, "safetensors file")]


def _parts(path: Path, field: str) -> list[Path]:
    """A folder's safetensors files; of several only those of an index, which must lie in the folder."""
    try:
        names = sorted(entry.name for entry in islice(os.scandir(path), MAX_ENTRIES + 1))
    except OSError as error:
        raise InputError(field, "folder must be readable", f"{error.strerror}: {path}", "check it") from error
    if len(names) > MAX_ENTRIES:
        rule = f"a model's folder must hold at most {MAX_ENTRIES} files"
        raise InputError(field, rule, str(path), "name the model's own file or folder")
    files = [name for name in names if name.endswith(".safetensors") and not name.startswith(".")]
    index = next((name for name in names if name.endswith(".safetensors.index.json")), None)
    if index:
        files = _indexed(path, index, field)
    else:
        # A folder may hold the same weights a second time, as `….fp16.safetensors`.
        files = [name for name in files if name.count(".") == 1] or files
    if not files:
        pickles = [name for name in names if Path(name).suffix.lower() in PICKLES]
        raise InputError(
            field,
            "folder must hold safetensors files" + ("; pickles can run code" if pickles else ""),
            pickles[0] if pickles else str(path),
            "give the model as .safetensors",
        )
    if len(files) > 1 and not index:
        raise InputError(field, "folder must hold one model", ", ".join(files), "name one file")
    return [path / name for name in files]


def _indexed(path: Path, index: str, field: str) -> list[str]:
    where = f"{path.name}/{index}"
    weight_map = as_object(read_json(path / index, field, limit=MAX_JSON), where).get("weight_map")
    names = sorted(
        {as_text(name, f"{where}: weight_map") for name in as_object(weight_map, f"{where}: weight_map").values()}
    )
    for name in names:
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            rule = f"{index} must name safetensors files in its own folder"
            raise InputError(field, rule, name, "copy or download the index again")
        if not (path / name).is_file():
            rule = f"all parts named in {index} must be there"
            raise InputError(field, rule, name, "copy or download the missing part")
    return names


def read_config(config: Mapping[str, Any] | PathLike | None) -> dict[str, Any] | None:
    """A model config given as a mapping, a JSON file, or a folder with config.json; None stays None."""
    if config is None or isinstance(config, Mapping):
        return None if config is None else dict(config)
    path = Path(config)
    try:
        path = path / "config.json" if path.is_dir() else path
        exists = path.exists()
    except (OSError, ValueError):  # a name too long, a zero byte
        exists = False
    if not exists:
        raise InputError("config", "file must exist", str(path), "give a config.json on this machine")
    return as_object(read_json(path, path.name, limit=MAX_JSON), path.name)


def dequantise(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Tensors with ComfyUI's fp8 scales multiplied in (weight = fp8 value · scale) and the format's marks dropped.

    Plain fp8, bf16, fp16 and fp32 tensors come back as they are; scaled ones in `dtype`. The product is taken in fp32.

    Raises:
        InputError: a format other than fp8 with one scale per tensor or per row.
    """
    _refuse_formats(checkpoint)
    scales: dict[str, torch.Tensor] = {}
    out: dict[str, torch.Tensor] = {}
    for key, tensor in checkpoint.state.items():
        suffix = next((s for s in _SCALES if key.endswith(s)), None)
        if suffix:
            scales[key[: -len(suffix)] + ".weight"] = tensor
        elif not key.endswith(_MARKS):
            out[key] = tensor
    for key, scale in scales.items():
        weight = out.get(key)
        if weight is None or weight.dtype not in FP8:
            raise InputError(
                checkpoint.name,
                "a weight_scale must belong to an fp8 weight",
                key,
                "use a file of bf16, fp16 or scaled fp8 weights",
            )
        rows = len(weight) if weight.ndim else 1
        if scale.numel() not in (1, rows) or not scale.is_floating_point():
            seen = f"{key}: {tuple(scale.shape)} of {scale.dtype}"
            raise InputError(
                checkpoint.name,
                "fp8 scales are read per tensor or per row",
                seen,
                "use a bf16, fp16 or per-tensor scaled fp8 file",
            )
        shape = (-1, *[1] * (weight.ndim - 1))
        out[key] = (weight.float() * scale.float().reshape(shape)).to(dtype)
    return out


def _refuse_formats(checkpoint: Checkpoint) -> None:
    fix = "use a bf16, fp16 or scaled fp8 file of the same model"
    for key, layout in checkpoint.unread.items():
        raise InputError(checkpoint.name, "weights must be fp32, bf16, fp16 or fp8", f"{key}: {layout}", fix)
    for key, tensor in checkpoint.state.items():
        if key.endswith(".comfy_quant"):
            _check_format(checkpoint, _marked(checkpoint, key, tensor), key, fix)
        elif _FOREIGN.search(key):
            raise InputError(checkpoint.name, "quantised weights are read as fp8 only", key, fix)
        elif key.endswith(".weight") and not tensor.is_floating_point():
            raise InputError(checkpoint.name, "weights must be floating point", f"{key}: {tensor.dtype}", fix)
    where = f"{checkpoint.name}: _quantization_metadata"
    stored = as_object(parse_json(checkpoint.metadata.get("_quantization_metadata", "{}"), where), where)
    layers = as_object(stored.get("layers", {}), f"{where}: layers")
    for layer, info in layers.items():
        # In an all-in-one file the layers of the other models do not matter here.
        if not checkpoint.state or layer.removeprefix(checkpoint.prefix) + ".weight" in checkpoint.state:
            _check_format(checkpoint, as_object(info, f"{where}: {layer}").get("format"), layer, fix)


def _marked(checkpoint: Checkpoint, key: str, tensor: torch.Tensor) -> Any:
    """What ComfyUI's mark of a layer's format says: JSON in a tensor of bytes."""
    where = f"{checkpoint.name}: {key}"
    if tensor.dtype not in (torch.uint8, torch.int8) or tensor.numel() > 4096:
        seen = f"{tensor.numel()} of {tensor.dtype}"
        raise InputError(where, "must be a short text in bytes", seen, "copy or download the file again")
    text = bytes(tensor.flatten().to(torch.uint8).tolist())
    return as_object(parse_json(text, where), where).get("format")


def _check_format(checkpoint: Checkpoint, layout: Any, where: str, fix: str) -> None:
    if layout not in ("float8_e4m3fn", "float8_e5m2"):
        raise InputError(checkpoint.name, "quantised weights are read as fp8 only", f"{where}: {layout}", fix)


def load_weights(
    model: Model,
    state: dict[str, torch.Tensor],
    *,
    source: str,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    fp32: Collection[str] = (),
    keep_fp8: Collection[str] = (),
) -> Model:
    """Put checked tensors into a model that was built without weights; returns the model in eval mode.

    Args:
        model: parameters on the meta device.
        state: tensors under the model's own names; emptied on the way, so that the model never lies in memory twice.
        source: the file, for messages.
        dtype: precision of the model.
        device: where the tensors go, one by one.
        fp32: name parts that stay fp32 under a half-precision `dtype`.
        keep_fp8: parameters that stay fp8 if they came so.

    Raises:
        InputError: missing, surplus or misshapen tensors, or values that are not finite; each is named.
    """
    compare(model, state, source)
    first: dict[int, str] = {}
    tied = {key: first.setdefault(id(tensor), key) for key, tensor in state.items()}
    ready: dict[str, torch.Tensor] = {}
    for key in list(state):
        tensor = state.pop(key)
        if tied[key] != key:
            ready[key] = ready[tied[key]]
            continue
        kept = tensor.dtype in FP8 and key in keep_fp8
        target = torch.float32 if set(key.split(".")) & set(fp32) else dtype
        # Copied even where nothing changes: how a memory-mapped tensor is aligned depends on the file's header, and the
        # last bit of a matrix product on the alignment.
        value = tensor.to(device, tensor.dtype if kept else target, copy=True)
        finite = not torch.isnan(value).any() if kept else bool(torch.isfinite(value).all())
        if not finite:
            raise _not_finite(source, key, value.dtype)
        ready[key] = value
    model.load_state_dict(ready, strict=True, assign=True)
    # buffers that no file holds (rotary tables) are still where the model was built
    return model.to(device=torch.device(device)).requires_grad_(False).eval()


def check_values(state: Mapping[str, torch.Tensor], dtype: torch.dtype, source: str) -> None:
    """Check that tensors hold finite numbers, also in the precision they are going to have; meta tensors have none.

    Raises:
        InputError: naming the first that does not.
    """
    for key, tensor in state.items():
        if not tensor.is_meta and tensor.is_floating_point():
            value = tensor.float() if tensor.dtype in FP8 else tensor.to(dtype)
            if not torch.isfinite(value).all():
                raise _not_finite(source, key, dtype)


def _not_finite(source: str, key: str, dtype: torch.dtype) -> InputError:
    return InputError(
        source,
        f"weights must be finite numbers in {dtype}",
        f"{key}: NaN or infinity",
        "copy or download the file again, or load it in bf16 or fp32",
    )


def compare(model: nn.Module, given: Mapping[str, torch.Tensor], source: str) -> None:
    """Check that tensors are a model's, all of them, in its shapes and of numbers that weights can be.

    Raises:
        InputError: missing, surplus or misshapen tensors, or integers; the first is named.
    """
    fix = "check that the file is whole, of the right kind, and that the config belongs to it"
    expected = model.state_dict()
    for rule, keys in (
        ("tensors must be complete", expected.keys() - given.keys()),
        ("tensors must all belong to the model", given.keys() - expected.keys()),
    ):
        if keys:
            first, *rest = sorted(keys)
            word = "no " if "complete" in rule else ""
            raise InputError(source, rule, f"{word}{first}" + (f" and {len(rest)} more" if rest else ""), fix)
    for key, tensor in expected.items():
        if given[key].shape != tensor.shape:
            raise InputError(source, f"{key} must have shape {tuple(tensor.shape)}", tuple(given[key].shape), fix)
        if tensor.is_floating_point() and not given[key].is_floating_point():
            raise InputError(source, "weights must be floating point", f"{key}: {given[key].dtype}", fix)
