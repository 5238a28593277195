"""One safetensors file: its header is checked before the library sees it, its tensors stay on the disk until used.

The library itself takes names given twice (the last one counts), any number of dimensions and any length of header.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from ...core.documents import as_array, as_integer, as_object, as_text, parse_json, regular_file
from ...core.errors import InputError

__all__ = ["PICKLES", "WeightFile", "read_weights"]

PICKLES = {".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"}
MAX_HEADER = 64 << 20
"""Longest header in bytes; published ones stay below 1 MiB, 20 MiB with a tokenizer in the metadata."""
MAX_TENSORS = 50_000
_MAX_DIMENSIONS = 8
_MAX_SIDE = 1 << 48
_MAGICS = (
    (b"PK\x03\x04", "a pickle (PyTorch zip)"),
    (b"\x80", "a pickle"),
    (b"GGUF", "a GGUF file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
)
_FIX = "give the model as .safetensors"
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_READ = frozenset((*_FLOATS, "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"))


class Header(NamedTuple):
    """What a file says about itself: format by tensor name, and the metadata."""

    formats: dict[str, str]
    metadata: dict[str, str]


@dataclass
class WeightFile:
    """Tensors by name (memory-mapped), those of formats that are not read, and the header's metadata."""

    state: dict[str, torch.Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)


def read_weights(path: Path, field: str) -> WeightFile:
    """Open a safetensors file.

    Args:
        path: the file.
        field: what to call it in errors.

    Raises:
        InputError: missing, no regular file, unreadable, truncated, no safetensors, a header that contradicts itself or
            is out of all proportion, or a pickle (whatever its name).
    """
    if path.suffix.lower() in PICKLES:
        raise InputError(field, "must be a safetensors file; pickles can run code", path.name, _FIX)
    if path.suffix.lower() == ".gguf":
        raise InputError(field, "must be a safetensors file", path.name, _FIX)
    regular_file(path, field, "safetensors file")
    try:
        header = _header(path, field)
        with safe_open(str(path), framework="pt") as file:
            state = {key: file.get_tensor(key) for key, name in header.formats.items() if name in _READ}
    except InputError:
        raise
    except OSError as error:
        seen = f"{error.strerror or error}: {path}"
        raise InputError(field, "file must be readable", seen, "check its permissions") from error
    except Exception as error:  # the library's own, and whatever torch says to impossible shapes
        if "unable to mmap" in str(error):  # torch maps privately, which counts as memory
            rule, size = "file must fit into this machine's memory", path.stat().st_size >> 20
            raise InputError(field, rule, f"{path.name}: {size} MiB", "use a smaller file, such as fp8") from error
        raise _broken(field, path, error) from error
    unread = {key: name for key, name in header.formats.items() if name not in _READ}
    return WeightFile(state, header.metadata, unread)


def _header(path: Path, field: str) -> Header:
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
        head = file.read(32)
        for magic, kind in _MAGICS:
            # The length of a safetensors header may begin with the same bytes; then the header itself follows.
            if head.startswith(magic) and head[8:9] != b"{":
                raise InputError(field, "must be a safetensors file", f"{path.name}: {kind}", _FIX)
        length = int.from_bytes(head[:8], "little")
        if len(head) < 10 or length > os.fstat(file.fileno()).st_size - 8:
            raise _broken(field, path, "shorter than its header says")
        if length > MAX_HEADER:
            rule = f"safetensors header must be at most {MAX_HEADER >> 20} MiB"
            raise InputError(field, rule, f"{path.name}: {length >> 20} MiB", "export the file again")
        file.seek(8)
        raw = file.read(length)
    try:
        return _parse(parse_json(raw, "header"))
    except InputError as error:
        raise _broken(field, path, error) from None


def _parse(data: Any) -> Header:
    entries = as_object(data, "header")
    metadata = as_object(entries.pop("__metadata__", None) or {}, "metadata")
    if len(entries) > MAX_TENSORS:
        raise InputError("header", f"must name at most {MAX_TENSORS} tensors", len(entries), "split the file")
    formats = {}
    for key, value in entries.items():
        entry = as_object(value, key)
        formats[key] = as_text(entry.get("dtype"), f"{key}: dtype")
        shape = as_array(entry.get("shape"), f"{key}: shape")
        if len(shape) > _MAX_DIMENSIONS:
            fix = "export the file again"
            raise InputError(key, f"must have at most {_MAX_DIMENSIONS} dimensions", len(shape), fix)
        for side in shape:
            as_integer(side, f"{key}: shape", 0, _MAX_SIDE)
    return Header(formats, {key: as_text(value, f"metadata.{key}") for key, value in metadata.items()})


def _broken(field: str, path: Path, reason: object) -> InputError:
    rule = "safetensors file must be whole and valid"
    return InputError(field, rule, f"{path.name}: {reason}", "copy or download the file again")
