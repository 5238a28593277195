"""A tiny Qwen-Image and Qwen2.5-VL with random weights, built where they are used: no files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.supported_models
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

LORA = "odd_pair_lora.safetensors"
WIDTH, HEADS = 24, 3
UNET = {
    "image_model": "qwen_image", "in_channels": 64, "num_layers": 1, "attention_head_dim": 16,
    "num_attention_heads": HEADS, "joint_attention_dim": WIDTH, "axes_dims_rope": (4, 6, 6),
}  # fmt: skip
TEXT = {
    "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_theta": 1e4, "mrope_section": [2, 2, 2]},
}  # fmt: skip
EYES = {
    "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": WIDTH,
    "fullatt_block_indexes": [0],
}  # fmt: skip
MARKS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]


def filled(module: torch.nn.Module) -> torch.nn.Module:
    """Random weights of moderate size, the same every time."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, p in sorted(module.named_parameters()):
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(noise / max(p[0].numel(), 1) ** 0.5 if p.ndim > 1 else 1 + 0.1 * noise)
    return module


def pair_models() -> tuple[Any, Any]:
    """MODEL and CLIP for start and end frames of the pocket studio's VAE."""
    from anchorshot.models.encoders.qwen_tokenizer import QwenTokenizer
    from anchorshot.models.encoders.qwen_vl_prompt import QwenPrompting
    from anchorshot.pocket.native_pairs import build_pair_clip

    config = comfy.supported_models.QwenImage(dict(UNET))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    filled(model.diffusion_model)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words.add_special_tokens(MARKS)
    sizes = {"text_config": TEXT | {"vocab_size": len(alphabet) + len(MARKS)}, "vision_config": EYES}
    clip = build_pair_clip(sizes, QwenTokenizer(words.to_str()), QwenPrompting(picture_area=14112))
    filled(clip.cond_stage_model)
    cpu = torch.device("cpu")
    return ModelPatcher(model, load_device=cpu, offload_device=cpu), clip


def write_lora() -> None:
    """A LoRA of both, in the published names, in the first of ComfyUI's folders for LoRAs."""
    path = Path(folder_paths.get_folder_paths("loras")[0], LORA)
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = {
        "transformer_blocks_0_attn_to_q": 16 * HEADS,
        "model_language_model_layers_0_self_attn_q_proj": WIDTH,
    }
    state = {}
    for name, size in sizes.items():
        state[f"lora_unet_{name}.lora_down.0.weight"] = torch.full((2, size), 0.01)
        state[f"lora_unet_{name}.lora_up.0.weight"] = torch.full((size, 2), 0.01)
    save_file(state, path)
