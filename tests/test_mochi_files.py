"""Mochi from the files people have: names, precisions, folders, LoRAs, offloading, a decoder alone, faults."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_mochi
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file
from tiny_mochi import MOCHI, call, write

from anchorshot.core.errors import InputError
from anchorshot.models.backbones import find_backbone
from anchorshot.models.backbones.mochi.vae import MochiVAE
from anchorshot.models.io import loading
from anchorshot.models.io.keymaps import to_public
from anchorshot.models.io.loading import LoraSpec, Offload, load_transformer, load_vae
from anchorshot.models.io.lora import export_lora


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_single_file_in_public_names(tmp_path: Path, prefix: str) -> None:
    model = tiny_mochi.transformer()
    loaded = load_transformer("mochi", write(tmp_path / "m.safetensors", "mochi", model, prefix))
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(call(loaded), call(model))


def test_diffusers_folder_and_pipeline_folder(tmp_path: Path) -> None:
    model, vae = tiny_mochi.transformer(), tiny_mochi.vae()
    model.save_pretrained(tmp_path / "transformer")
    vae.save_pretrained(tmp_path / "vae")
    for folder in (tmp_path, tmp_path / "transformer"):
        assert torch.equal(call(load_transformer("mochi", folder)), call(model))
    z = torch.randn(1, 12, 2, 2, 2)
    assert torch.equal(MochiVAE(load_vae("mochi_vae", tmp_path)).decode_video(z), MochiVAE(vae).decode_video(z))


@pytest.mark.parametrize("per_row", [False, True])
def test_comfyui_scaled_fp8(tmp_path: Path, per_row: bool) -> None:
    model = tiny_mochi.transformer()
    state = to_public("mochi", model.state_dict())
    out: dict[str, torch.Tensor] = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for key, value in state.items():
        out[key] = value
        if value.ndim == 2 and key.startswith("blocks."):
            scale = (value.abs().amax(1) if per_row else value.abs().amax()) / 448
            out[key.replace(".weight", ".scale_weight")] = scale
            out[key] = (value / (scale[:, None] if per_row else scale)).to(torch.float8_e4m3fn)
    save_file(out, tmp_path / "m.safetensors")
    loaded = load_transformer("mochi", tmp_path / "m.safetensors")
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    assert 0 < gap(call(loaded), call(model)) < 0.2


def test_fp8_offload_and_compile(tmp_path: Path) -> None:
    """What needs a GPU to pay off computes the same on a CPU, weights waiting on disk."""
    path = write(tmp_path / "m.safetensors", "mochi", tiny_mochi.transformer())
    plain = call(load_transformer("mochi", path))
    for level in ("block", "leaf"):
        offload = Offload(level, folder=tmp_path / "waiting")  # type: ignore[arg-type]
        waiting = load_transformer("mochi", path, offload=offload)
        assert list((tmp_path / "waiting").glob("*/*.safetensors"))
        assert gap(call(waiting), plain) < 1e-5
    small = load_transformer("mochi", path, dtype=torch.bfloat16, fp8=True)
    assert small.transformer_blocks[0].ff.net[2].weight.dtype == torch.float8_e4m3fn
    assert small.dtype == torch.bfloat16 and gap(call(small, torch.bfloat16), plain) < 0.3
    blocks = load_transformer("mochi", path, compile=True)
    compiled = [name for name, m in blocks.named_modules() if m._compiled_call_impl is not None]
    assert compiled == [f"transformer_blocks.{i}" for i in range(MOCHI["num_layers"])]


@pytest.mark.parametrize("names", ["genmo", "diffusers"])
def test_loras(tmp_path: Path, names: str) -> None:
    """genmo's names are fused and order a gated MLP's halves the other way; B A is added to the same weights."""
    model = tiny_mochi.transformer()
    width, last = MOCHI["num_attention_heads"] * MOCHI["attention_head_dim"], MOCHI["num_layers"] - 1
    rows = {"attn.qkv_x": 3 * width, "mlp_x.w1": 2 * (8 * width // 3), "mod_y": MOCHI["pooled_projection_dim"]}
    pairs = {
        f"blocks.{last}.{name}": (torch.randn(2, width) * 0.3, torch.randn(n, 2) * 0.3) for name, n in rows.items()
    }
    state = to_public("mochi", model.state_dict())
    for name, (a, b) in pairs.items():
        state[f"{name}.weight"] = state[f"{name}.weight"] + b @ a
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "merged.safetensors")
    want = call(load_transformer("mochi", tmp_path / "merged.safetensors"))
    lora: dict[str, torch.Tensor] = {}
    for name, (a, b) in pairs.items():
        if names == "genmo":
            lora |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
            continue
        block = f"transformer.transformer_blocks.{last}"
        if name.endswith("qkv_x"):
            parts = dict(zip(("attn1.to_q", "attn1.to_k", "attn1.to_v"), b.chunk(3), strict=True))
        elif name.endswith("w1"):
            parts = {"ff.net.0.proj": torch.cat(b.chunk(2)[::-1])}
        else:
            parts = {"norm1_context.linear_1": b}
        for part, own in parts.items():
            lora |= {f"{block}.{part}.lora_A.weight": a.clone(), f"{block}.{part}.lora_B.weight": own.contiguous()}
    save_file(lora, tmp_path / "lora.safetensors")
    path = write(tmp_path / "m.safetensors", "mochi", model)
    loaded = load_transformer("mochi", path, loras=[LoraSpec(tmp_path / "lora.safetensors")])
    assert gap(call(loaded), want) < 1e-5 < gap(call(loaded), call(model))
    with pytest.raises(InputError, match='written for flux, wan and .*"mochi"'):
        export_lora(loaded, "mochi", tmp_path / "out.safetensors", "lora0")


def test_vae_files(tmp_path: Path) -> None:
    model = tiny_mochi.vae()
    video, z = torch.rand(1, 7, 3, 16, 16), torch.randn(1, 12, 3, 2, 2)
    for prefix in ("", "vae."):
        loaded = MochiVAE(load_vae("mochi_vae", write(tmp_path / "v.safetensors", "mochi_vae", model, prefix)))
        assert torch.equal(loaded.encode_video(video), MochiVAE(model).encode_video(video))
        assert torch.equal(loaded.decode_video(z), MochiVAE(model).decode_video(z))


@pytest.mark.parametrize("prefix", ["", "decoder."])
def test_a_decoder_alone_decodes(tmp_path: Path, prefix: str) -> None:
    model = tiny_mochi.vae()
    path = write(tmp_path / "d.safetensors", "mochi_vae", model, prefix, only="decoder.")
    alone = MochiVAE(load_vae("mochi_vae", path))
    z = torch.randn(1, 12, 2, 2, 4)
    assert not alone.can_encode and torch.equal(alone.decode_video(z), MochiVAE(model).decode_video(z))
    with pytest.raises(InputError, match="video_vae: needs an encoder.*a decoder alone"):
        alone.encode_image(torch.rand(1, 3, 16, 16))
    with pytest.raises(InputError, match="must hold a decoder"):
        load_vae("mochi_vae", write(tmp_path / "e.safetensors", "mochi_vae", model, only="encoder."))


def test_wrong_kinds_and_broken_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    flux = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, pooled_projection_dim=12, axes_dims_rope=[4, 6, 6],
    )  # fmt: skip
    write(path, "flux", flux)
    with pytest.raises(InputError, match="must hold a Mochi transformer.*a Flux transformer"):
        load_transformer("mochi", path)
    write(path, "mochi", tiny_mochi.transformer())
    with pytest.raises(InputError, match="must hold a Wan transformer.*a Mochi transformer"):
        load_transformer("wan", path)
    with pytest.raises(InputError, match="must hold a Mochi VAE.*a Mochi transformer"):
        load_vae("mochi_vae", path)
    with pytest.raises(InputError, match="depth.*got 5"):
        load_transformer("mochi", path, MOCHI | {"num_layers": 5})
    write(path, "mochi_vae", tiny_mochi.vae())
    with pytest.raises(InputError, match="must hold a Wan VAE.*a Mochi VAE"):
        load_vae("wan_vae", path)
    state = to_public("mochi", tiny_mochi.transformer().state_dict())
    faults = {
        "complete.*no transformer_blocks.1.attn1.to_k": state | {"blocks.1.attn.qkv_x.weight": None},
        "every tensor name.*blocks.0.extra": state | {"blocks.0.extra.weight": torch.zeros(1)},
        "shapes of a mochi model.*3 heads": state | {"pos_frequencies": torch.zeros(3, 3, 4)},
        "no pos_frequencies|must hold a Mochi": {k: v for k, v in state.items() if k != "pos_frequencies"},
        "finite.*proj_out": state | {"final_layer.linear.bias": torch.full((48,), float("nan"))},
    }
    for message, broken in faults.items():
        save_file({k: v.contiguous() for k, v in broken.items() if v is not None}, path)
        with pytest.raises(InputError, match=message):
            load_transformer("mochi", path)


def test_the_published_size_builds_without_memory() -> None:
    model = loading._build(find_backbone("mochi"), {})
    assert all(p.is_meta for p in model.parameters()) and not any(b.is_meta for b in model.buffers())
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(10.0e9, rel=0.01)
