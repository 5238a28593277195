"""A tiny Qwen-Image and a tiny Qwen2.5-VL with the same strong random weights in ComfyUI and headless."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import comfy.supported_models
import torch
from diffusers import QwenImageTransformer2DModel
from in_comfyui.tiny import patcher, strong_
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

from anchorshot.models.backbones.qwen_image.headless import PairQwen
from anchorshot.models.encoders.qwen_tokenizer import CONTROL, QwenTokenizer
from anchorshot.models.io import keymaps

WIDTH = 24
"""Of the prompt tokens."""
CONFIG: dict[str, Any] = {
    "in_channels": 64,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 3,
    "joint_attention_dim": WIDTH,
    "axes_dims_rope": (4, 6, 6),
}


def native(zero: bool = True) -> Any:
    """MODEL; `zero`: its references are at t = 0, as Qwen-Image-Edit-2511's."""
    method = {"default_ref_method": "index_timestep_zero"} if zero else {}
    return patcher(comfy.supported_models.QwenImage, {"image_model": "qwen_image", **CONFIG, **method})


def headless(model: Any, zero: bool = True) -> PairQwen:
    """The command line's network with the MODEL's weights."""
    made = QwenImageTransformer2DModel(**CONFIG, out_channels=16, zero_cond_t=zero).eval()
    state = model.model.diffusion_model.state_dict()
    made.load_state_dict({key: value for key, value in state.items() if not key.startswith("__")})
    return PairQwen.adopt(made)


def prompt(seed: int, length: int = 6, **entry: Any) -> list[Any]:
    """A random CONDITIONING of one prompt."""
    tokens = torch.randn(1, length, WIDTH, generator=torch.Generator().manual_seed(seed))
    return [[tokens, {"pooled_output": None, **entry}]]


def frame(seed: int, height: int = 8, width: int = 12) -> Tensor:
    """A random latent [1, 16, height, width]."""
    return torch.randn(1, 16, height, width, generator=torch.Generator().manual_seed(seed))


VL_CONFIG: dict[str, Any] = {
    "text_config": {
        "vocab_size": 300,
        "hidden_size": WIDTH,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 2, 2]},
        "bos_token_id": None,
        "eos_token_id": None,
    },
    "vision_config": {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "in_channels": 3,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [2],
        "out_hidden_size": WIDTH,
        "tokens_per_second": 2,
    },
}


def chat_words() -> str:
    """A tokenizer.json of Qwen's kind: bytes, and the marks of a conversation."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|endoftext|>", *CONTROL])
    return made.to_str()


def write_text_encoder(folder: Path, prompting: dict[str, Any] | None = None, words: str | None = None) -> Path:
    """A Qwen2.5-VL file with strong random weights in the public names, which carries tokenizer and configuration."""
    words = words or chat_words()
    reader = QwenTokenizer(words)
    marks = {
        "image_token_id": reader.id_of("<|image_pad|>"),
        "vision_start_token_id": reader.id_of("<|vision_start|>"),
        "vision_end_token_id": reader.id_of("<|vision_end|>"),
    }
    config = VL_CONFIG | marks
    config["text_config"] = VL_CONFIG["text_config"] | {"vocab_size": reader.largest_id + 1}
    model = Qwen2_5_VLModel(Qwen2_5_VLConfig(**copy.deepcopy(config)))
    state = keymaps.to_public("qwen_vl", {key: value.clone() for key, value in strong_(model).state_dict().items()})
    metadata = {"config": json.dumps(config), "tokenizer": words, "prompting": json.dumps(prompting or {})}
    path = folder / "qwen_vl.safetensors"
    save_file(state, path, metadata)
    return path


def write_transformer(folder: Path, zero: bool = True) -> Path:
    """The tiny Qwen-Image as a file in the public names."""
    state = native(zero).model.diffusion_model.state_dict()
    state = {key: value.clone() for key, value in state.items() if not key.startswith("__")}
    config = CONFIG | {"patch_size": 2, "out_channels": 16, "zero_cond_t": zero}
    path = folder / "pair.safetensors"
    save_file(keymaps.to_public("qwen_image", state), path, {"config": json.dumps(config)})
    return path
