"""Small models' files and their configurations in ComfyUI's terms; ComfyUI itself is not imported.

Configurations stand in the files' metadata, as diffusers, transformers and open_clip write them.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import InputError
from ..models.encoders.tokenizer import TextTokenizer, listed_names, load_tokenizer
from ..models.io import keymaps
from ..models.io.checkpoint import Checkpoint, dequantise, read_checkpoint

__all__ = [
    "DTYPE",
    "Config",
    "File",
    "Words",
    "fill",
    "flux_unet",
    "open_clip",
    "open_model",
    "open_t5",
    "wan_unet",
    "wan_vae_arguments",
]

DTYPE = torch.float32
"""What small models compute in."""

File = str | PathLike[str]
Config = dict[str, Any]


def open_model(kind: str, path: File) -> tuple[Checkpoint, dict[str, Tensor], Config]:
    """A file of public names: its state dict with fp8 scales multiplied in, and its configuration.

    Raises:
        InputError: no safetensors file, another kind of model, or a quantisation other than fp8.
    """
    checkpoint = read_checkpoint(path)
    checkpoint.state = dict(keymaps.strip_prefix(kind, checkpoint.state))
    if keymaps.detect_kind(checkpoint.state.keys()) != kind or not keymaps.is_public(kind, checkpoint.state.keys()):
        seen = ", ".join(sorted(checkpoint.state)[:2]) or "nothing"
        raise InputError(checkpoint.name, f"file must hold a {kind} model in public names", seen, "give another file")
    state = dequantise(checkpoint, torch.float32)
    return checkpoint, state, keymaps.infer_config(kind, state, checkpoint.metadata)


def open_t5(path: File) -> tuple[Checkpoint, dict[str, Tensor], Config, TextTokenizer, list[str]]:
    """A T5 file: its state dict, its configuration for ComfyUI's T5, the tokenizer it carries, and the names it knows.

    Raises:
        InputError: another kind of file, no tokenizer in it, or a T5 that ComfyUI's class cannot be.
    """
    checkpoint, state, config = open_model("t5", path)
    activation = config.get("feed_forward_proj", "relu")
    buckets = config.get("relative_attention_num_buckets", 32), config.get("relative_attention_max_distance", 128)
    if activation not in ("relu", "gated-gelu") or buckets != (32, 128):
        rule = "must be a T5 as ComfyUI builds it: relu or gated-gelu, 32 buckets up to 128"
        raise InputError(f"{checkpoint.name}: config", rule, f"{activation}, {buckets}", "give another text encoder")
    gated = activation == "gated-gelu"
    own = {
        **config,
        "vocab_size": state["shared.weight"].shape[0],
        "dense_act_fn": "gelu_pytorch_tanh" if gated else "relu",
        "is_gated_act": gated,
        "model_type": "t5",
    }
    words = load_tokenizer(None, state, checkpoint.metadata, checkpoint.name)
    return checkpoint, state, own, words, listed_names(checkpoint.metadata, words)


def open_clip(path: File) -> tuple[Checkpoint, Config, Config]:
    """An open_clip file, and the configurations of its text and its picture tower in transformers' terms.

    Raises:
        InputError: no safetensors file, another kind of model, or no configuration in it.
    """
    checkpoint = read_checkpoint(path)
    checkpoint.state = dequantise(checkpoint, torch.float32)
    found = keymaps.infer_config("t5", {}, checkpoint.metadata) if "config" in checkpoint.metadata else {}
    model: Mapping[str, Any] = found.get("model_cfg", found)
    if "visual.conv1.weight" not in checkpoint.state or "text_cfg" not in model:
        rule = "file must hold a CLIP in open_clip's names, with its config in the metadata"
        raise InputError(checkpoint.name, rule, ", ".join(sorted(checkpoint.state)[:2]), "give another file")
    text, vision, look = model["text_cfg"], model["vision_cfg"], found.get("preprocess_cfg") or {}
    shared = {
        "hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu",
        "projection_dim": model["embed_dim"],
    }
    return (
        checkpoint,
        shared
        | {
            "hidden_size": text["width"],
            "num_attention_heads": text["heads"],
            "num_hidden_layers": text["layers"],
            "intermediate_size": int(text["width"] * text.get("mlp_ratio", 4.0)),
            "max_position_embeddings": text.get("context_length", 77),
            "eos_token_id": text.get("vocab_size", 49408) - 1,
        },
        shared
        | {
            "model_type": "clip_vision_model",
            "num_channels": 3,
            "hidden_size": vision["width"],
            "num_attention_heads": vision["width"] // vision.get("head_width", 64),
            "num_hidden_layers": vision["layers"],
            "intermediate_size": int(vision["width"] * vision.get("mlp_ratio", 4.0)),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "resize_mode": look.get("resize_mode") or "squash",
            **{f"image_{key}": look[key] for key in ("mean", "std") if look.get(key)},
        },
    )


def flux_unet(config: Config) -> Config:
    """FluxTransformer2DModel's configuration → the arguments of ComfyUI's Flux."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    return {
        "image_model": "flux",
        "in_channels": config["in_channels"] // 4,
        "out_channels": (config.get("out_channels") or config["in_channels"]) // 4,
        "patch_size": 2,
        "hidden_size": width,
        "num_heads": config["num_attention_heads"],
        "axes_dim": list(config["axes_dims_rope"]),
        "context_in_dim": config["joint_attention_dim"],
        "vec_in_dim": config["pooled_projection_dim"],
        "depth": config["num_layers"],
        "depth_single_blocks": config["num_single_layers"],
        "mlp_ratio": 4.0,
        "theta": 10000,
        "qkv_bias": True,
        "txt_ids_dims": [],
        "guidance_embed": config["guidance_embeds"],
    }


