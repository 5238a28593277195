"""LoRAs as tools write them: each kind equals its difference merged into the weights; what is left out is named."""

import json
import logging

import pytest
import torch
from safetensors.torch import save_file
from test_lora import CONFIGS, FLUX, call, gap, stock, write

from anchorshot.core.errors import InputError
from anchorshot.models.io.checkpoint import Checkpoint
from anchorshot.models.io.keymaps import to_public
from anchorshot.models.io.loading import load_transformer
from anchorshot.models.io.lora import LoraSpec, load_lora, parse_lora

STRENGTH = 0.5


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + seed)) * 0.3


def pair(rows, columns, r=2):
    return randn(r, columns), randn(rows, r, seed=1)


def wan_table():
    """A block's modulation table, in both of its spellings, and the head's."""
    one, two, head = randn(1, 6, 48), randn(1, 6, 48, seed=1), randn(1, 2, 48)
    lora = {"blocks.0.diff_m": one, "blocks.1.modulation.diff": two, "head.modulation.diff": head}
    return lora, {"blocks.0.modulation": one, "blocks.1.modulation": two, "head.modulation": head}


def wan_convolution():
    down, up = randn(2, 4, 1, 2, 2), randn(48, 2, 1, 1, 1)
    alpha = torch.tensor(6.0)
    delta = torch.einsum("or,rithw->oithw", up[:, :, 0, 0, 0], down) * 3
    name = "patch_embedding"
    lora = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": alpha}
    return lora, {f"{name}.weight": delta}


def wan_core():
    """LoCon's third matrix, in the middle."""
    down, core, up = randn(3, 4, 1, 1, 1), randn(2, 3, 1, 2, 2), randn(48, 2, 1, 1, 1)
    delta = torch.einsum("or,rsthw,si->oithw", up[:, :, 0, 0, 0], core, down[:, :, 0, 0, 0])
    names = {"lora_down": down, "lora_mid": core, "lora_up": up}
    return {f"patch_embedding.{k}.weight": v for k, v in names.items()}, {"patch_embedding.weight": delta}


