"""A LoRA with both halves as published, rewritten for ComfyUI: its own loader uses every tensor, and as we do."""

from __future__ import annotations

import logging
from typing import Any

import comfy.lora
import comfy.sd
import torch
from diffusers import QwenImageTransformer2DModel
from in_comfyui import tiny_qwen
from safetensors.torch import save_file
from torch import Tensor, nn

from anchorshot.models.backbones.qwen_image.headless import PairQwen
from anchorshot.models.io.checkpoint import Checkpoint
from anchorshot.models.io.lora import LoraSpec, load_lora
from anchorshot.models.io.lora_comfyui import for_comfyui
from anchorshot.models.layouts.start_end import Segment, frame_ids, patchify
from tests.tiny_qwen import tiny_vl
from tests.tiny_weights import gap

RANK = 3


def differences(model: nn.Module, where: str) -> dict[str, tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(3)
    return {
        name: (
            0.3 * torch.randn(RANK, m.in_features, generator=g),
            0.3 * torch.randn(m.out_features, RANK, generator=g),
        )
        for name, m in model.named_modules()
        if isinstance(m, nn.Linear) and where in name and "_mod." not in name
    }


def published(pairs: dict[str, tuple[Tensor, Tensor]], alpha: float) -> dict[str, Tensor]:
    out = {}
    for name, (a, b) in pairs.items():
        flat = "lora_unet_" + name.replace(".", "_")
        out |= {f"{flat}.lora_down.0.weight": a, f"{flat}.lora_up.0.weight": b, f"{flat}.alpha": torch.tensor(alpha)}
    return out


def test_both_halves_load_in_comfyui(caplog: Any, tmp_path: Any) -> None:
    model, encoder = tiny_qwen.native(), tiny_vl()
    image = differences(model.model.diffusion_model, "transformer_blocks.")
    text = differences(encoder, "language_model.layers.")
    state = published(image, 2.0 * RANK) | published(text, RANK)
    assert any(key.startswith("lora_unet_model_language_model_layers_1_mlp_up_proj.lora_down.0") for key in state)
    rewritten, lora = for_comfyui(Checkpoint(state), "qwen_image", "qwen_vl")
    assert not lora.left and len(lora.pairs) == len(image) + len(text)

    # What comfy.sd.load_lora_for_models does, on the names that ComfyUI's Qwen2.5-VL has.
    clip = nn.Module()
    clip.qwen25_7b = nn.Module()
    clip.qwen25_7b.transformer = nn.Module()
    clip.qwen25_7b.transformer.model = encoder.model.language_model
    clip.qwen25_7b.transformer.visual = encoder.model.visual
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    keys = comfy.lora.model_lora_keys_clip(clip, keys)
    with caplog.at_level(logging.WARNING):
        patches = comfy.lora.load_lora(dict(rewritten), keys)
    assert "lora key not loaded" not in caplog.text and len(patches) == len(lora.pairs)
    patched = model.clone()
    assert len(patched.add_patches({k: v for k, v in patches.items() if k.startswith("diffusion_model.")})) == len(
        image
    )

    weights = {f"qwen25_7b.transformer.model.{k}": v for k, v in encoder.model.language_model.state_dict().items()}
    for name, (a, b) in text.items():
        key = f"qwen25_7b.transformer.model.{name.removeprefix('model.language_model.')}.weight"
        made = comfy.lora.calculate_weight([(1.0, patches[key], 1.0, None, None)], weights[key].clone(), key)
        assert gap(made, weights[key] + b @ a) < 1e-6

    # the transformer, whole, against the command line's with the file as it is
    save_file(state, tmp_path / "stage.safetensors")
    ours = tiny_qwen.headless(model)
    load_lora(ours, "qwen_image", LoraSpec(tmp_path / "stage.safetensors", 0.5, both=True))
    theirs = QwenImageTransformer2DModel(**tiny_qwen.CONFIG, out_channels=16, zero_cond_t=True).eval()
    merged = {k: v for k, v in model.model.diffusion_model.state_dict().items() if not k.startswith("__")}
    for name in image:
        key = f"diffusion_model.{name}.weight"
        value = merged[f"{name}.weight"].clone()
        merged[f"{name}.weight"] = comfy.lora.calculate_weight([(0.5, patches[key], 1.0, None, None)], value, key)
    theirs.load_state_dict(merged)
    segment = [Segment(torch.randn(1, 24, 64), frame_ids((4, 6)))]
    prompt = torch.randn(1, 5, tiny_qwen.WIDTH)
    with torch.no_grad():
        a, b = (
            m.forward_segments(segment, prompt, None, torch.tensor([0.7]))[0] for m in (ours, PairQwen.adopt(theirs))
        )
    assert gap(a, b) < 1e-5


def test_odd_sides_as_comfyui_has_them() -> None:
    """With its centring of odd sides, the command line's network is ComfyUI's; with Qwen-Image's it is diffusers'."""
    model = tiny_qwen.native()
    ours = tiny_qwen.headless(model)
    latent, prompt, t = torch.randn(1, 16, 10, 14), torch.randn(1, 5, tiny_qwen.WIDTH), torch.tensor([0.7])
    with torch.no_grad():
        theirs = patchify(model.model.diffusion_model(latent[:, :, None], t, prompt)[:, :, 0])
        gaps = []
        for centring in ("comfyui", "qwen"):
            segment = Segment(patchify(latent), frame_ids((5, 7), centring=centring))
            gaps.append(gap(ours.forward_segments([segment], prompt, None, t)[0], theirs))
    assert gaps[0] < 1e-5 < 1e-3 < gaps[1]
