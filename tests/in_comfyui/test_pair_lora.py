"""A LoRA of both models in the published file's names, through the Pair LoRA node and core's own patches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import pytest
import torch
from in_comfyui import tiny_qwen
from safetensors.torch import save_file

from anchorshot.comfyui.pair_text import encode_shot, prompting_of
from anchorshot.core.errors import InputError
from anchorshot.models.encoders.qwen_vl import load_qwen_vl
from anchorshot.models.io.lora import LoraSpec, load_lora
from anchorshot.nodes.pair_lora import PairLora
from anchorshot.pocket.native_pairs import load_pair_clip, load_pair_model

RANK, ALPHA = 3, 3.0


def published(model: Any, clip: Any) -> dict[str, torch.Tensor]:
    """Random branches 0 on every linear layer but modulations, in kohya's names with branch numbers."""
    generator = torch.Generator().manual_seed(1)
    layers = {
        name.replace(".", "_"): module
        for name, module in model.model.diffusion_model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("transformer_blocks.") and "_mod." not in name
    }
    layers |= {
        f"model_language_model_{name.removeprefix('model.').replace('.', '_')}": module
        for name, module in clip.cond_stage_model.qwen25_7b.transformer.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("model.layers.")
    }
    out = {}
    for name, module in layers.items():
        rows, columns = module.weight.shape
        out[f"lora_unet_{name}.lora_down.0.weight"] = 0.3 * torch.randn(RANK, columns, generator=generator)
        out[f"lora_unet_{name}.lora_up.0.weight"] = 0.3 * torch.randn(rows, RANK, generator=generator)
        out[f"lora_unet_{name}.alpha"] = torch.tensor(ALPHA)
    return out


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, Path]:
    """MODEL, CLIP and the folder of LoRAs, which lies beside the models' files."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    transformer, text = tiny_qwen.write_transformer(tmp_path), tiny_qwen.write_text_encoder(tmp_path)
    return load_pair_model(transformer), load_pair_clip(text), tmp_path


def patched(host: Any) -> dict[str, torch.Tensor]:
    """The weights with what core has patched in; what was there comes back afterwards."""
    comfy.model_management.load_models_gpu([host], force_full_load=True)
    state = {key: value.clone() for key, value in host.model.state_dict().items()}
    host.unpatch_model()
    return state


def test_both_halves_are_applied_as_headless(models: tuple[Any, Any, Path]) -> None:
    model, clip, folder = models
    save_file(published(model, clip), folder / "stage.safetensors")
    tuned, reader, said = PairLora.execute(model, clip, "stage.safetensors", 0.5, 1.0).args
    assert "24 layers of the transformer and 14 layers of the text encoder" in said

    network = tiny_qwen.headless(model)
    load_lora(network, "qwen_image", LoraSpec(folder / "stage.safetensors", 0.5, both=True))
    state = patched(tuned)
    for name, module in network.named_modules():
        if hasattr(module, "get_delta_weight"):
            wanted = module.get_base_layer().weight + module.get_delta_weight("lora0")
            assert torch.allclose(state[f"diffusion_model.{name}.weight"], wanted, atol=1e-5), name

    headless = load_qwen_vl(folder / "qwen_vl.safetensors", loras=[LoraSpec(folder / "stage.safetensors", both=True)])
    states = encode_shot(reader, "a square", [], prompting_of(reader))[0][0]
    assert torch.allclose(states, headless.encode(["a square"])[0], atol=1e-4)
    plain = encode_shot(clip, "a square", [], prompting_of(clip))[0][0]
    assert (states - plain).abs().max() > 1e-2


def test_one_half_alone(models: tuple[Any, Any, Path]) -> None:
    model, clip, folder = models
    half = {key: value for key, value in published(model, clip).items() if "language_model" not in key}
    save_file(half, folder / "half.safetensors")
    said = PairLora.execute(model, clip, "half.safetensors", 1.0, 1.0).args[2]
    assert "24 layers of the transformer and 0 layers of the text encoder" in said


def test_what_does_not_fit_is_refused(models: tuple[Any, Any, Path]) -> None:
    model, clip, folder = models
    name = "lora_unet_transformer_blocks_0_attn_to_q"
    pair = {f"{name}.lora_down.0.weight": torch.zeros(2, 5), f"{name}.lora_up.0.weight": torch.zeros(48, 2)}
    deeper = {key.replace("blocks_0", "blocks_40"): value for key, value in pair.items()}
    for tensors, word in ((pair, r"\[48, 5\]"), (deeper, "transformer_blocks.40"), ({"x": torch.zeros(2)}, "LoRA")):
        save_file(tensors, folder / "odd.safetensors")
        with pytest.raises(InputError, match=word):
            PairLora.execute(model, clip, "odd.safetensors", 1.0, 1.0)
