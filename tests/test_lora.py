"""LoRA files: every spelling reads into the same adapter, and ours is read by diffusers' own loader."""

import json

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel, WanPipeline, WanTransformer3DModel
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_weights import strong

from anchorshot.core.errors import InputError
from anchorshot.models.io.checkpoint import read_checkpoint
from anchorshot.models.io.keymaps import lora_table, to_public
from anchorshot.models.io.loading import Offload, load_transformer
from anchorshot.models.io.lora import LoraSpec, export_lora, load_lora, parse_lora

FLUX = dict(
    in_channels=16,
    num_layers=2,
    num_single_layers=3,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=24,
    pooled_projection_dim=12,
    guidance_embeds=True,
    axes_dims_rope=[4, 6, 6],
)
WAN = dict(
    num_attention_heads=2,
    attention_head_dim=24,
    in_channels=4,
    out_channels=4,
    text_dim=24,
    freq_dim=16,
    ffn_dim=64,
    num_layers=2,
    rope_max_seq_len=32,
)
CONFIGS = {"flux": FLUX, "wan": WAN}
STOCK = {"flux": FluxTransformer2DModel, "wan": WanTransformer3DModel}


def stock(kind, seed=0):
    return strong(STOCK[kind](**CONFIGS[kind]), seed)


def call(kind, model, dtype=torch.float32, device="cpu"):
    """One stock forward on fixed inputs."""
    generator = torch.Generator().manual_seed(1)

    def randn(*shape):
        return torch.randn(shape, generator=generator).to(device, dtype)

    def number(value):
        return torch.tensor([value], device=device)

    with torch.no_grad():
        if kind == "wan":
            out = model(randn(1, 4, 3, 8, 8), number(500.0), randn(1, 5, 24), return_dict=False)
        else:
            ids = torch.zeros(12, 3, device=device)
            ids[:, 1], ids[:, 2] = torch.arange(12) // 4, torch.arange(12) % 4
            out = model(
                randn(1, 12, 16),
                randn(1, 5, 24),
                randn(1, 12),
                number(0.5).to(dtype),
                ids,
                torch.zeros(5, 3, device=device),
                number(3.5).to(dtype),
                return_dict=False,
            )
    return out[0].float()


def gap(a, b):
    return (a - b).abs().max().item() / b.abs().max().item()


def write(path, kind, model, prefix="", convert=lambda t: t, metadata=True):
    state = {prefix + k: convert(v).contiguous() for k, v in to_public(kind, model.state_dict()).items()}
    save_file(state, path, metadata={"config": json.dumps(CONFIGS[kind])} if metadata else None)
    return path


KINDS = pytest.mark.parametrize("kind", ["flux", "wan"])


TARGETS = {
    "flux": [
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
        "ff.net.0.proj",
        "ff.net.2",
        "norm1.linear",
        "norm.linear",
        "proj_mlp",
        "proj_out",
        "norm_out.linear",
    ],
    "wan": ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2", "time_proj", "text_embedder.linear_1"],
}


def with_lora(kind, rank_pattern=None, rslora=False):
    model = stock(kind)
    model.add_adapter(
        LoraConfig(
            r=4,
            lora_alpha=6,
            target_modules=TARGETS[kind],
            init_lora_weights=False,
            rank_pattern=rank_pattern or {},
            use_rslora=rslora,
        )
    )
    generator = torch.Generator().manual_seed(2)
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data = torch.randn(p.shape, generator=generator) * 0.2
    return model.eval()


@KINDS
@pytest.mark.parametrize("rslora", [False, True])
def test_lora_export_and_back(tmp_path, kind, rslora):
    """Exported files hold no alpha and read back exactly, through us and through diffusers' own loader."""
    model = with_lora(kind, {"to_k": 2}, rslora)
    want, path = call(kind, model), tmp_path / "lora.safetensors"
    assert gap(call(kind, stock(kind)), want) > 0.05
    export_lora(model, kind, path, metadata={"recipe": "test"})
    keys = load_file(path).keys()
    prefix = "transformer." if kind == "flux" else "diffusion_model."
    assert all(k.startswith(prefix) and k.endswith((".lora_A.weight", ".lora_B.weight")) for k in keys)
    assert len(keys) == 2 * sum(hasattr(m, "lora_A") for m in model.modules())
    if kind == "wan":
        assert "diffusion_model.blocks.0.self_attn.q.lora_A.weight" in keys
        assert "diffusion_model.time_projection.1.lora_B.weight" in keys
    with safe_open(path, "pt") as file:
        assert file.metadata()["recipe"] == "test"
    base = write(tmp_path / "m.safetensors", kind, stock(kind))
    ours = load_transformer(kind, base, loras=[LoraSpec(path)])
    assert gap(call(kind, ours), want) < 1e-5
    theirs = stock(kind)
    pipeline = FluxPipeline if kind == "flux" else WanPipeline
    state = pipeline.lora_state_dict(str(path))
    state = state[0] if isinstance(state, tuple) else state
    alphas = {"network_alphas": None} if kind == "flux" else {}
    pipeline.load_lora_into_transformer(state, transformer=theirs, **alphas)
    assert gap(call(kind, theirs), want) < 1e-5
    with pytest.raises(InputError, match="must have an adapter other"):
        export_lora(model, kind, path, adapter="other")


