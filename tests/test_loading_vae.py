"""VAE files as people have them: published names, diffusers' names, one file with everything."""

import json

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
)
from safetensors.torch import save_file
from tiny_weights import gap, strong

from anchorshot.core.errors import InputError
from anchorshot.models.backbones.flux.vae_keymap import FLUX_VAE_CONFIG
from anchorshot.models.io.keymaps import to_public
from anchorshot.models.io.loading import load_vae

VAE = dict(
    base_dim=8,
    decoder_base_dim=12,
    z_dim=4,
    dim_mult=[1, 2, 2],
    num_res_blocks=1,
    patch_size=2,
    temperal_downsample=[True, True],
    is_residual=True,
    in_channels=12,
    out_channels=12,
    latents_mean=[0.0] * 4,
    latents_std=[1.0] * 4,
    scale_factor_spatial=8,
)


@pytest.mark.parametrize("names", ["public", "diffusers", "all in one"])
def test_wan_vae_files(tmp_path, names):
    model = strong(AutoencoderKLWan(**VAE))
    state = model.state_dict() if names == "diffusers" else to_public("wan_vae", model.state_dict())
    prefix = "vae." if names == "all in one" else ""
    save_file(
        {prefix + k: v.contiguous() for k, v in state.items()},
        tmp_path / "vae.safetensors",
        metadata={"config": json.dumps(VAE)},
    )
    loaded = load_vae("wan_vae", tmp_path / "vae.safetensors")
    video = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    with torch.no_grad():
        assert torch.equal(loaded.encode(video).latent_dist.mode(), model.encode(video).latent_dist.mode())
    with pytest.raises(InputError, match="must hold a Flux VAE.*a Wan VAE"):
        load_vae("flux_vae", tmp_path / "vae.safetensors")


FLUX_VAE = {**FLUX_VAE_CONFIG, "block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4, "latent_channels": 4}


def ldm_names(state):
    """diffusers → the published Flux VAE's names; attention's linear layers become 1×1 convolutions there."""
    out = {}
    for key, value in state.items():
        key = key.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        if "attentions.0" in key:
            value = value[:, :, None, None] if value.ndim == 2 else value
            names = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
            for ours, theirs in names.items():
                key = key.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{theirs}.")
        key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        for i in range(4):
            for ours, theirs in (("resnets", "block"), ("downsamplers.0", "downsample"), ("upsamplers.0", "upsample")):
                key = key.replace(f"down_blocks.{i}.{ours}", f"down.{i}.{theirs}")
                key = key.replace(f"up_blocks.{i}.{ours}", f"up.{3 - i}.{theirs}")
        out[key] = value.contiguous()
    return out


@pytest.mark.parametrize("names", ["public", "diffusers"])
def test_flux_vae_files(tmp_path, names):
    model = strong(AutoencoderKL(**FLUX_VAE))
    state = model.state_dict()
    save_file(ldm_names(state) if names == "public" else state, tmp_path / "ae.safetensors")
    loaded = load_vae("flux_vae", tmp_path / "ae.safetensors", FLUX_VAE)
    image = torch.rand(1, 3, 16, 24) * 2 - 1
    with torch.no_grad():
        assert gap(loaded.encode(image).latent_dist.mode(), model.encode(image).latent_dist.mode()) < 1e-6
    assert loaded.config.shift_factor == 0.1159
    with pytest.raises(InputError, match="must hold a Wan VAE.*a Flux VAE"):
        load_vae("wan_vae", tmp_path / "ae.safetensors")
    with pytest.raises(InputError, match="tensors must be complete"):
        load_vae("flux_vae", tmp_path / "ae.safetensors")  # taken for FLUX.1's published sizes
