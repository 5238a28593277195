"""Wan 2.1 and 2.2 as a backbone: video through keyframes (SmartDirector §3.2) and from text."""

from __future__ import annotations

from ...io.kinds import UNET_PREFIXES, VAE_PREFIXES, KeyMap
from ..spec import Backbone, Native, NativeModel, VaeKind, at
from . import keymap, vae_keymap

__all__ = ["WAN_2"]


VAE = VaeKind(
    kind="wan_vae",
    title="Wan",
    keys=KeyMap(
        vae_keymap.from_public,
        vae_keymap.infer_config,
        vae_keymap.to_public,
        public_keys=("encoder.conv1.weight", "decoder.middle.0.residual.0.gamma"),
        own_keys=("encoder.conv_in.weight", "decoder.mid_block.resnets.0.norm1.gamma"),
        prefixes=VAE_PREFIXES,
    ),
    network=at("diffusers:AutoencoderKLWan"),
    codec=at(".wan.vae:VideoVAE"),
    renamed={"input_channels": ("in_channels", "out_channels")},  # AutoencoderKLQwenImage's
)

WAN_2 = Backbone(
    kind="wan",
    title="Wan",
    keys=KeyMap(
        keymap.from_public,
        keymap.infer_config,
        keymap.to_public,
        public_keys=("patch_embedding.weight", "blocks.0.self_attn.q.weight", "head.modulation"),
        own_keys=("patch_embedding.weight", "blocks.0.attn1.to_q.weight"),
        prefixes=UNET_PREFIXES,
        stacks={"num_layers": "blocks."},
        lora_table=lambda modules: keymap.TABLE,
        lora_names="public",
    ),
    network=at("diffusers:WanTransformer3DModel"),
    adopt=at(".wan.headless:DirectorWan.adopt"),
    vae=VAE,
    text=("umt5", "t5"),
    tasks=frozenset({"video", "text_to_video", "upscale"}),
    temporal_stride=4,
    natives={16: Native((480, 832), 81, 16), 48: Native((704, 1280), 121, 24)},  # 2.1 and 2.2 A14B, then 2.2 5B
    experts=True,
    native_model=NativeModel(
        "WanModel",
        "text_embedding.0.in_features",
        video=at(".wan.native:VIDEO"),
        upscale=at(".wan.native_upscale:UPSCALE"),
    ),
    cost=at(".wan.cost:wan_cost"),
)