def public_lora(kind, path, spelling):
    """The same LoRA as `with_lora(kind)`, spelled as another tool would: fused qkv where the public format fuses."""
    model = with_lora(kind)
    state = {}
    for name, layer in model.named_modules():
        if not hasattr(layer, "lora_A"):
            continue
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        entry = lora_table(kind).by_part(name)
        if spelling == "kohya":
            module = "lora_unet_" + (entry.public if len(entry.parts) == 1 else name).replace(".", "_")
            b = torch.cat(b.chunk(2)[::-1]) if entry.swapped else b
            state |= {f"{module}.lora_down.weight": a, f"{module}.lora_up.weight": b}
            state[f"{module}.alpha"] = torch.tensor(6.0)
        else:
            prefix = "" if spelling == "peft" else "transformer."
            state |= {f"{prefix}{name}.lora_A.default.weight": a, f"{prefix}{name}.lora_B.default.weight": b}
    alpha = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 6, "transformer.r": 4})}
    tensors = {k: v.detach().clone().contiguous() for k, v in state.items()}
    save_file(tensors, path, metadata={} if spelling == "kohya" else alpha)
    return call(kind, model)


@KINDS
@pytest.mark.parametrize("spelling", ["kohya", "peft", "diffusers"])
def test_lora_spellings(tmp_path, kind, spelling):
    want = public_lora(kind, tmp_path / "lora.safetensors", spelling)
    model = load_transformer(
        kind, write(tmp_path / "m.safetensors", kind, stock(kind)), loras=[LoraSpec(tmp_path / "lora.safetensors")]
    )
    assert gap(call(kind, model), want) < 1e-5


def test_lora_of_fused_matrices(tmp_path):
    """A LoRA on Flux's fused qkv (and linear1, and the swapped last modulation) equals the merged public weights."""
    model = stock("flux")
    public = to_public("flux", model.state_dict())
    generator = torch.Generator().manual_seed(3)
    lora, merged = {}, dict(public)
    for module in (
        "double_blocks.0.img_attn.qkv",
        "double_blocks.1.txt_attn.qkv",
        "single_blocks.2.linear1",
        "single_blocks.0.linear2",
        "final_layer.adaLN_modulation.1",
    ):
        rows, columns = public[module + ".weight"].shape
        a, b = torch.randn(3, columns, generator=generator) * 0.2, torch.randn(rows, 3, generator=generator) * 0.2
        lora |= {f"diffusion_model.{module}.lora_A.weight": a, f"diffusion_model.{module}.lora_B.weight": b}
        merged[module + ".weight"] = public[module + ".weight"] + 0.7 * b @ a
    save_file(lora, tmp_path / "lora.safetensors")
    save_file(merged, tmp_path / "merged.safetensors", metadata={"config": json.dumps(FLUX)})
    ours = load_transformer(
        "flux", write(tmp_path / "m.safetensors", "flux", model), loras=[LoraSpec(tmp_path / "lora.safetensors", 0.7)]
    )
    want = load_transformer("flux", tmp_path / "merged.safetensors")
    assert gap(call("flux", ours), call("flux", want)) < 1e-5
    assert gap(call("flux", model), call("flux", want)) > 0.05


