"""Weights from disk into a model: safetensors only, checked before anything is built on them.

What ComfyUI users keep on disk is read as it is: bf16, fp16, fp32, plain fp8, and the quantised formats that `formats`
describes (scaled fp8, fp8 mixed, int8_convrot). Other quantised formats, pickles and GGUF are refused.
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
from .formats import FIX, FP8, find_format, restore, scaled
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
    """Tensors without quantisation: weights as their layers' formats describe them, and the formats' marks dropped.

    Plain fp8, bf16, fp16 and fp32 tensors come back as they are; quantised ones in `dtype`, computed in fp32.

    Raises:
        InputError: a format that is not read (`formats.FORMATS`), or tensors that are not what it describes.
    """
    described = _descriptions(checkpoint)
    _refuse_foreign(checkpoint)
    scales: dict[str, torch.Tensor] = {}
    out: dict[str, torch.Tensor] = {}
    for key, tensor in checkpoint.state.items():
        suffix = next((s for s in _SCALES if key.endswith(s)), None)
        if suffix:
            scales[key[: -len(suffix)] + ".weight"] = tensor
        elif not key.endswith(_MARKS):
            out[key] = tensor
    for key in list(out):
        scale, description = scales.pop(key, None), described.get(key)
        if description is not None:
            out[key] = restore(checkpoint.name, key, out[key], scale, description, dtype)
        elif scale is not None and out[key].dtype in FP8:
            out[key] = scaled(checkpoint.name, key, out[key], scale, dtype)
        elif scale is not None:
            scales[key] = scale
        elif key.endswith(".weight") and not out[key].is_floating_point():
            seen = f"{key}: {out[key].dtype}, and no description of its format"
            raise InputError(checkpoint.name, "weights must be floating point", seen, FIX)
    for key in scales:
        rule = "a weight_scale must belong to an fp8 weight, or to one whose format the file describes"
        raise InputError(checkpoint.name, rule, key, FIX)
    return out


def _refuse_foreign(checkpoint: Checkpoint) -> None:
    for key, layout in checkpoint.unread.items():
        raise InputError(checkpoint.name, "weights must be fp32, bf16, fp16, fp8 or int8", f"{key}: {layout}", FIX)
    for key in checkpoint.state:
        if _FOREIGN.search(key):
            raise InputError(checkpoint.name, "quantised weights are read in ComfyUI's fp8 and int8 only", key, FIX)


def _descriptions(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """What the file says about its layers' formats, by the weight's name; formats that are not read are refused.

    As in ComfyUI, the header's metadata counts before the marks beside the layers.
    """
    found = {}
    for key, tensor in checkpoint.state.items():
        if key.endswith(".comfy_quant"):
            layer = key.removesuffix(".comfy_quant")
            found[f"{layer}.weight"] = _marked(checkpoint, key, tensor)
            find_format(checkpoint.name, key, found[f"{layer}.weight"])
    where = f"{checkpoint.name}: _quantization_metadata"
    stored = as_object(parse_json(checkpoint.metadata.get("_quantization_metadata", "{}"), where), where)
    layers = as_object(stored.get("layers", {}), f"{where}: layers")
    for layer, info in layers.items():
        # In an all-in-one file the layers of the other models do not matter here.
        key = layer.removeprefix(checkpoint.prefix) + ".weight"
        if not checkpoint.state or key in checkpoint.state:
            found[key] = as_object(info, f"{where}: {layer}")
            find_format(checkpoint.name, layer, found[key])
    return found


def _marked(checkpoint: Checkpoint, key: str, tensor: torch.Tensor) -> dict[str, Any]:
    """What ComfyUI's mark of a layer's format says: JSON in a tensor of bytes."""
    where = f"{checkpoint.name}: {key}"
    if tensor.dtype not in (torch.uint8, torch.int8) or tensor.numel() > 4096:
        seen = f"{tensor.numel()} of {tensor.dtype}"
        raise InputError(where, "must be a short text in bytes", seen, "copy or download the file again")
    text = bytes(tensor.flatten().to(torch.uint8).tolist())
    return as_object(parse_json(text, where), where)


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
