"""FLUX.1 as a backbone: interleaved keyframes (Captain Cinema §3.2)."""

from __future__ import annotations

from ...io.kinds import UNET_PREFIXES, VAE_PREFIXES, KeyMap
from ..spec import Backbone, NativeModel, VaeKind, at
from . import keymap, vae_keymap

__all__ = ["FLUX_1"]


VAE = VaeKind(
    kind="flux_vae",
    title="Flux",
    keys=KeyMap(
        vae_keymap.from_public,
        vae_keymap.infer_config,
        None,
        public_keys=("encoder.down.0.block.0.conv1.weight", "decoder.conv_in.weight"),
        own_keys=("decoder.up_blocks.0.resnets.0.conv1.weight", "decoder.conv_norm_out.weight"),
        prefixes=VAE_PREFIXES,
    ),
    network=at("diffusers:AutoencoderKL"),
    codec=at(".flux.vae:ImageVAE"),
)

FLUX_1 = Backbone(
    kind="flux",
    title="Flux",
    keys=KeyMap(
        keymap.from_public,
        keymap.infer_config,
        keymap.to_public,
        public_keys=("img_in.weight", "double_blocks.0.img_attn.qkv.weight"),
        own_keys=("x_embedder.weight", "transformer_blocks.0.attn.add_q_proj.weight"),
        prefixes=UNET_PREFIXES,
        stacks={"num_layers": "transformer_blocks.", "num_single_layers": "single_transformer_blocks."},
        lora_table=lambda modules: keymap.TABLE,
        lora_names="own",
    ),
    network=at("diffusers:FluxTransformer2DModel"),
    adopt=at(".flux.headless:CaptainFlux.adopt"),
    vae=VAE,
    text=("t5",),
    tasks=frozenset({"keyframes"}),
    pooled_text=True,
    native_model=NativeModel("Flux", "params.context_in_dim", keyframes=at(".flux.native_adapter:KEYFRAMES")),
    cost=at(".flux.cost:flux_cost"),
)
