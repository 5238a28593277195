"""Mochi 1 as a backbone: video from text, the model that Text2Story was published with (§4.1)."""

from __future__ import annotations

from ...io.kinds import UNET_PREFIXES, VAE_PREFIXES, KeyMap
from ..spec import Backbone, Native, VaeKind, at
from . import keymap, vae_keymap

__all__ = ["MOCHI_1"]


VAE = VaeKind(
    kind="mochi_vae",
    title="Mochi",
    keys=KeyMap(
        vae_keymap.from_public,
        vae_keymap.infer_config,
        vae_keymap.to_public,
        public_keys=("decoder.blocks.0.0.weight", "decoder.output_proj.weight"),
        own_keys=("decoder.conv_in.weight", "decoder.up_blocks.0.proj.weight", "decoder.proj_out.weight"),
        other_public_keys=(
            ("blocks.0.0.weight", "output_proj.weight"),
            ("layers.0.weight", "output_proj.weight", "output_norm.weight"),
            ("encoder.layers.0.weight", "encoder.output_proj.weight", "encoder.output_norm.weight"),
        ),
        prefixes=VAE_PREFIXES,
        complete=vae_keymap.with_side,
    ),
    network=at("diffusers:AutoencoderKLMochi"),
    codec=at(".mochi.vae:MochiVAE"),
    optional=("encoder",),
)

MOCHI_1 = Backbone(
    kind="mochi",
    title="Mochi",
    keys=KeyMap(
        keymap.from_public,
        keymap.infer_config,
        keymap.to_public,
        public_keys=("x_embedder.proj.weight", "t5_yproj.weight", "pos_frequencies"),
        own_keys=("patch_embed.proj.weight", "time_embed.caption_proj.weight", "pos_frequencies"),
        prefixes=UNET_PREFIXES,
        stacks={"num_layers": "transformer_blocks."},
        lora_table=keymap.table_of,
    ),
    network=at("diffusers:MochiTransformer3DModel"),
    adopt=at(".mochi.headless:ChunkMochi.adopt"),
    vae=VAE,
    text=("t5",),
    tasks=frozenset({"text_to_video"}),
    temporal_stride=6,
    natives={12: Native((480, 848), 163, 30)},
    bounded=True,
    masked_text=True,
    min_steps=2,
    schedule=at(".mochi.headless:schedule"),
    defaults={"defaults.video": {"steps": 64, "guidance": 4.5}, "video_text": {"max_length": 256}},
    unused_settings=frozenset({"shift", "guidance_low", "method", "boundary", "text_length"}),
)