def wan_unet(config: Config) -> Config:
    """WanTransformer3DModel's configuration → the arguments of ComfyUI's WanModel."""
    return {
        "image_model": "wan2.1",
        "model_type": "t2v",
        "dim": config["num_attention_heads"] * config["attention_head_dim"],
        "num_heads": config["num_attention_heads"],
        "in_dim": config["in_channels"],
        "out_dim": config["out_channels"],
        "ffn_dim": config["ffn_dim"],
        "num_layers": config["num_layers"],
        "text_dim": config["text_dim"],
        "freq_dim": config["freq_dim"],
        "patch_size": tuple(config["patch_size"]),
        "window_size": (-1, -1),
        "qk_norm": config.get("qk_norm", "rms_norm_across_heads") is not None,
        "cross_attn_norm": config.get("cross_attn_norm", True),
        "eps": 1e-6,
    }


def wan_vae_arguments(config: Config, source: str) -> tuple[bool, Config]:
    """AutoencoderKLWan's configuration → whether it is Wan 2.2's class, and the arguments of ComfyUI's WanVAE.

    Raises:
        InputError: a VAE that those classes cannot be.
    """
    residual, patch = bool(config.get("is_residual")), config.get("patch_size") or 1
    width, decoder = config["base_dim"], config.get("decoder_base_dim") or config["base_dim"]
    arguments = {
        "dim": width,
        "z_dim": config["z_dim"],
        "dim_mult": list(config["dim_mult"]),
        "num_res_blocks": config["num_res_blocks"],
        "attn_scales": list(config.get("attn_scales") or []),
        "temperal_downsample": list(config["temperal_downsample"]),
    }
    if (patch != 2) if residual else (patch != 1 or decoder != width):
        rule = "must have patches of 2 (Wan 2.2 class), or none and equal widths (Wan 2.1 class)"
        raise InputError(f"{source}: config", rule, f"patch_size {patch}", "give another VAE")
    return residual, arguments | ({"dec_dim": decoder} if residual else {})


class Words:
    """A `TextTokenizer` in the manner of transformers, as ComfyUI calls it."""

    def __init__(self, words: TextTokenizer) -> None:
        self.words = words

    @classmethod
    def from_pretrained(cls, words: TextTokenizer) -> Words:
        """What ComfyUI calls with the tokenizer's path."""
        return cls(words)

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": self.words.ids([text])[0]}

    def get_vocab(self) -> dict[str, int]:
        """Empty: nothing shows tokens as text."""
        return {}


def fill(module: nn.Module, state: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    """Load all of a state dict in fp32; ComfyUI's layers may not have their weights before.

    Raises:
        InputError: missing or surplus tensors, other shapes, or values that are not finite.
    """
    fix = "give a whole file of the right kind, with its own configuration"
    own = {key: tensor.to(DTYPE, copy=True) for key, tensor in state.items()}
    for key, tensor in own.items():
        if not torch.isfinite(tensor).all():
            raise InputError(checkpoint.name, "weights must be finite numbers", f"{key}: NaN or infinity", fix)
    try:
        missing, surplus = module.load_state_dict(own, strict=False, assign=True)
    except RuntimeError as error:
        seen = str(error).strip().splitlines()[-1].strip()
        raise InputError(checkpoint.name, "tensors must have the shapes of the configuration", seen, fix) from error
    for keys, rule in ((missing, "tensors must be complete"), (surplus, "tensors must all belong to the model")):
        if keys:
            raise InputError(checkpoint.name, rule, f"{keys[0]} and {len(keys) - 1} more", fix)
    module.requires_grad_(False).eval()
