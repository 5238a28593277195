"""Mochi's video VAE: genmo's names (also ComfyUI's) ↔ diffusers' AutoencoderKLMochi, at any width and depth.

genmo numbers the parts of a side through: the encoder's input, its first ResNet blocks, its down-sampling stages and
its last ResNet blocks are `layers.0`, `layers.1` and so on. genmo publishes encoder and decoder as two files, in which
no name says which side it is; ComfyUI's file holds both, under `encoder.` and `decoder.`. A file may hold the decoder
alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ....core.errors import InputError
from ...io.key_table import StateDict, Table
from ...io.shapes import count_blocks, need, need_config

_RESNET = {
    "stack.0": ("norm1.norm_layer",),
    "stack.2": ("conv1.conv",),
    "stack.3": ("norm2.norm_layer",),
    "stack.5": ("conv2.conv",),
}
_ATTENTION = {"attn.qkv": ("to_q", "to_k", "to_v"), "attn.out": ("to_out.0",)}


@dataclass(frozen=True)
class Layout:
    """What the names depend on: ResNet blocks before, in each of the stages, and after, from the picture's side."""

    resnets: tuple[int, ...]

    @property
    def stages(self) -> int:
        """How many stages change the size."""
        return len(self.resnets) - 2

    @classmethod
    def of_public(cls, keys: Collection[str]) -> Layout:
        """The layout that the decoder's public names tell."""
        found = [f"decoder.blocks.{i}." for i in range(count_blocks(keys, "decoder.blocks."))]
        inner = [count_blocks(keys, f"{block}blocks.") for block in found[1:-1]]
        if len(found) < 2:
            raise _no_decoder(keys)
        return cls((count_blocks(keys, found[-1]), *reversed(inner), count_blocks(keys, found[0]) - 1))

    @classmethod
    def of_diffusers(cls, keys: Collection[str]) -> Layout:
        """The layout that the decoder's diffusers names tell."""
        stages = count_blocks(keys, "decoder.up_blocks.")
        if not stages:
            raise _no_decoder(keys)
        inner = [count_blocks(keys, f"decoder.up_blocks.{i}.resnets.") for i in range(stages)]
        ends = [count_blocks(keys, f"decoder.block_{side}.resnets.") for side in ("out", "in")]
        return cls((ends[0], *reversed(inner), ends[1]))

    def table(self) -> Table:
        """The full table for this layout."""
        out: dict[str, tuple[str, ...]] = {
            "encoder.layers.0": ("encoder.proj_in",),
            "encoder.output_norm": ("encoder.norm_out.norm_layer",),
            "encoder.output_proj": ("encoder.proj_out",),
            "decoder.blocks.0.0": ("decoder.conv_in",),
            "decoder.output_proj": ("decoder.proj_out",),
        }
        for stage in range(self.stages):
            out[f"{self.down(stage)}.layers.0"] = (f"encoder.down_blocks.{stage}.conv_in.conv",)
            out[f"decoder.blocks.{stage + 1}.proj"] = (f"decoder.up_blocks.{stage}.proj",)
        for public, ours, number in self._encoder_resnets():
            _add(out, public, f"{ours}.resnets.{number}", _RESNET)
            _add(out, f"{public}.attn_block", f"{ours}.attentions.{number}", _ATTENTION)
            out[f"{public}.attn_block.norm"] = (f"{ours}.norms.{number}.norm_layer",)
        for public, ours, number in self._decoder_resnets():
            _add(out, public, f"{ours}.resnets.{number}", _RESNET)
        return Table(out)

    def down(self, stage: int) -> str:
        """Public name of a down-sampling stage."""
        return f"encoder.layers.{1 + self.resnets[0] + stage}"

    def groups(self) -> list[str]:
        """Public names of the encoder's first ResNet block in each group, whether or not that is there."""
        after = 1 + self.resnets[0] + self.stages
        stages = [f"{self.down(stage)}.layers.1" for stage in range(self.stages)]
        return ["encoder.layers.1", *stages, f"encoder.layers.{after}"]

    def _encoder_resnets(self) -> Iterator[tuple[str, str, int]]:
        before, *inner, after = self.resnets
        for number in range(before):
            yield f"encoder.layers.{1 + number}", "encoder.block_in", number
        for stage, count in enumerate(inner):
            for number in range(count):
                yield f"{self.down(stage)}.layers.{1 + number}", f"encoder.down_blocks.{stage}", number
        for number in range(after):
            yield f"encoder.layers.{1 + before + self.stages + number}", "encoder.block_out", number

    def _decoder_resnets(self) -> Iterator[tuple[str, str, int]]:
        last, *inner, first = self.resnets
        for number in range(first):
            yield f"decoder.blocks.0.{1 + number}", "decoder.block_in", number
        for stage, count in enumerate(reversed(inner)):
            for number in range(count):
                yield f"decoder.blocks.{stage + 1}.blocks.{number}", f"decoder.up_blocks.{stage}", number
        for number in range(last):
            yield f"decoder.blocks.{self.stages + 1}.{number}", "decoder.block_out", number


