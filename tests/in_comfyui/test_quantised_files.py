"""Quantised files as comfy-kitchen writes them: our arithmetic against its own, without importing it in the program."""

from __future__ import annotations

import json

import comfy.quant_ops as quant_ops
import pytest
import torch
from in_comfyui.tiny_wan import relative
from safetensors.torch import save_file

from anchorshot.models.io.checkpoint import dequantise, read_checkpoint

GROUP = {"convrot": True, "convrot_groupsize": 16}
ROTATED = {"per_channel": True, **GROUP}
FORMATS = {
    "int8 convrot": ("TensorWiseINT8Layout", "int8_tensorwise", ROTATED, GROUP),
    "int8 rows": ("TensorWiseINT8Layout", "int8_tensorwise", {"per_channel": True}, {}),
    "int8 tensor": ("TensorWiseINT8Layout", "int8_tensorwise", {}, {}),
    "fp8": ("TensorCoreFP8E4M3Layout", "float8_e4m3fn", {"scale": "recalculate"}, {}),
    "fp8 e5m2": ("TensorCoreFP8E5M2Layout", "float8_e5m2", {"scale": "recalculate"}, {}),
}


@pytest.mark.parametrize("in_header", [False, True], ids=["marks", "metadata"])
def test_dequantised_weights_are_comfy_kitchens_own(tmp_path, in_header) -> None:
    """One mixed file with every format that is read, and a layer that stays bf16."""
    generator = torch.Generator().manual_seed(0)
    state, wanted, layers = {"plain.weight": torch.ones(4, 4, dtype=torch.bfloat16)}, {}, {}
    for layer, (layout, name, options, described) in FORMATS.items():
        weight = torch.randn(24, 64, generator=generator) * torch.linspace(0.1, 3, 24)[:, None]
        tensor = quant_ops.QuantizedTensor.from_float(weight, layout, **options)
        state |= tensor.state_dict(f"{layer}.weight")
        wanted[f"{layer}.weight"] = tensor.dequantize()
        assert relative(wanted[f"{layer}.weight"], weight) < 0.2
        layers[layer] = {"format": name, **described}
        if not in_header:
            state[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps(layers[layer]).encode()), dtype=torch.uint8)
    metadata = {"_quantization_metadata": json.dumps({"layers": layers})} if in_header else None
    path = tmp_path / "mixed.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, path, metadata)
    found = dequantise(read_checkpoint(path), torch.float32)
    assert found.keys() == wanted.keys() | {"plain.weight"} and found["plain.weight"].dtype == torch.bfloat16
    for key, weight in wanted.items():
        assert relative(found[key], weight) < 1e-5, key
