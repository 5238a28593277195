"""Tiny native ComfyUI models on the CPU, with random or with the pocket's weights: real classes, no detection.

Model detection hard-codes the public widths, so models are built from hand-written configurations.
"""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.text_encoders.flux
import comfy.utils
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.model_patcher import ModelPatcher
from comfy.supported_models_base import ClipTarget
from torch import Tensor

import anchorshot
from anchorshot.pocket.configs import KEYFRAME

CPU = torch.device("cpu")
WEIGHTS = f"{anchorshot.__path__[0]}/pocket/weights"

FLUX: dict[str, Any] = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "hidden_size": 64,
    "num_heads": 4,
    "axes_dim": [4, 6, 6],
    "context_in_dim": 32,
    "vec_in_dim": 24,
    "depth": 2,
    "depth_single_blocks": 3,
    "mlp_ratio": 4.0,
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
"""A tiny FLUX.1-dev: takes guidance; text 32 wide, pooled text 24 wide."""

POCKET: dict[str, Any] = FLUX | {
    "hidden_size": KEYFRAME["num_attention_heads"] * KEYFRAME["attention_head_dim"],
    "num_heads": KEYFRAME["num_attention_heads"],
    "axes_dim": KEYFRAME["axes_dims_rope"],
    "context_in_dim": KEYFRAME["joint_attention_dim"],
    "vec_in_dim": KEYFRAME["pooled_projection_dim"],
    "depth": KEYFRAME["num_layers"],
    "depth_single_blocks": KEYFRAME["num_single_layers"],
    "guidance_embed": KEYFRAME["guidance_embeds"],
}


def strong_(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights with signal: attention far from uniform, so that a wrong mask or position shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(module.named_parameters()):
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim == 1 and "norm" in name and name.endswith(("weight", "scale")) and "lin" not in name:
                p.copy_(1.5 + 0.3 * noise)
            else:
                p.copy_(noise / max(p[0].numel(), 1) ** 0.5 if p.ndim > 1 else 0.3 * noise)
    return module.eval()


def flux(config: dict[str, Any] = FLUX, state: dict[str, Tensor] | None = None, dtype: Any = torch.float32) -> Any:
    """ModelPatcher of a Flux of this configuration; `state` in public names, else strong random weights."""
    kind = comfy.supported_models.Flux if config["guidance_embed"] else comfy.supported_models.FluxSchnell
    return patcher(kind, config, state, dtype)


def patcher(
    kind: Any, config: dict[str, Any], state: dict[str, Tensor] | None = None, dtype: Any = torch.float32
) -> Any:
    """ModelPatcher of a supported model class with a hand-written configuration."""
    model_config = kind(dict(config))
    if state is not None:
        model_config.quant_config = comfy.utils.detect_layer_quantization(state, "")
    # quantised layers compute in the type to cast to
    model_config.set_inference_dtype(dtype, dtype if model_config.quant_config else None)
    model = model_config.get_model({}, "")
    if state is None:
        strong_(model.diffusion_model)
    else:
        model.load_model_weights(dict(state), "")
    return ModelPatcher(model, load_device=CPU, offload_device=CPU)


def pocket_flux() -> Any:
    """The pocket keyframe model from its file as it is: fp8 with one scale per tensor, run by core's own layers.

    Its latents are in unit scale already, so the model's latent format leaves them alone.
    """
    state, metadata = comfy.utils.load_torch_file(f"{WEIGHTS}/keyframe.safetensors", return_metadata=True)
    state, _ = comfy.utils.convert_old_quants(state, "", metadata=metadata)
    model = flux(POCKET, state)
    model.model.latent_format = comfy.latent_formats.LatentFormat()
    return model


def image_vae() -> Any:
    """VAE of the FLUX.1 class, 8 px cells and 16 channels, with strong random weights."""
    ddconfig = {"double_z": True, "z_channels": 16, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32}
    ddconfig |= {"ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
    params = {"ddconfig": ddconfig, "embed_dim": 16}
    state = strong_(AutoencoderKL(**params)).state_dict()
    vae = comfy.sd.VAE(sd=state, config={"params": params}, device=CPU, dtype=torch.float32)
    vae.latent_channels = 16
    return vae


def flux_clip(config: dict[str, Any] = FLUX, layers: int = 1) -> Any:
    """CLIP of the FLUX.1 class (CLIP-L and T5 with their real tokenizers), as wide as a model of `config` reads."""
    width, pooled = config["context_in_dim"], config["vec_in_dim"]
    options = {
        "t5xxl_model_config": {"d_model": width, "d_kv": 8, "num_heads": 4, "num_layers": layers, "d_ff": 64},
        "clip_l_model_config": {
            "hidden_size": pooled,
            "projection_dim": pooled,
            "intermediate_size": 48,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
        },
        "dtype": torch.float32,
    }
    target = ClipTarget(comfy.text_encoders.flux.FluxTokenizer, comfy.text_encoders.flux.flux_clip(torch.float32))
    clip = comfy.sd.CLIP(target, model_options=options)
    strong_(clip.cond_stage_model)
    return clip


def clip_l() -> Any:
    """CLIP of Stable Diffusion 1.5's class, small, with strong random weights."""
    sizes = {"hidden_size": 24, "projection_dim": 24, "intermediate_size": 48, "num_attention_heads": 2}
    options = {"clip_l_model_config": sizes | {"num_hidden_layers": 2}, "dtype": torch.float32}
    clip = comfy.sd.CLIP(ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel), model_options=options)
    strong_(clip.cond_stage_model)
    return clip


def caption(seed: int, length: int = 5, config: dict[str, Any] = FLUX, **entry: Any) -> list[Any]:
    """A random CONDITIONING of one prompt."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(1, length, config["context_in_dim"], generator=generator)
    pooled = torch.randn(1, config["vec_in_dim"], generator=generator)
    return [[tokens, {"pooled_output": pooled, "guidance": 3.5, **entry}]]


def latent(seed: int, height: int, width: int, rows: int = 1) -> Tensor:
    """A random latent [rows, 16, height, width]."""
    return torch.randn(rows, 16, height, width, generator=torch.Generator().manual_seed(seed))
