"""Formats that describe themselves: what is read, and refusals that name file, tensor and fix."""

from __future__ import annotations

import json

import pytest
import torch

from anchorshot.core.errors import InputError
from anchorshot.models.io.checkpoint import Checkpoint, dequantise
from anchorshot.models.io.formats import hadamard

DESCRIPTION = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 4}


def file(description=DESCRIPTION, weight=None, scale=None):
    weight = torch.arange(-12, 12, dtype=torch.int8).reshape(3, 8) if weight is None else weight
    state = {"a.weight": weight, "a.weight_scale": torch.ones(3, 1) if scale is None else scale}
    state["a.comfy_quant"] = torch.tensor(list(json.dumps(description).encode()), dtype=torch.uint8)
    return Checkpoint(state, source="m.safetensors")


def test_rotation_is_undone():
    """Each row is scaled, then each group of 4 is rotated back; the rotation is its own inverse."""
    matrix = hadamard(16)
    assert torch.allclose(matrix @ matrix, torch.eye(16), atol=1e-6) and torch.equal(matrix, matrix.T)
    found = dequantise(file(scale=torch.tensor([[1.0], [2.0], [0.5]])), torch.float32)["a.weight"]
    h = torch.tensor([[1.0, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]) / 2
    rows = torch.arange(-12.0, 12).reshape(3, 8) * torch.tensor([[1.0], [2.0], [0.5]])
    assert torch.allclose(found, torch.cat([rows[:, :4] @ h, rows[:, 4:] @ h], 1))
    assert dequantise(file().without_large_values(), torch.bfloat16)["a.weight"].dtype == torch.bfloat16


REFUSED = {
    "unknown": (file({"format": "int3"}), "int3"),
    "not read": (file({"format": "nvfp4"}), "nvfp4"),
    "no format": (file({}), "None"),
    "scales": (file(scale=torch.ones(2)), "per tensor or per row"),
    "columns": (file({**DESCRIPTION, "convrot_groupsize": 16}), "groups of 16"),
    "group": (file({**DESCRIPTION, "convrot_groupsize": 8}), "power of 4"),
    "group's type": (file({**DESCRIPTION, "convrot_groupsize": "4"}), "convrot_groupsize"),
    "storage": (file(weight=torch.zeros(3, 8)), "stored as torch.int8"),
}


@pytest.mark.parametrize("checkpoint, word", REFUSED.values(), ids=REFUSED)
def test_refusals_name_file_tensor_and_fix(checkpoint, word):
    with pytest.raises(InputError, match=word) as error:
        dequantise(checkpoint, torch.float32)
    assert "m.safetensors" in str(error.value) and "a." in str(error.value) and error.value.fix


def test_a_missing_scale_is_refused():
    checkpoint = file()
    del checkpoint.state["a.weight_scale"]
    with pytest.raises(InputError, match="must have a weight_scale.*a.weight"):
        dequantise(checkpoint, torch.float32)