def test_lora_differences_and_several_at_once(tmp_path):
    """Wan speed-up LoRAs carry bias and norm differences beside A and B; two adapters add up at their strengths."""
    model = stock("wan")
    public = to_public("wan", model.state_dict())
    torch.manual_seed(4)
    key = "diffusion_model.blocks.0.ffn.0."
    a1, b1, a2, b2 = torch.randn(2, 48), torch.randn(64, 2), torch.randn(1, 48), torch.randn(64, 1)
    bias, gain = torch.randn(64), torch.randn(48)
    first = {
        f"{key}lora_down.weight": a1,
        f"{key}lora_up.weight": b1,
        f"{key}diff_b": bias,
        "diffusion_model.blocks.1.norm3.diff": gain,
        "diffusion_model.blocks.7.ffn.0.diff_b": torch.zeros(64),
    }
    save_file(first, tmp_path / "a.safetensors")
    save_file({f"{key}lora_A.weight": a2, f"{key}lora_B.weight": b2}, tmp_path / "b.safetensors")
    w = dict(public)
    w["blocks.0.ffn.0.weight"] = public["blocks.0.ffn.0.weight"] + 0.5 * b1 @ a1 - 0.25 * b2 @ a2
    w["blocks.0.ffn.0.bias"] = public["blocks.0.ffn.0.bias"] + 0.5 * bias
    w["blocks.1.norm3.weight"] = public["blocks.1.norm3.weight"] + 0.5 * gain
    save_file(w, tmp_path / "merged.safetensors")
    base = write(tmp_path / "m.safetensors", "wan", model)
    loras = [LoraSpec(tmp_path / "a.safetensors", 0.5), LoraSpec(tmp_path / "b.safetensors", -0.25, "second")]
    ours = load_transformer("wan", base, loras=loras)
    assert gap(call("wan", ours), call("wan", load_transformer("wan", tmp_path / "merged.safetensors", WAN))) < 1e-5
    assert set(ours.peft_config) == {"lora0", "second"}
    again = parse_lora(ours, "wan", read_checkpoint(tmp_path / "a.safetensors"))
    assert again.unused == ["diffusion_model.blocks.7.ffn.0.diff_b"]
    with pytest.raises(InputError, match="adapter names must differ"):
        load_lora(ours, "wan", LoraSpec(tmp_path / "a.safetensors", name="second"))


@KINDS
def test_lora_with_fp8_and_offload(tmp_path, kind):
    """Adapters stay in full precision beside fp8 weights, from full-precision and from fp8 files, offloaded or not."""
    public_lora(kind, tmp_path / "lora.safetensors", "kohya")
    loras = [LoraSpec(tmp_path / "lora.safetensors")]
    path = write(tmp_path / "m.safetensors", kind, stock(kind))
    full = call(kind, load_transformer(kind, path, loras=loras))
    plain8 = write(tmp_path / "m8.safetensors", kind, stock(kind), convert=lambda t: t.to(torch.float8_e4m3fn).float())
    kept8 = write(tmp_path / "k8.safetensors", kind, stock(kind), convert=lambda t: t.to(torch.float8_e4m3fn))
    want = call(kind, load_transformer(kind, plain8, loras=loras))
    for file in (plain8, kept8):
        model = load_transformer(kind, file, loras=loras, fp8=True)
        layer = (model.single_transformer_blocks[0].attn if kind == "flux" else model.blocks[0].attn1).to_q
        assert layer.base_layer.weight.dtype == torch.float8_e4m3fn
        assert layer.lora_A["lora0"].weight.dtype == torch.float32
        assert gap(call(kind, model), want) < 1e-5
    assert gap(want, full) < 0.3
    (tmp_path / "disk").mkdir()
    model = load_transformer(kind, plain8, loras=loras, fp8=True, offload=Offload("leaf", folder=tmp_path / "disk"))
    assert gap(call(kind, model), want) < 1e-5


def test_lora_files_that_do_not_fit(tmp_path):
    model = stock("wan")
    path = tmp_path / "lora.safetensors"
    key = "diffusion_model.blocks.0.ffn.0."
    a, b = torch.zeros(2, 48), torch.zeros(64, 2)
    cases = [
        ({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": a}, "must hold a LoRA for wan"),
        ({key + "lora_A.weight": a}, "every LoRA pair must be whole"),
        ({key + "lora_A.weight": torch.zeros(2, 47), key + "lora_B.weight": b}, r"A \[r, 48\]"),
        ({key + "lora_A.weight": a, key + "lora_B.weight": torch.zeros(63, 2)}, "64 output rows"),
        ({key + "lora_A.weight": a, key + "lora_B.weight": b * float("nan")}, "finite"),
        ({key + "lora_A.weight": a, key + "lora_B.weight": b, key + "dora_scale": b.clone()}, "dora_scale"),
        ({key + "lokr_w1": a}, "lokr_w2"),
        ({key + "diff_b": torch.zeros(3)}, "output rows"),
    ]
    for state, message in cases:
        save_file(state, path)
        with pytest.raises(InputError, match=message):
            load_lora(model, "wan", LoraSpec(path))
    assert not getattr(model, "peft_config", None)
    with pytest.raises(InputError, match="lora: file must exist"):
        load_lora(model, "wan", LoraSpec(tmp_path / "none.safetensors"))
