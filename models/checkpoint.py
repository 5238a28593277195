"""Weights from disk into a model: safetensors only, checked before anything is built on them.

What ComfyUI users keep on disk is read as it is: bf16, fp16, fp32, plain fp8, and fp8 with one scale per tensor or per
row (ComfyUI's "scaled fp8"). Other quantised formats, pickles and GGUF are refused.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..story.errors import InputError

__all__ = ["FP8", "Checkpoint", "dequantise", "fill", "read_checkpoint", "read_config"]

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
PathLike = str | os.PathLike[str]
Model = TypeVar("Model", bound=nn.Module)

_PICKLES = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"}
_MAGICS = (
    (b"PK\x03\x04", "a pickle (PyTorch zip)"),
    (b"\x80", "a pickle"),
    (b"GGUF", "a GGUF file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
)
_SCALES = (".weight_scale", ".scale_weight")
# Scales of activations and markers of the storage format: nothing that weights are computed from.
_MARKS = (".input_scale", ".scale_input", ".comfy_quant", "scaled_fp8")
_FOREIGN = re.compile(
    r"\.(absmax|quant_map|quant_state\..*|qweight|qzeros|g_idx|smooth_factor|weight_scale_2|wscales)$"
)


@dataclass
class Checkpoint:
    """Tensors by name, the header's metadata, and where they came from."""

    state: dict[str, torch.Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    source: str = "weights"
    config: dict[str, Any] | None = None  # of a diffusers folder

    @property
    def name(self) -> str:
        """The file's or folder's name, for messages."""
        return Path(self.source).name or self.source


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
    if path.is_dir():
        return _read_folder(path, field)
    state, metadata = _read_file(path, field)
    return Checkpoint(state, metadata, str(path))


def _read_file(path: Path, field: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    fix = "give the model as .safetensors"
    if path.suffix.lower() in _PICKLES:
        raise InputError(field, "must be a safetensors file; pickles can run code", path.name, fix)
    if path.suffix.lower() == ".gguf":
        raise InputError(field, "must be a safetensors file", path.name, fix)
    try:
        with path.open("rb") as file:
            head = file.read(32)
        for magic, kind in _MAGICS:
            # The length of a safetensors header may begin with the same bytes; then the header itself follows.
            if head.startswith(magic) and head[8:9] != b"{":
                raise InputError(field, "must be a safetensors file", f"{path.name}: {kind}", fix)
        with safe_open(str(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(
            field,
            "safetensors file must be whole and valid",
            f"{path.name}: {error}",
            "copy or download the file again",
        ) from error
    except OSError as error:
        seen = f"{path}: {error.strerror}"
        raise InputError(field, "file must be readable", seen, "check its permissions") from error
    return state, metadata


def _read_folder(path: Path, field: str) -> Checkpoint:
    files = sorted(p for p in path.glob("*.safetensors") if not p.name.startswith("."))
    indexes = sorted(path.glob("*.safetensors.index.json"))
    if indexes:
        weight_map = _read_json(indexes[0], field).get("weight_map", {})
        # Only bare names: an index must not lead out of its folder.
        files = [path / Path(str(name)).name for name in sorted(set(weight_map.values()))]
        for file in files:
            if not file.is_file():
                raise InputError(
                    field,
                    f"all parts named in {indexes[0].name} must be there",
                    file.name,
                    "copy or download the missing part",
                )
    else:
        # A folder may hold the same weights a second time, as `….fp16.safetensors`.
        plain = [p for p in files if p.name.count(".") == 1]
        files = plain or files
    if not files:
        pickles = [p.name for p in path.iterdir() if p.suffix.lower() in _PICKLES]
        raise InputError(
            field,
            "folder must hold safetensors files" + ("; pickles can run code" if pickles else ""),
            pickles[0] if pickles else str(path),
            "give the model as .safetensors",
        )
    if len(files) > 1 and not indexes:
        raise InputError(field, "folder must hold one model", ", ".join(p.name for p in files), "name one file")
    state: dict[str, torch.Tensor] = {}
    metadata: dict[str, str] = {}
    for file in files:
        tensors, header = _read_file(file, field)
        state.update(tensors)
        metadata.update(header)
    config = path / "config.json"
    return Checkpoint(state, metadata, str(path), _read_json(config, field) if config.is_file() else None)


def _read_json(path: Path, field: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        seen = f"{path}: {error}"
        raise InputError(field, f"{path.name} must be JSON", seen, "copy or download the file again") from error
    if not isinstance(data, dict):
        seen = type(data).__name__
        raise InputError(field, f"{path.name} must be a JSON object", seen, "give the model's own config")
    return data


def read_config(config: Mapping[str, Any] | PathLike | None) -> dict[str, Any] | None:
    """A model config given as a mapping, a JSON file, or a folder with config.json; None stays None."""
    if config is None or isinstance(config, Mapping):
        return None if config is None else dict(config)
    path = Path(config)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise InputError("config", "file must exist", str(path), "give a config.json on this machine")
    return _read_json(path, "config")


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
        rows = weight.shape[0]
        if scale.numel() not in (1, rows):
            seen = f"{key}: {tuple(scale.shape)}"
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
    for key, tensor in checkpoint.state.items():
        if key.endswith(".comfy_quant"):
            try:
                layout = json.loads(bytes(tensor.tolist())).get("format")
            except (ValueError, AttributeError):
                layout = "unreadable"
            _check_format(checkpoint, layout, key, fix)
        elif _FOREIGN.search(key):
            raise InputError(checkpoint.name, "quantised weights are read as fp8 only", key, fix)
        elif key.endswith(".weight") and not (tensor.is_floating_point() or tensor.dtype in FP8):
            raise InputError(checkpoint.name, "weights must be floating point", f"{key}: {tensor.dtype}", fix)
    try:
        layers = json.loads(checkpoint.metadata.get("_quantization_metadata", "{}")).get("layers", {})
    except (ValueError, AttributeError) as error:
        raise InputError(checkpoint.name, "_quantization_metadata must be JSON", str(error), fix) from error
    for layer, info in layers.items():
        _check_format(checkpoint, info.get("format"), layer, fix)


def _check_format(checkpoint: Checkpoint, layout: Any, where: str, fix: str) -> None:
    if layout not in ("float8_e4m3fn", "float8_e5m2"):
        raise InputError(checkpoint.name, "quantised weights are read as fp8 only", f"{where}: {layout}", fix)


def fill(
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
    expected = model.state_dict()
    _compare(expected, state, source)
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
            raise InputError(
                source,
                f"weights must be finite numbers in {value.dtype}",
                f"{key}: NaN or infinity",
                "copy or download the file again, or load it in bf16 or fp32",
            )
        ready[key] = value
    model.load_state_dict(ready, strict=True, assign=True)
    # buffers that no file holds (rotary tables) are still where the model was built
    return model.to(device=torch.device(device)).requires_grad_(False).eval()


def _compare(expected: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], source: str) -> None:
    fix = "check that the file is whole, of the right kind, and that the config belongs to it"
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
