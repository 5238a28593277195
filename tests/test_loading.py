"""Checkpoints as people have them: names, precisions, folders, fp8, offloading, and files that must be refused."""

import gc
import json
import pickle

import pytest
import torch
from diffusers import (
    FluxTransformer2DModel,
    WanTransformer3DModel,
)
from safetensors.torch import save_file
from tiny_weights import gap, strong

from anchorshot.core.errors import InputError
from anchorshot.models.backbones import find_backbone
from anchorshot.models.io import loading
from anchorshot.models.io.checkpoint import Checkpoint, dequantise, read_checkpoint, read_config
from anchorshot.models.io.keymaps import to_public
from anchorshot.models.io.loading import Offload, load_transformer

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


def write(path, kind, model, prefix="", convert=lambda t: t, metadata=True):
    state = {prefix + k: convert(v).contiguous() for k, v in to_public(kind, model.state_dict()).items()}
    save_file(state, path, metadata={"config": json.dumps(CONFIGS[kind])} if metadata else None)
    return path


def adopted(kind):
    if kind == "flux":
        from anchorshot.models.backbones.flux.headless import CaptainFlux as cls
    else:
        from anchorshot.models.backbones.wan.headless import DirectorWan as cls
    return cls


KINDS = pytest.mark.parametrize("kind", ["flux", "wan"])


@KINDS
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_single_file_in_public_names(tmp_path, kind, prefix):
    model = stock(kind)
    loaded = load_transformer(kind, write(tmp_path / "m.safetensors", kind, model, prefix))
    assert isinstance(loaded, adopted(kind)) and not loaded.training
    assert torch.equal(call(kind, loaded), call(kind, model))
    assert not any(p.requires_grad for p in loaded.parameters())


@KINDS
def test_diffusers_folder_pipeline_folder_and_shards(tmp_path, kind):
    model = stock(kind)
    model.save_pretrained(tmp_path / "whole" / "transformer")
    model.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for folder in ("whole", "whole/transformer", "shards"):
        assert torch.equal(call(kind, load_transformer(kind, tmp_path / folder)), call(kind, model)), folder
    next((tmp_path / "shards").glob("*-of-*.safetensors")).unlink()
    with pytest.raises(InputError, match="all parts named in"):
        load_transformer(kind, tmp_path / "shards")


@KINDS
def test_config_explicit_or_from_metadata(tmp_path, kind):
    model = stock(kind)
    path = write(tmp_path / "m.safetensors", kind, model, metadata=False)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "x", **CONFIGS[kind]}))
    for config in (CONFIGS[kind], tmp_path / "config.json", tmp_path):
        assert torch.equal(call(kind, load_transformer(kind, path, config)), call(kind, model))
    with pytest.raises(InputError, match="config"):
        load_transformer(kind, path)  # a head size that shapes do not tell
    with pytest.raises(InputError, match="arguments of .* only.*flavour"):
        load_transformer(kind, path, {**CONFIGS[kind], "flavour": 1})
    with pytest.raises(InputError, match="the config must describe the file's own depth"):
        load_transformer(kind, path, {**CONFIGS[kind], "num_layers": 5})
    with pytest.raises(InputError, match="must have shape"):
        load_transformer(kind, path, {**CONFIGS[kind], "num_attention_heads": 4})
    with pytest.raises(InputError, match="config.num_attention_heads: must be a whole number"):
        load_transformer(kind, path, {**CONFIGS[kind], "num_attention_heads": "many"})
    with pytest.raises(InputError, match="config: file must exist"):
        load_transformer(kind, path, tmp_path / "none.json")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_sensitive_layers_in_fp32(tmp_path, dtype):
    model = stock("wan")
    path = write(tmp_path / "m.safetensors", "wan", model, convert=lambda t: t.to(dtype))
    half = load_transformer("wan", path, dtype=dtype)
    assert half.blocks[0].attn1.to_q.weight.dtype == dtype
    assert half.scale_shift_table.dtype == half.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
    assert gap(call("wan", half, dtype), call("wan", model)) < 0.1
    assert load_transformer("wan", path).dtype == torch.float32


def fp8(tensor):
    return tensor.to(torch.float8_e4m3fn) if tensor.ndim == 2 else tensor


