"""The pocket family's architectures: tiny members of the public model classes."""

from __future__ import annotations

from typing import Any

#: AutoencoderKLWan, Wan 2.2 residual class with pixel patches of 2: 8× in space, 4× in time, 16 channels.
VAE: dict[str, Any] = {
    "base_dim": 32,
    "decoder_base_dim": 32,
    "z_dim": 16,
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "attn_scales": [],
    "temperal_downsample": [True, True],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 8,
    "latents_mean": [0.0] * 16,
    "latents_std": [1.0] * 16,
}

#: AutoencoderKLWan of super-resolution: the same, with as many channels as Wan 2.2's own. 16 channels keep 160×320
#: pictures in motion to 24 dB only, less than bicubic enlargement does.
UPSCALE_VAE: dict[str, Any] = {**VAE, "z_dim": 48, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48}

#: FluxTransformer2DModel: 2 double-stream and 6 single-stream blocks, 160 wide; 2×2 latent patches.
KEYFRAME: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 2,
    "num_single_layers": 6,
    "attention_head_dim": 40,
    "num_attention_heads": 4,
    "joint_attention_dim": 128,
    "pooled_projection_dim": 32,
    "guidance_embeds": False,
    "axes_dims_rope": [8, 16, 16],
}

#: WanTransformer3DModel: 5 blocks, 160 wide, patches of 1×2×2.
VIDEO: dict[str, Any] = {
    "patch_size": [1, 2, 2],
    "num_attention_heads": 4,
    "attention_head_dim": 40,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 128,
    "freq_dim": 128,
    "ffn_dim": 480,
    "num_layers": 5,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 256,
}

#: WanTransformer3DModel of super-resolution: 4 blocks of the video model's shape, on 48 channels.
UPSCALE: dict[str, Any] = {**VIDEO, "in_channels": 48, "out_channels": 48, "num_layers": 4}

#: T5EncoderModel; the vocabulary size comes from the tokenizer.
T5: dict[str, Any] = {
    "d_model": 128,
    "d_kv": 32,
    "num_heads": 4,
    "num_layers": 4,
    "d_ff": 256,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
    "is_encoder_decoder": False,
    "use_cache": False,
}

#: open_clip.CLIP with the standard tokenizer's vocabulary.
CLIP: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 96, "patch_size": 12, "width": 96, "layers": 3, "head_width": 32, "mlp_ratio": 3.0},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 4},
}

#: QwenImageTransformer2DModel: 8 blocks, 160 wide; the keyframe model's widths, so that it can start from its weights
PAIR: dict[str, Any] = {
    "patch_size": 2,
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 8,
    "attention_head_dim": 40,
    "num_attention_heads": 4,
    "joint_attention_dim": 128,
    "axes_dims_rope": [8, 16, 16],
    "zero_cond_t": True,
}

#: Qwen2.5-VL; the vocabulary size and the marks' ids come from the tokenizer.
QWEN_VL_TEXT: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
    "tie_word_embeddings": True,
}
QWEN_VL_VISION: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 2,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [2],
    "out_hidden_size": 128,
    "tokens_per_second": 2,
}