def hada(shape, r=2):
    """LoHa's four matrices and what they make."""
    parts = {
        f"hada_w{n}_{s}": randn(*(r, shape[0])[::-1] if s == "a" else (r, shape[1]), seed=n)
        for n in (1, 2)
        for s in "ab"
    }
    delta = (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    return parts, delta


def wan_hadamard():
    linear, delta = hada((64, 48))
    conv, folded = hada((48, 16))
    lora = {f"blocks.0.ffn.0.{k}": v for k, v in linear.items()} | {"blocks.0.ffn.0.alpha": torch.tensor(4)}
    lora |= {f"patch_embedding.{k}": v for k, v in conv.items()}
    return lora, {"blocks.0.ffn.0.weight": 2 * delta, "patch_embedding.weight": folded.reshape(48, 4, 1, 2, 2)}


def wan_kronecker():
    w1, w2, a, b = randn(8, 4), randn(8, 12), randn(8, 2), randn(2, 12, seed=2)
    c1, c2 = randn(6, 2), randn(8, 2, 1, 2, 2)
    lora = {
        "blocks.0.ffn.0.lokr_w1": w1, "blocks.0.ffn.0.lokr_w2": w2, "blocks.0.ffn.0.alpha": torch.tensor(1e4),
        "blocks.1.ffn.0.lokr_w1": w1, "blocks.1.ffn.0.lokr_w2_a": a, "blocks.1.ffn.0.lokr_w2_b": b,
        "blocks.1.ffn.0.alpha": torch.tensor(1.0), "patch_embedding.lokr_w1": c1, "patch_embedding.lokr_w2": c2,
    }  # fmt: skip
    conv = torch.einsum("ab,cdthw->acbdthw", c1, c2).reshape(48, 4, 1, 2, 2)
    return lora, {
        "blocks.0.ffn.0.weight": torch.einsum("ab,cd->acbd", w1, w2).reshape(64, 48),  # alpha counts for products only
        "blocks.1.ffn.0.weight": torch.einsum("ab,cd->acbd", w1, a @ b).reshape(64, 48) / 2,
        "patch_embedding.weight": conv,
    }


def wan_norms():
    gain, bias = randn(48), randn(48, seed=1)
    lora = {"blocks.0.norm3.w_norm": gain, "blocks.0.norm3.b_norm": bias, "blocks.1.self_attn.norm_q.diff": gain}
    deltas = {"blocks.0.norm3.weight": gain, "blocks.0.norm3.bias": bias, "blocks.1.self_attn.norm_q.weight": gain}
    return lora, deltas


def flux_bias():
    """peft scales the bias of B as it scales B."""
    a, b = pair(128, 32)
    bias, name = randn(128), "double_blocks.0.img_mlp.0"
    lora = {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b, f"{name}.lora_B.bias": bias}
    return lora | {f"{name}.alpha": torch.tensor(1.0)}, {f"{name}.weight": b @ a / 2, f"{name}.bias": bias / 2}


def flux_xlabs():
    lora, deltas = {}, {}
    for module, spelled, rows, columns in (
        ("double_blocks.0.img_attn.qkv", "double_blocks.0.processor.qkv_lora1", 96, 32),
        ("double_blocks.0.txt_attn.qkv", "double_blocks.0.processor.qkv_lora2", 96, 32),
        ("double_blocks.1.img_attn.proj", "double_blocks.1.processor.proj_lora1", 32, 32),
        ("double_blocks.1.txt_attn.proj", "double_blocks.1.processor.proj_lora2", 32, 32),
        ("single_blocks.2.linear2", "single_blocks.2.processor.proj_lora", 32, 160),
        ("single_blocks.1.linear1", "single_blocks.1.processor.qkv_lora", 96, 32),
    ):
        a, b = pair(rows, columns)
        lora |= {f"{spelled}.down.weight": a, f"{spelled}.up.weight": b}
        delta = b @ a
        # qkv stands above the MLP's rows of linear1
        deltas[f"{module}.weight"] = torch.cat([delta, torch.zeros(128, 32)]) if "linear1" in module else delta
    return lora, deltas


def flux_fused_variants():
    """LoKr on a fused matrix, LoHa on one whose halves lie in another order in diffusers."""
    w1, w2 = randn(12, 4), randn(8, 8)
    parts, delta = hada((64, 32))
    lora = {"double_blocks.0.img_attn.qkv.lokr_w1": w1, "double_blocks.0.img_attn.qkv.lokr_w2": w2}
    lora |= {f"final_layer.adaLN_modulation.1.{k}": v for k, v in parts.items()}
    qkv = torch.einsum("ab,cd->acbd", w1, w2).reshape(96, 32)
    return lora, {"double_blocks.0.img_attn.qkv.weight": qkv, "final_layer.adaLN_modulation.1.weight": delta}


def spelled(form):
    def make():
        a, b = pair(96, 32)
        return {form.format("A"): a, form.format("B"): b}, {"double_blocks.0.img_attn.qkv.weight": b @ a}

    make.__name__ = form
    return make


def split_spelling(prefix, dots):
    """diffusers names: the feed-forward layer, which both formats have alone."""

    def make():
        a, b = pair(128, 32)
        name = "transformer_blocks.0.ff.net.0.proj"
        name = prefix + (name if dots else name.replace(".", "_"))
        return {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}, {"double_blocks.0.img_mlp.0.weight": b @ a}

    make.__name__ = prefix
    return make


def wan_diffsynth():
    a, b = pair(64, 48)
    name = "pipe.dit.blocks.0.ffn.0"
    return {f"{name}.lora_A.default.weight": a, f"{name}.lora_B.default.weight": b}, {"blocks.0.ffn.0.weight": b @ a}


def attention_output():
    """Old diffusers processors name neither the list nor its place."""
    a, b = pair(32, 32)
    name = "unet.transformer_blocks.1.attn.processor.to_out_lora"
    return {f"{name}.down.weight": a, f"{name}.up.weight": b}, {"double_blocks.1.img_attn.proj.weight": b @ a}


WAN_CASES = [
    wan_table, wan_convolution, wan_core, wan_hadamard, wan_kronecker, wan_norms, wan_diffsynth,
]  # fmt: skip
FLUX_CASES = [
    flux_bias, flux_xlabs, flux_fused_variants, attention_output,
    spelled("base_model.model.double_blocks.0.img_attn.qkv.lora_{}.weight"),
    spelled("base_model.model.diffusion_model.double_blocks.0.img_attn.qkv.lora_{}.default.weight"),
    spelled("unet.double_blocks.0.img_attn.qkv.lora_{}"),
    spelled("lycoris_double_blocks_0_img_attn_qkv.lora_{}.weight"),
    split_spelling("lycoris_", False), split_spelling("lora_transformer_", False), split_spelling("transformer.", True),
]  # fmt: skip


@pytest.mark.parametrize(
    "kind, make",
    [("wan", m) for m in WAN_CASES] + [("flux", m) for m in FLUX_CASES],
    ids=[m.__name__ for m in WAN_CASES + FLUX_CASES],
)
def test_equals_its_difference_merged(tmp_path, kind, make, caplog):
    lora, deltas = make()
    if kind == "wan" and not any(key.startswith("pipe.") for key in lora):
        lora = {f"diffusion_model.{key}": value for key, value in lora.items()}
    base = stock(kind)
    merged = to_public(kind, base.state_dict())
    for key, delta in deltas.items():
        assert merged[key].shape == delta.shape
        merged[key] = merged[key] + STRENGTH * delta
    save_file(
        {k: v.clone(memory_format=torch.contiguous_format) for k, v in lora.items()}, tmp_path / "lora.safetensors"
    )
    save_file(merged, tmp_path / "merged.safetensors", metadata={"config": json.dumps(CONFIGS[kind])})
    with caplog.at_level(logging.WARNING, "anchorshot"):
        load_lora(base, kind, LoraSpec(tmp_path / "lora.safetensors", STRENGTH))
    assert not caplog.records
    want = call(kind, load_transformer(kind, tmp_path / "merged.safetensors"))
    assert gap(call(kind, base), want) < 1e-5
    assert gap(call(kind, stock(kind)), want) > 1e-3


def test_what_is_not_applied_is_named_with_counts(tmp_path, caplog):
    a, b = pair(64, 48)
    lora = {
        "diffusion_model.blocks.0.ffn.0.lora_A.weight": a, "diffusion_model.blocks.0.ffn.0.lora_B.weight": b,
        "diffusion_model.blocks.7.ffn.0.lora_A.weight": a.clone(),
        "diffusion_model.blocks.7.ffn.0.lora_B.weight": b.clone(),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": b.clone(), "blocks.0.ffn.0.secret": a.clone(),
    }  # fmt: skip
    save_file(lora, tmp_path / "half.safetensors")
    with caplog.at_level(logging.WARNING, "anchorshot"):
        load_lora(stock("wan"), "wan", LoraSpec(tmp_path / "half.safetensors"))
    (record,) = caplog.records
    line = record.getMessage()
    assert line.startswith("half.safetensors: 2 of 6 tensors are applied") and "\n" not in line
    assert "2 of modules that this model does not have (diffusion_model.blocks.7" in line
    assert "1 of a text encoder (lora_te1_" in line and "1 in a form that is not read (blocks.0.ffn.0.secret)" in line


@pytest.mark.parametrize("place", ["metadata", "beside"])
def test_alpha_outside_the_tensors_counts_and_is_pointed_out(tmp_path, caplog, place):
    a, b = pair(64, 48)
    name = "blocks.0.ffn.0"
    tensors = {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    if place == "metadata":
        path = tmp_path / "lora.safetensors"
        save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 8})})
    else:
        path = tmp_path / "adapter_model.safetensors"
        save_file({f"base_model.model.{k}": v for k, v in tensors.items()}, path)
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 8, "r": 2}))
    model = stock("wan")
    with caplog.at_level(logging.WARNING, "anchorshot"):
        load_lora(model, "wan", LoraSpec(path))
    assert "alpha/r = 4" in caplog.text and "ComfyUI" in caplog.text
    weight = model.get_submodule("blocks.0.ffn.net.0.proj").lora_B["lora0"].weight
    assert torch.allclose(weight, 4 * b)