@KINDS
def test_plain_fp8_file(tmp_path, kind):
    """Plain fp8 (no scales): read as is; with fp8=True the blocks' weights stay fp8 and are cast layer by layer."""
    model = stock(kind)
    path = write(tmp_path / "m.safetensors", kind, model, convert=fp8)
    rounded = stock(kind)
    rounded.load_state_dict({k: fp8(v).float() for k, v in model.state_dict().items()})
    plain, cast = load_transformer(kind, path), load_transformer(kind, path, fp8=True)
    assert all(p.dtype == torch.float32 for p in plain.parameters())
    assert gap(call(kind, plain), call(kind, rounded)) < 1e-5
    assert gap(call(kind, cast), call(kind, rounded)) < 0.2  # biases of cast layers are fp8 too
    blocks = cast.single_transformer_blocks if kind == "flux" else cast.blocks
    first = blocks[0].attn if kind == "flux" else blocks[0].attn1
    assert first.to_q.weight.dtype == torch.float8_e4m3fn
    sensitive = blocks[0].norm.linear if kind == "flux" else cast.condition_embedder.time_proj
    assert sensitive.weight.dtype == torch.float32


@KINDS
def test_fp8_casting_of_a_full_precision_file(tmp_path, kind):
    model = stock(kind)
    path = write(tmp_path / "m.safetensors", kind, model)
    cast = load_transformer(kind, path, fp8=True)
    want = stock(kind)
    names = loading._layerwise_fp8(loading._build(find_backbone(kind), CONFIGS[kind]), torch.float32)
    assert 20 < len(names) < len(dict(want.named_parameters()))
    state = model.state_dict()
    want.load_state_dict(state | {k: state[k].to(torch.float8_e4m3fn).float() for k in names})
    assert gap(call(kind, cast), call(kind, want)) < 1e-5


