"""The folder where figures wait for a run to go on."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..core.files import atomic_path

__all__ = ["PartCache"]


class PartCache:
    """A folder with the figures of every finished part of a run, such as a film or a clip of one variant.

    Parts that depend on something else lie beside each other, so no run loses what another one has finished.

    Args:
        folder: where they lie; made with the first.
        resume: take those that are there.
        device: where this run makes them. What a part took elsewhere is not compared with what it takes here.
    """

    def __init__(self, folder: Path, resume: bool, device: torch.device) -> None:
        self.folder, self._resume = folder, resume
        self._device = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self._own: set[Path] = set()

    def load(self, variant: str, number: int, inputs: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """Figures of the part that depends on these inputs (plain JSON), if they are there and whole."""
        path = self._file(variant, number, inputs)
        with contextlib.suppress(OSError, SafetensorError):
            if self._resume:
                with safe_open(path, framework="pt") as file:
                    elsewhere = set() if (file.metadata() or {}).get("device") == self._device else {"seconds", "peak"}
                    # Copies: what is still mapped to a file keeps it from being removed on Windows.
                    return {name: file.get_tensor(name).clone() for name in {*file.keys()} - elsewhere}
        return None

    def save(self, variant: str, number: int, inputs: Mapping[str, Any], figures: Mapping[str, Tensor]) -> None:
        """Keep the figures of a part."""
        whole = {name: tensor.contiguous() for name, tensor in figures.items()}
        with atomic_path(self._file(variant, number, inputs)) as temporary:
            save_file(whole, temporary, metadata={"device": self._device})

    def remove(self) -> None:
        """Remove those that this run asked for or made; the report has them."""
        for path in self._own:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it is not there, or holds what other runs have finished
            self.folder.rmdir()

    def _file(self, variant: str, number: int, inputs: Mapping[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        path = self.folder / f"{variant.replace(':', '_')}-{number:04d}-{digest[:16]}.safetensors"
        self._own.add(path)
        return path
