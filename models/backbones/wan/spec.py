"""Wan 2.1 and 2.2 as a backbone: video through keyframes (SmartDirector §3.2) and from text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...io.kinds import UNET_PREFIXES, VAE_PREFIXES, KeyMap
from ..spec import Backbone, Native, VaeKind
from . import keymap, vae_keymap

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    from .headless import DirectorWan
    from .vae import VideoVAE

__all__ = ["WAN_2"]


def _network() -> type[WanTransformer3DModel]:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel


def _adopt(model: Any) -> DirectorWan:
    from .headless import DirectorWan

    return DirectorWan.adopt(model)


def _vae() -> type[AutoencoderKLWan]:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan


def _codec() -> type[VideoVAE]:
    from .vae import VideoVAE

    return VideoVAE


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
    network=_vae,
    codec=_codec,
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
    network=_network,
    adopt=_adopt,
    vae=VAE,
    text=("umt5", "t5"),
    tasks=frozenset({"video", "text_to_video"}),
    temporal_stride=4,
    natives={16: Native((480, 832), 81, 16), 48: Native((704, 1280), 121, 24)},  # 2.1 and 2.2 A14B, then 2.2 5B
    experts=True,
)
