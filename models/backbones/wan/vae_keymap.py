"""Wan VAEs, 2.1 and 2.2: the original names (also ComfyUI's) ↔ diffusers' AutoencoderKLWan, at any width and depth.

Wan 2.1 numbers all layers of its encoder and of its decoder through; Wan 2.2 groups them in residual stages. The two
are told apart by their names.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ....core.errors import InputError
from ...io.key_table import StateDict, Table
from ...io.shapes import count_blocks, need, need_config

_RESNET = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}
_RESAMPLE = {"resample.1": "resample.1", "time_conv": "time_conv"}
_ATTENTION = {"norm": "norm", "to_qkv": "to_qkv", "proj": "proj"}


@dataclass(frozen=True)
class Layout:
    """What the names depend on: stages, ResNet blocks per encoder stage (the decoder has one more), grouping."""

    stages: int
    resnets: int
    residual: bool

    @classmethod
    def of_public(cls, keys: Collection[str]) -> Layout:
        """The layout that public names tell."""
        if any(k.startswith("decoder.upsamples.0.upsamples.") for k in keys):
            resnets = count_blocks((k for k in keys if ".residual." in k), "decoder.upsamples.0.upsamples.")
            return cls(count_blocks(keys, "decoder.upsamples."), max(resnets - 1, 1), True)
        samplers = [k for k in keys if k.startswith("decoder.upsamples.") and ".resample." in k]
        first = min((int(k.split(".")[2]) for k in samplers), default=count_blocks(keys, "decoder.upsamples."))
        return cls((count_blocks(keys, "decoder.upsamples.") + 1) // (first + 1), max(first - 1, 1), False)

    @classmethod
    def of_diffusers(cls, keys: Collection[str]) -> Layout:
        """The layout that diffusers names tell."""
        resnets = count_blocks(keys, "decoder.up_blocks.0.resnets.") - 1
        residual = any(k.startswith("encoder.down_blocks.0.resnets.") for k in keys)
        return cls(count_blocks(keys, "decoder.up_blocks."), max(resnets, 1), residual)

    def table(self) -> Table:
        """The full table for this layout."""
        out: dict[str, tuple[str, ...]] = {"conv1": ("quant_conv",), "conv2": ("post_quant_conv",)}

        def add(public: str, ours: str, inside: Mapping[str, str]) -> None:
            out.update({f"{public}.{k}": (f"{ours}.{v}",) for k, v in inside.items()})

        for side in ("encoder", "decoder"):
            add(side, side, {"conv1": "conv_in", "head.0": "norm_out", "head.2": "conv_out"})
            add(f"{side}.middle.0", f"{side}.mid_block.resnets.0", _RESNET)
            add(f"{side}.middle.1", f"{side}.mid_block.attentions.0", _ATTENTION)
            add(f"{side}.middle.2", f"{side}.mid_block.resnets.1", _RESNET)
        for stage in range(self.stages):
            for layer in range(self.resnets + 1):
                add(
                    self.public("encoder", stage, layer),
                    self._down(stage, layer),
                    _RESNET if layer < self.resnets else _RESAMPLE,
                )
            for layer in range(self.resnets + 2):
                add(
                    self.public("decoder", stage, layer),
                    self._up(stage, layer),
                    _RESNET if layer < self.resnets + 1 else _RESAMPLE,
                )
        return Table(out)

    def public(self, side: str, stage: int, layer: int) -> str:
        """Public name of a layer (the last layer of a stage resamples)."""
        group = "downsamples" if side == "encoder" else "upsamples"
        if self.residual:
            return f"{side}.{group}.{stage}.{group}.{layer}"
        return f"{side}.{group}.{stage * (self.resnets + (1 if side == 'encoder' else 2)) + layer}"

    def _down(self, stage: int, layer: int) -> str:
        if not self.residual:
            return f"encoder.down_blocks.{stage * (self.resnets + 1) + layer}"
        return f"encoder.down_blocks.{stage}." + (f"resnets.{layer}" if layer < self.resnets else "downsampler")

    def _up(self, stage: int, layer: int) -> str:
        sampler = "upsampler" if self.residual else "upsamplers.0"
        return f"decoder.up_blocks.{stage}." + (f"resnets.{layer}" if layer <= self.resnets else sampler)


def to_public(state: Mapping[str, torch.Tensor]) -> StateDict:
    """AutoencoderKLWan state dict → public names."""
    return Layout.of_diffusers(state.keys()).table().to_public(state)


def from_public(state: Mapping[str, torch.Tensor]) -> StateDict:
    """Public names → AutoencoderKLWan state dict."""
    return Layout.of_public(state.keys()).table().from_public(state)


def infer_config(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """AutoencoderKLWan arguments from public names and shapes.

    The latent statistics are not in the file: those of the published VAEs (Wan 2.1: 16 channels, Wan 2.2: 48 channels
    in residual stages) are known here; any other VAE needs an explicit config (InputError).
    """
    layout = Layout.of_public(state.keys())
    base, in_channels = need(state, "encoder.conv1.weight").shape[:2]
    z_dim = need(state, "conv2.weight").shape[0]
    heights = [
        need(state, f"{layout.public('encoder', s, 0)}.residual.6.weight").shape[0] for s in range(layout.stages)
    ]
    temporal = [
        f"{layout.public('encoder', s, layout.resnets)}.time_conv.weight" in state for s in range(layout.stages - 1)
    ]
    patch = math.isqrt(in_channels // 3)
    if 3 * patch * patch != in_channels:
        raise InputError(
            "state_dict",
            "a Wan VAE takes RGB, folded in square patches",
            f"{in_channels} channels",
            "check that the file holds a Wan VAE",
        )
    statistics = {(16, False): WAN21_STATISTICS, (48, True): WAN22_STATISTICS}.get((z_dim, layout.residual))
    if statistics is None:
        raise need_config("latents_mean, latents_std", f"a VAE of {z_dim} latent channels")
    dim_mult = [h // base for h in heights]
    return {
        "base_dim": base,
        "decoder_base_dim": need(state, "decoder.head.0.gamma").shape[0] // dim_mult[0],
        "z_dim": z_dim,
        "dim_mult": dim_mult,
        "num_res_blocks": layout.resnets,
        "attn_scales": [],
        "temperal_downsample": temporal,
        "dropout": 0.0,
        "latents_mean": list(statistics[0]),
        "latents_std": list(statistics[1]),
        "is_residual": layout.residual,
        "in_channels": in_channels,
        "out_channels": need(state, "decoder.head.2.weight").shape[0],
        "patch_size": patch if patch > 1 else None,
        "scale_factor_temporal": 2 ** sum(temporal),
        "scale_factor_spatial": 2 ** (layout.stages - 1) * patch,
    }


# Mean and standard deviation per latent channel, as published with the two VAEs.
WAN21_STATISTICS = (
    (
        -0.7571,
        -0.7089,
        -0.9113,
        0.1075,
        -0.1745,
        0.9653,
        -0.1517,
        1.5508,
        0.4134,
        -0.0715,
        0.5517,
        -0.3632,
        -0.1922,
        -0.9497,
        0.2503,
        -0.2921,
    ),
    (
        2.8184,
        1.4541,
        2.3275,
        2.6558,
        1.2196,
        1.7708,
        2.6052,
        2.0743,
        3.2687,
        2.1526,
        2.8652,
        1.5579,
        1.6382,
        1.1253,
        2.8251,
        1.9160,
    ),
)
WAN22_STATISTICS = (
    (
        -0.2289,
        -0.0052,
        -0.1323,
        -0.2339,
        -0.2799,
        0.0174,
        0.1838,
        0.1557,
        -0.1382,
        0.0542,
        0.2813,
        0.0891,
        0.1570,
        -0.0098,
        0.0375,
        -0.1825,
        -0.2246,
        -0.1207,
        -0.0698,
        0.5109,
        0.2665,
        -0.2108,
        -0.2158,
        0.2502,
        -0.2055,
        -0.0322,
        0.1109,
        0.1567,
        -0.0729,
        0.0899,
        -0.2799,
        -0.1230,
        -0.0313,
        -0.1649,
        0.0117,
        0.0723,
        -0.2839,
        -0.2083,
        -0.0520,
        0.3748,
        0.0152,
        0.1957,
        0.1433,
        -0.2944,
        0.3573,
        -0.0548,
        -0.1681,
        -0.0667,
    ),
    (
        0.4765,
        1.0364,
        0.4514,
        1.1677,
        0.5313,
        0.4990,
        0.4818,
        0.5013,
        0.8158,
        1.0344,
        0.5894,
        1.0901,
        0.6885,
        0.6165,
        0.8454,
        0.4978,
        0.5759,
        0.3523,
        0.7135,
        0.6804,
        0.5833,
        1.4146,
        0.8986,
        0.5659,
        0.7069,
        0.5338,
        0.4889,
        0.4917,
        0.4069,
        0.4999,
        0.6866,
        0.4093,
        0.5709,
        0.6065,
        0.6415,
        0.4944,
        0.5726,
        1.2042,
        0.5458,
        1.6887,
        0.3971,
        1.0600,
        0.3943,
        0.5537,
        0.5444,
        0.4089,
        0.7468,
        0.7744,
    ),
)