def scaled(state, style, per_row=False):
    """ComfyUI's scaled fp8, in its older (`scale_weight`) and newer (`weight_scale`, `comfy_quant`) spelling."""
    out = {}
    for key, value in state.items():
        if value.ndim != 2 or "_in." in key or "embedding" in key:
            out[key] = value
            continue
        top = value.abs().amax(1) if per_row else value.abs().amax()
        scale = top / 448
        out[key] = (value / (scale[:, None] if per_row else scale)).to(torch.float8_e4m3fn)
        layer = key.removesuffix(".weight")
        if style == "old":
            out[layer + ".scale_weight"] = scale
            out["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
        else:
            out[layer + ".weight_scale"] = scale
            out[layer + ".input_scale"] = torch.tensor(1.0)
            out[layer + ".comfy_quant"] = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    return out


@KINDS
@pytest.mark.parametrize("style, per_row", [("old", False), ("new", False), ("new", True)])
def test_comfyui_scaled_fp8(tmp_path, kind, style, per_row):
    model = stock(kind)
    large = {k: v * (20 if v.ndim == 2 else 1) for k, v in model.state_dict().items()}
    state = scaled(to_public(kind, large), style, per_row)
    save_file(
        {"model.diffusion_model." + k: v for k, v in state.items()},
        tmp_path / "m.safetensors",
        metadata={"config": json.dumps(CONFIGS[kind])},
    )
    loaded = load_transformer(kind, tmp_path / "m.safetensors")
    for name, parameter in loaded.named_parameters():
        want = large[name]
        # e4m3 has 3 bits of mantissa: half a step is 1/16 of the value; below 2^-6 of the scale steps are even.
        limit = want.abs() / 16 + want.abs().max() / 448 / 2**9 * 1.01 + 1e-7
        assert ((parameter - want).abs() <= limit).all(), name
        assert gap(parameter, want) < 0.07


def test_quantised_files_that_are_not_fp8_are_refused(tmp_path):
    base = to_public("wan", stock("wan").state_dict())
    key = "blocks.0.ffn.0"
    int8 = {**base, f"{key}.weight": torch.zeros(64, 48, dtype=torch.int8)}
    nf4 = {**base, f"{key}.weight.absmax": torch.ones(4)}
    mark = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
    nvfp4 = {**base, f"{key}.comfy_quant": mark}
    small = base[f"{key}.weight"].to(torch.float8_e4m3fn)
    blocks = {**base, f"{key}.weight": small, f"{key}.weight_scale": torch.ones(7)}
    for state, word in ((int8, "floating point"), (nf4, "absmax"), (nvfp4, "nvfp4"), (blocks, "per tensor or per row")):
        save_file(state, tmp_path / "m.safetensors")
        with pytest.raises(InputError, match=word) as error:
            load_transformer("wan", tmp_path / "m.safetensors", WAN)
        assert key in str(error.value)
    with pytest.raises(InputError, match="mxfp8"):
        dequantise(Checkpoint({}, {"_quantization_metadata": '{"layers": {"a": {"format": "mxfp8"}}}'}), torch.float32)


@KINDS
def test_wrong_kind_of_model_is_named(tmp_path, kind):
    other = "wan" if kind == "flux" else "flux"
    path = write(tmp_path / "m.safetensors", other, stock(other))
    with pytest.raises(InputError, match=f"must hold a {kind.title()} transformer.*a {other.title()} transformer"):
        load_transformer(kind, path)
    save_file({"conditioner.embedders.0.weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="conditioner.embedders.0.weight"):
        load_transformer(kind, path)
    with pytest.raises(InputError, match="must be flux, wan, mochi or qwen_image"):
        load_transformer("sdxl", path)


def test_broken_files_are_named(tmp_path):
    path = write(tmp_path / "m.safetensors", "wan", stock("wan"))
    good = path.read_bytes()

    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was run",))

    cases = {
        "truncated.safetensors": (good[:-100], "whole and valid"),
        "head.safetensors": (good[:20], "whole and valid"),
        "empty.safetensors": (b"", "whole and valid"),
        "flipped.safetensors": (b"{" * 64 + good[64:], "whole and valid"),
        "pickle.safetensors": (pickle.dumps(Evil()), "a pickle"),
        "model.gguf": (b"GGUF" + good, "must be a safetensors file"),
        "renamed.safetensors": (b"GGUF" + good, "a GGUF file"),
        "pointer.safetensors": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        **{f"model{s}": (pickle.dumps(Evil()), "pickles can run code") for s in (".pt", ".ckpt", ".bin", ".PTH")},
    }
    for name, (data, message) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=message) as error:
            load_transformer("wan", tmp_path / name, WAN)
        assert name in str(error.value) and "\n" not in str(error.value)
    torch.save({"a": torch.zeros(1)}, tmp_path / "zip.safetensors")
    with pytest.raises(InputError, match="a pickle"):
        read_checkpoint(tmp_path / "zip.safetensors")
    with pytest.raises(InputError, match="file must exist.*nowhere"):
        load_transformer("wan", tmp_path / "nowhere.safetensors")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder must hold safetensors"):
        load_transformer("wan", tmp_path / "folder")
    (tmp_path / "folder" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="pickles can run code"):
        load_transformer("wan", tmp_path / "folder")
    (tmp_path / "config.json").write_text("[1, 2")
    with pytest.raises(InputError, match="not valid JSON"):
        read_config(tmp_path / "config.json")


def test_an_index_does_not_lead_out_of_its_folder(tmp_path):
    write(tmp_path / "secret.safetensors", "wan", stock("wan"))
    (tmp_path / "m").mkdir()
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (tmp_path / "m" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="in its own folder"):
        load_transformer("wan", tmp_path / "m", WAN)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("store", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_weights_that_are_not_finite_are_named(tmp_path, value, store):
    state = to_public("wan", stock("wan").state_dict())
    state["blocks.1.ffn.2.weight"][3, 5] = value
    state["blocks.1.ffn.2.weight"] = state["blocks.1.ffn.2.weight"].to(store)
    save_file(state, tmp_path / "m.safetensors")
    for fp8_casting in (False, True):
        if store == torch.float8_e4m3fn and value == float("inf"):
            continue  # e4m3 has no infinity: the cast above saturated or made it NaN
        with pytest.raises(InputError, match=r"finite.*blocks\.1\.ffn\.net\.2\.weight"):
            load_transformer("wan", tmp_path / "m.safetensors", WAN, fp8=fp8_casting)


def test_missing_and_surplus_tensors_are_named(tmp_path):
    state = to_public("wan", stock("wan").state_dict())
    gone = {k: v for k, v in state.items() if k != "blocks.1.self_attn.k.bias"}
    save_file(gone, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"complete.*no blocks\.1\.attn1\.to_k\.bias"):
        load_transformer("wan", tmp_path / "m.safetensors", WAN)
    save_file({**state, "blocks.0.vace.weight": torch.zeros(1)}, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"blocks\.0\.vace\.weight"):
        load_transformer("wan", tmp_path / "m.safetensors", WAN)


@pytest.mark.parametrize(
    "kind, key",
    [
        ("flux", "img_in.weight"),
        ("flux", "single_blocks.0.linear1.weight"),
        ("flux", "final_layer.adaLN_modulation.1.bias"),
        ("flux", "single_blocks.1.norm.key_norm.scale"),
        ("wan", "patch_embedding.weight"),
        ("wan", "head.modulation"),
    ],
)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (0, 4)])
def test_impossible_shapes_are_named(tmp_path, kind, key, shape):
    """Right names, wrong shapes: the file's fault, with and without a config, wherever the arithmetic stops."""
    save_file({**to_public(kind, stock(kind).state_dict()), key: torch.zeros(shape)}, tmp_path / "m.safetensors")
    for config in (None, CONFIGS[kind]):
        with pytest.raises(InputError):
            load_transformer(kind, tmp_path / "m.safetensors", config)


@KINDS
@pytest.mark.parametrize("level", ["block", "leaf"])
@pytest.mark.parametrize("fp8_casting", [False, True])
def test_group_offload(tmp_path, kind, level, fp8_casting):
    """Weights wait on disk; the output does not change."""
    path = write(tmp_path / "m.safetensors", kind, stock(kind))
    want = call(kind, load_transformer(kind, path, fp8=fp8_casting))
    folder = tmp_path / "waiting"
    model = load_transformer(kind, path, fp8=fp8_casting, offload=Offload(level, folder=folder))
    assert len(list(folder.glob("*/*.safetensors"))) >= (3 if level == "block" else 20)
    assert gap(call(kind, model), want) < 1e-5
    # Another model in the same folder must not find the first one's files; a model takes its files with it.
    second = write(tmp_path / "o.safetensors", kind, stock(kind, 5))
    other = load_transformer(kind, second, offload=Offload(level, folder=folder))
    assert gap(call(kind, other), call(kind, load_transformer(kind, second))) < 1e-5
    del model, other
    gc.collect()
    assert not list(folder.iterdir())


@KINDS
def test_compiled_blocks(tmp_path, kind):
    """Every repeated block is compiled, in place: names of parameters stay."""
    path = write(tmp_path / "m.safetensors", kind, stock(kind))
    model = load_transformer(kind, path, compile=True)
    compiled = [name for name, m in model.named_modules() if m._compiled_call_impl is not None]
    stacks = ("transformer_blocks", "single_transformer_blocks") if kind == "flux" else ("blocks",)
    assert compiled == [f"{s}.{i}" for s in stacks for i in range(len(getattr(model, s)))]
    assert model.state_dict().keys() == stock(kind).state_dict().keys()


def test_compiled_blocks_compute_the_same(tmp_path):
    """dynamo's eager backend keeps the test free of a C compiler."""
    model = load_transformer("wan", write(tmp_path / "m.safetensors", "wan", stock("wan")))
    want = call("wan", model)
    loading.compile_blocks(model, backend="eager")
    assert gap(call("wan", model), want) < 1e-5


def test_meta_sizes_of_published_checkpoints():
    """The published sizes build without memory: what `load_transformer` makes before it fills in tensors."""
    for kind, config, parameters in (
        ("flux", dict(guidance_embeds=True), 11.9e9),
        ("wan", dict(), 14.3e9),
        ("wan", dict(num_attention_heads=24, num_layers=30, ffn_dim=14336, in_channels=48, out_channels=48), 5.0e9),
    ):
        model = loading._build(find_backbone(kind), config)
        assert all(p.is_meta for p in model.parameters())
        assert not any(b.is_meta for b in model.buffers())
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.01)


@pytest.mark.cuda
@KINDS
def test_on_a_gpu(tmp_path, kind):
    path = write(tmp_path / "m.safetensors", kind, stock(kind))
    want = call(kind, load_transformer(kind, path, dtype=torch.bfloat16), torch.bfloat16)
    block = Offload("block")
    leaf = Offload("leaf")
    for options in ({}, {"offload": block}, {"offload": leaf}, {"fp8": True}, {"fp8": True, "offload": block}):
        model = load_transformer(kind, path, dtype=torch.bfloat16, device="cuda", **options)
        assert gap(call(kind, model, torch.bfloat16, "cuda").cpu(), want) < (0.4 if "fp8" in options else 0.1)
