"""Mochi files as ComfyUI has them: its own classes' tensors, read by our loader, compute the same there and here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_detection
import comfy.ops
import pytest
import torch
from comfy.ldm.genmo.joint_model.asymm_models_joint import AsymmDiTJoint
from comfy.ldm.genmo.joint_model.layers import FeedForward
from comfy.ldm.genmo.vae.model import Decoder, Encoder, VideoVAE
from diffusers import AutoencoderKLMochi, MochiTransformer3DModel
from in_comfyui.tiny import strong_
from safetensors.torch import save_file

from anchorshot.models.backbones.mochi.vae import MochiVAE
from anchorshot.models.io.keymaps import infer_config, to_public
from anchorshot.models.io.loading import load_transformer, load_vae

WIDTH, TEXT = 96, 32
OPERATIONS = comfy.ops.disable_weight_init


def published() -> dict[str, Any]:
    """The arguments that ComfyUI gives to a Mochi it finds in a file."""
    found = comfy.model_detection.detect_unet_config({"t5_yproj.weight": torch.empty(0)}, "")
    return {k: v for k, v in found.items() if k != "image_model"}


@pytest.fixture(scope="module")
def joint() -> AsymmDiTJoint:
    """ComfyUI's AsymmDiTJoint, small. Its blocks take an MLP of the published width only, so theirs is put in after."""
    small = {"depth": 3, "num_heads": 4, "hidden_size_x": WIDTH, "hidden_size_y": WIDTH, "t5_feat_dim": TEXT}
    arguments = published() | small | {"mlp_ratio_x": 1536 * 8 / WIDTH}
    model = AsymmDiTJoint(**arguments, dtype=torch.float32, device="cpu", operations=OPERATIONS)
    hidden = int(published()["mlp_ratio_x"] * WIDTH)
    for block in model.blocks:
        block.mlp_x = FeedForward(WIDTH, hidden, 256, None, device="cpu", dtype=torch.float32, operations=OPERATIONS)
    strong_(model)
    model.pos_frequencies.data.mul_(0.05)
    return model


@pytest.fixture(scope="module")
def sides() -> torch.nn.ModuleDict:
    """ComfyUI's encoder and decoder with the published arguments but small widths and few blocks."""
    common: dict[str, Any] = {"num_res_blocks": [1, 2, 1, 3, 2], "latent_dim": 12, "padding_mode": "replicate"}
    encoder = Encoder(
        in_channels=15, base_channels=32, channel_multipliers=[1, 2, 3, 4], temporal_reductions=[1, 2, 3],
        spatial_reductions=[2, 2, 2], prune_bottlenecks=[False] * 5, has_attentions=[False, True, True, True, True],
        affine=True, bias=True, input_is_conv_1x1=True, **common,
    )  # fmt: skip
    decoder = Decoder(
        out_channels=3, base_channels=32, channel_multipliers=[1, 2, 2, 3], temporal_expansions=[1, 2, 3],
        spatial_expansions=[2, 2, 2], has_attention=[False] * 5, output_norm=False, nonlinearity="silu",
        output_nonlinearity="silu", causal=True, **common,
    )  # fmt: skip
    return strong_(torch.nn.ModuleDict({"encoder": encoder, "decoder": decoder}))  # type: ignore[return-value]


def save(path: Path, model: torch.nn.Module, prefix: str = "") -> Path:
    save_file({prefix + k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_transformer(joint: AsymmDiTJoint, tmp_path: Path, prefix: str) -> None:
    """Velocities of both, each with its own sign and clock; ComfyUI cuts the padding off, diffusers masks it."""
    ours = load_transformer("mochi", save(tmp_path / "mochi.safetensors", joint, prefix))
    x, t = torch.randn(2, 12, 3, 8, 12), torch.tensor([0.3, 0.8])
    text, mask = torch.randn(2, 16, TEXT), (torch.arange(16) < 9).expand(2, 16)
    with torch.no_grad():
        theirs = joint(x, t, text, attention_mask=mask, num_tokens=9)
        made = -ours(x, text, 1000 * (1 - t), mask, return_dict=False)[0]
    assert theirs.abs().mean() > 0.3
    torch.testing.assert_close(made, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("prefix", ["", "vae."])
def test_vae(sides: torch.nn.ModuleDict, tmp_path: Path, prefix: str) -> None:
    """Pictures in and videos out, the first frames included; ComfyUI scales latents outside of the VAE."""
    scale = comfy.latent_formats.Mochi()
    ours = MochiVAE(load_vae("mochi_vae", save(tmp_path / "mochi_vae.safetensors", sides, prefix)), pixels_per_call=1)
    pictures = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        theirs = scale.process_in(sides["encoder"](pictures[:, :, None] * 2 - 1).mode())
        torch.testing.assert_close(ours.encode_image(pictures), theirs[:, :, 0], atol=1e-4, rtol=0)
        for frames in (1, 2, 4):
            z = torch.randn(2, 12, frames, 4, 6)
            shown = sides["decoder"](scale.process_out(z)) / 2 + 0.5
            made = ours.decode_video(z).movedim(2, 1)
            assert made.shape == shown.shape and shown.std() > 0.3
            torch.testing.assert_close(made, shown.clamp(0, 1), atol=1e-4, rtol=0)


def test_a_decoder_alone(sides: torch.nn.ModuleDict, tmp_path: Path) -> None:
    """genmo's own decoder file, whose names have no side."""
    ours = MochiVAE(load_vae("mochi_vae", save(tmp_path / "decoder.safetensors", sides["decoder"])))
    z = torch.randn(1, 12, 2, 4, 4)
    with torch.no_grad():
        shown = sides["decoder"](comfy.latent_formats.Mochi().process_out(z)) / 2 + 0.5
    torch.testing.assert_close(ours.decode_video(z).movedim(2, 1), shown.clamp(0, 1), atol=1e-4, rtol=0)


def test_names_and_shapes_of_the_published_size() -> None:
    """What ComfyUI builds for the published files has exactly the tensors that we expect there, and is told right."""
    with torch.device("meta"):
        theirs = {
            "mochi": AsymmDiTJoint(**published(), dtype=torch.float32, operations=OPERATIONS),
            "mochi_vae": VideoVAE(),
        }
        ours = {"mochi": MochiTransformer3DModel(), "mochi_vae": AutoencoderKLMochi()}
    for kind, model in theirs.items():
        state = model.state_dict()
        expected = to_public(kind, ours[kind].state_dict())
        assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in expected.items()}
        for argument, value in infer_config(kind, state).items():
            known = ours[kind].config[argument]
            assert value == (list(known) if isinstance(known, tuple) else known), argument