def test_lora_on_fp8_weights_adds_in_full_precision(tmp_path):
    """A merged difference is rounded once, with the sum; fp8 itself cannot add."""
    w1, w2 = randn(8, 4), randn(8, 12)
    save_file({"blocks.0.ffn.0.lokr_w1": w1, "blocks.0.ffn.0.lokr_w2": w2}, tmp_path / "lora.safetensors")
    path = write(tmp_path / "m.safetensors", "wan", stock("wan"), convert=lambda t: t.to(torch.float8_e4m3fn))
    model = load_transformer("wan", path, fp8=True, loras=[LoraSpec(tmp_path / "lora.safetensors")])
    name = "blocks.0.ffn.net.0.proj.weight"
    got = model.get_parameter(name)
    want = stock("wan").get_parameter(name).to(torch.float8_e4m3fn).float() + torch.kron(w1, w2)
    assert got.dtype == torch.float8_e4m3fn
    assert ((got.float() - want).abs() <= want.abs() / 16 + 2**-9).all()  # half a step of e4m3


def on(name, a=(2, 16), b=(32, 2), **more):
    """A pair of these shapes, and what else the file says of the module."""
    tensors = {f"{name}.lora_A.weight": randn(*a), f"{name}.lora_B.weight": randn(*b)}
    return tensors | {f"{name}.{part}": value for part, value in more.items()}