def _add(out: dict[str, tuple[str, ...]], public: str, ours: str, inside: Mapping[str, tuple[str, ...]]) -> None:
    out.update({f"{public}.{k}": tuple(f"{ours}.{v}" for v in parts) for k, parts in inside.items()})


def _no_decoder(keys: Collection[str]) -> InputError:
    return InputError(
        "state_dict",
        "a Mochi VAE must hold a decoder",
        "an encoder alone" if any(k.startswith("encoder.") for k in keys) else "neither side of one",
        "give ComfyUI's mochi_vae.safetensors, or genmo's decoder.safetensors",
    )


def with_side(state: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """genmo's two files under ComfyUI's names: the side put before the names; other names stay."""
    for mark, side in (("blocks.0.0.weight", "decoder."), ("layers.0.weight", "encoder.")):
        if mark in state:
            return {side + k: v for k, v in state.items()}
    return state


def to_public(state: Mapping[str, torch.Tensor]) -> StateDict:
    """AutoencoderKLMochi state dict → public names."""
    return Layout.of_diffusers(state.keys()).table().to_public(state)


def from_public(state: Mapping[str, torch.Tensor]) -> StateDict:
    """Public names → AutoencoderKLMochi state dict."""
    return Layout.of_public(state.keys()).table().from_public(state)


def infer_config(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """AutoencoderKLMochi arguments from public names and shapes.

    Without an encoder, the stages are taken to halve height and width, as all published ones do, and the decoder's
    widths stand in for the encoder's. The latent statistics are not in the file: those of the published VAE (12
    channels) are diffusers' own defaults; any other VAE needs an explicit config (InputError).
    """
    layout = Layout.of_public(state.keys())
    latent_channels = need(state, "decoder.blocks.0.0.weight").shape[1]
    if latent_channels != 12:
        raise need_config("latents_mean, latents_std", f"a VAE of {latent_channels} latent channels")
    projections = [need(state, f"decoder.blocks.{1 + s}.proj.weight").shape for s in reversed(range(layout.stages))]
    out_channels, first = need(state, "decoder.output_proj.weight").shape
    widths = [first, *(columns for _, columns in projections)]
    folded = [rows // width for (rows, _), width in zip(projections, widths, strict=False)]
    kernels = [state.get(f"{layout.down(s)}.layers.0.weight") for s in range(layout.stages)]
    spatial = [2 if k is None else k.shape[3] for k in kernels]
    temporal = [n // s**2 for n, s in zip(folded, spatial, strict=True)]
    config: dict[str, Any] = {
        "out_channels": out_channels,
        "encoder_block_out_channels": widths,
        "decoder_block_out_channels": widths,
        "latent_channels": latent_channels,
        "layers_per_block": list(layout.resnets),
        "temporal_expansions": temporal,
        "spatial_expansions": spatial,
    }
    if any(k is None for k in kernels):
        return config
    inner, in_channels = need(state, "encoder.layers.0.weight").shape
    config["in_channels"] = in_channels
    config["encoder_block_out_channels"] = [inner, *(k.shape[0] for k in kernels if k is not None)]
    config["add_attention_block"] = [f"{name}.attn_block.attn.qkv.weight" in state for name in layout.groups()]
    if temporal != [k.shape[2] for k in kernels if k is not None]:
        raise ValueError("the decoder makes more or fewer frames than the encoder takes")
    return config
