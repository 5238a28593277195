"""The LoRA file that training writes, as ComfyUI's own loader reads it: every tensor, for both models."""

from __future__ import annotations

import logging
from typing import Any

import comfy.lora
import torch
from in_comfyui import tiny_qwen
from safetensors.torch import load_file
from torch import nn

from anchorshot.training.checkpoint import trained
from anchorshot.training.lora import add_lora, write_lora
from tests.tiny_qwen import tiny_vl
from tests.tiny_weights import gap


def adapted(model: nn.Module, kind: str) -> dict[str, torch.Tensor]:
    """Give a model adapters as if they had been trained; the changes that they make, by the names of weights."""
    generator = torch.Generator().manual_seed(2)
    names = add_lora(model, kind, 3)
    with torch.no_grad():
        for _, p in trained(model):
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    layers = {name: model.get_submodule(name) for name in names}
    return {name: layer.get_delta_weight("trained") for name, layer in layers.items()}  # type: ignore[operator]


def test_it_loads_as_it_is(caplog: Any, tmp_path: Any) -> None:
    model, encoder = tiny_qwen.native(), tiny_vl().model
    ours = tiny_qwen.headless(model)
    image, text = adapted(ours, "qwen_image"), adapted(encoder, "qwen_vl")
    path = tmp_path / "trained.safetensors"
    write_lora(path, {"qwen_image": dict(trained(ours)), "qwen_vl": dict(trained(encoder))}, {})

    # What comfy.sd.load_lora_for_models does, on the names that ComfyUI's Qwen2.5-VL has.
    clip = nn.Module()
    clip.qwen25_7b = nn.Module()
    clip.qwen25_7b.transformer = nn.Module()
    clip.qwen25_7b.transformer.model = tiny_vl().model.language_model
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    keys = comfy.lora.model_lora_keys_clip(clip, keys)
    with caplog.at_level(logging.WARNING):
        patches = comfy.lora.load_lora(load_file(path), keys)
    assert "lora key not loaded" not in caplog.text
    assert len(patches) == len(image) + len(text)

    expected = {f"diffusion_model.{name}.weight": delta for name, delta in image.items()}
    for name, delta in text.items():
        expected[f"qwen25_7b.transformer.model.{name.removeprefix('language_model.')}.weight"] = delta
    assert patches.keys() == expected.keys()
    for key, delta in expected.items():
        zero = torch.zeros_like(delta)
        made = comfy.lora.calculate_weight([(1.0, patches[key], 1.0, None, None)], zero, key)
        assert gap(made, delta) < 1e-5, key