LOHA = {"img_in.hada_w1_a": randn(32, 2), "img_in.hada_w1_b": randn(2, 16)}
QKV = on("double_blocks.0.img_attn.qkv", (2, 32), (96, 2))
REFUSED = {
    "control": ("img_in must take the model's own input channels", on("img_in", (2, 32))),
    "reshaped": ("control LoRAs", {"img_in.reshape_weight": torch.tensor([32, 32])}),
    "integers": ("floating point", on("img_in") | {"img_in.lora_A.weight": torch.zeros(2, 16, dtype=torch.int8)}),
    "dora": ("dora_scale", {"img_in.dora_scale": randn(32)}),
    "magnitude": ("lora_magnitude_vector", {"transformer.x_embedder.lora_magnitude_vector.weight": randn(32)}),
    "glora": ("a1.weight", {"img_in.a1.weight": randn(2, 2)}),
    "rank 0": (r"A \[r, 16\]", on("img_in", (0, 16), (32, 0))),
    "one number": (r"A \[r, 16\]", on("img_in", (), ())),
    "alpha vector": ("alpha must be one number", on("img_in", alpha=randn(3))),
    "alpha NaN": ("finite", on("img_in", alpha=torch.tensor(float("nan")))),
    "scalar difference": ("must have 32 output rows", {"img_in.diff": torch.tensor(1.0)}),
    "alpha alone": ("must be whole", {"img_in.alpha": torch.tensor(1.0)}),
    "bias alone": ("must be whole", {"img_in.lora_B.bias": randn(32)}),
    "half of LoHa": ("hada_w2_a", LOHA),
    "LoKr too large": (r"shape \(32, 16\)", {"img_in.lokr_w1": randn(999, 999), "img_in.lokr_w2": randn(999, 999)}),
    "LoKr transposed": (r"shape \(32, 16\)", {"img_in.lokr_w1": randn(4, 4), "img_in.lokr_w2": randn(4, 8)}),
    "twice": ("twice", on("img_in") | on("transformer.img_in")),
    "fused and split": ("twice", QKV | on("transformer_blocks.0.attn.to_q", (2, 32))),
}


@pytest.mark.parametrize("message, tensors", REFUSED.values(), ids=REFUSED)
def test_refused_by_name(message, tensors):
    with pytest.raises(InputError, match=message) as error:
        parse_lora(stock("flux"), "flux", Checkpoint(dict(tensors), source="lora.safetensors"))
    assert "\n" not in str(error.value)


METADATA = [
    '{"transformer.lora_alpha": "x"}',
    '{"lora_alpha": [1]}',
    '{"lora_alpha": 1e999}',
    '{"lora_alpha": true}',
    '{"lora_alpha": 1, "alpha_pattern": [1]}',
    '{"lora_alpha": 1, "alpha_pattern": {"a": "b"}}',
    "[1]",
    "{",
    "[" * 5000,
]


@pytest.mark.parametrize("metadata", METADATA, ids=[m[:40] for m in METADATA])
def test_metadata_is_checked_by_type(metadata):
    a, b = pair(32, 16)
    tensors = {"img_in.lora_A.weight": a, "img_in.lora_B.weight": b}
    checkpoint = Checkpoint(tensors, {"lora_adapter_metadata": metadata}, "lora.safetensors")
    with pytest.raises(InputError, match="lora_adapter_metadata"):
        parse_lora(stock("flux"), "flux", checkpoint)


def test_shapes_alone_tell_whether_a_lora_fits():
    """Without any value, as large files are looked at before a run."""
    lora, _ = flux_xlabs()
    model = stock("flux")
    empty = Checkpoint({key: value.to("meta") for key, value in lora.items()})
    assert parse_lora(model, "flux", empty).pairs.keys() == parse_lora(model, "flux", Checkpoint(lora)).pairs.keys()
    lora["double_blocks.0.processor.qkv_lora1.up.weight"] = torch.zeros(97, 2, device="meta")
    with pytest.raises(InputError, match="96 output rows"):
        parse_lora(model, "flux", Checkpoint(lora))
    assert FLUX["num_attention_heads"] * FLUX["attention_head_dim"] * 3 == 96
