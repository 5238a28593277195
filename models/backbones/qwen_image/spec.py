"""Qwen-Image and its editing models as a backbone: start and end frames of shots (STAGE §4.1)."""

from __future__ import annotations

from ...io.kinds import UNET_PREFIXES, KeyMap
from ..spec import Backbone, NativeModel, at
from ..wan.spec import WAN_2
from . import keymap

__all__ = ["QWEN_IMAGE"]

QWEN_IMAGE = Backbone(
    kind="qwen_image",
    title="Qwen-Image",
    keys=KeyMap(
        keymap.from_public,
        keymap.infer_config,
        keymap.to_public,
        public_keys=("img_in.weight", "txt_norm.weight", "transformer_blocks.0.attn.add_q_proj.weight"),
        prefixes=UNET_PREFIXES,
        stacks={"num_layers": "transformer_blocks."},
        lora_table=lambda modules: keymap.TABLE,
        lora_names="own",
    ),
    network=at("diffusers:QwenImageTransformer2DModel"),
    adopt=at(".qwen_image.headless:PairQwen.adopt"),
    vae=WAN_2.vae,  # Qwen-Image's is of Wan 2.1's class, with the same names, statistics and results
    text=("qwen_vl",),
    tasks=frozenset({"pairs"}),
    masked_text=True,
    cost=at(".qwen_image.cost:qwen_cost"),
    native_model=NativeModel("QwenImageTransformer2DModel", "txt_in.in_features", pairs=at(".qwen_image.native:PAIRS")),
)
