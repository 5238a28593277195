"""One LoRA file for Qwen-Image and its Qwen2.5-VL, as published: kohya's names, branch numbers, both halves."""

import logging

import pytest
import torch
from diffusers import QwenImagePipeline
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from anchorshot.core.errors import InputError
from anchorshot.models.backbones.qwen_image.headless import PairQwen
from anchorshot.models.encoders.qwen_vl import QwenVLEncoder, load_qwen_vl
from anchorshot.models.io.checkpoint import Checkpoint
from anchorshot.models.io.lora import LoraSpec, export_lora, load_lora, read_lora
from anchorshot.models.io.lora_comfyui import for_comfyui
from tests.test_qwen_image import pair, run, stock, stock_run
from tests.test_qwen_vl import PROMPTING, PROMPTS
from tests.tiny_qwen import metadata, public_state, tiny_tokenizer, tiny_vl
from tests.tiny_weights import gap

RANK = 3
TEXT_SPELLINGS = {
    "published": ("lora_unet_model_language_model_layers_{}_{}", "_", ".lora_down.0.weight", ".lora_up.0.weight"),
    "kohya of one half": ("lora_te_layers_{}_{}", "_", ".lora_down.weight", ".lora_up.weight"),
    "kohya with the model": ("lora_te1_model_layers_{}_{}", "_", ".lora_down.weight", ".lora_up.weight"),
    "comfyui": ("text_encoders.qwen25_7b.transformer.model.layers.{}.{}", ".", ".lora_A.weight", ".lora_B.weight"),
    "comfyui, shorter": ("text_encoders.transformer.model.layers.{}.{}", ".", ".lora_A.weight", ".lora_B.weight"),
    "diffusers": ("text_encoder.model.language_model.layers.{}.{}", ".", ".lora_A.weight", ".lora_B.weight"),
    "peft": (
        "base_model.model.model.language_model.layers.{}.{}",
        ".",
        ".lora_A.default.weight",
        ".lora_B.default.weight",
    ),
}


def linears(model, where) -> dict[str, torch.nn.Linear]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and where in name and "_mod." not in name
    }


def differences(modules, seed=0) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return {
        name: (
            0.3 * torch.randn(RANK, m.in_features, generator=g),
            0.3 * torch.randn(m.out_features, RANK, generator=g),
        )
        for name, m in modules.items()
    }


def merged(model, pairs):
    with torch.no_grad():
        for name, (a, b) in pairs.items():
            model.get_submodule(name).weight += b @ a
    return model


def image_pairs():
    return differences(linears(stock(), "transformer_blocks."))


def text_pairs():
    return differences(linears(tiny_vl().model, "language_model.layers."), 1)


def published(spelling="published") -> dict[str, torch.Tensor]:
    """The key pattern of the published file, with alpha = rank."""
    out = {}
    for name, (a, b) in image_pairs().items():
        flat = "lora_unet_" + name.replace(".", "_")
        out |= {f"{flat}.lora_down.0.weight": a, f"{flat}.lora_up.0.weight": b}
        out |= {f"{flat}.alpha": torch.tensor(float(RANK))}
    form, joint, down, up = TEXT_SPELLINGS[spelling]
    for name, (a, b) in text_pairs().items():
        _, _, layer, module = name.split(".", 3)
        spelled = form.format(layer, module.replace(".", joint))
        out |= {spelled + down: a, spelled + up: b}
        if joint == "_":
            out |= {f"{spelled}.alpha": torch.tensor(float(RANK))}
    return out


def states(model) -> torch.Tensor:
    return QwenVLEncoder(model, tiny_tokenizer(), PROMPTING).encode(PROMPTS)[0]


@pytest.mark.parametrize("spelling", TEXT_SPELLINGS)
def test_both_halves_of_one_file_are_applied(tmp_path, caplog, spelling) -> None:
    path, wanted = tmp_path / "stage.safetensors", published(spelling)
    save_file(wanted, path)
    transformer, encoder = PairQwen.adopt(stock()), tiny_vl().model
    with caplog.at_level(logging.INFO):
        load_lora(transformer, "qwen_image", LoraSpec(path, both=True))
        load_lora(encoder, "qwen_vl", LoraSpec(path, both=True))
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    image = 3 * len(image_pairs())
    assert f"{image} of {len(wanted)} tensors for {len(image_pairs())} modules of the Qwen-Image model" in caplog.text
    rest = len(wanted) - image
    assert f"{rest} of {len(wanted)} tensors for {len(text_pairs())} modules of the Qwen2.5-VL model" in caplog.text
    assert gap(run(transformer, pair())[0], run(PairQwen.adopt(merged(stock(), image_pairs())), pair())[0]) < 1e-5
    assert gap(states(encoder), states(merged(tiny_vl().model, text_pairs()))) < 1e-5
    assert gap(states(encoder), states(tiny_vl().model)) > 1e-2


def test_what_is_for_the_other_model_is_named_unless_it_gets_it(tmp_path, caplog) -> None:
    path = tmp_path / "stage.safetensors"
    save_file({**published(), "lora_unet_some_thing.lora_down.0.weight": torch.zeros(1, 1)}, path)
    load_lora(stock(), "qwen_image", LoraSpec(path))
    assert f"{3 * len(text_pairs())} of a text encoder (lora_unet_model_language_model_layers_0" in caplog.text
    assert "1 of modules that this model does not have (lora_unet_some_thing" in caplog.text
    caplog.clear()
    load_lora(tiny_vl().model, "qwen_vl", LoraSpec(path))
    assert f"{3 * len(image_pairs()) + 1} of a transformer (lora_unet_some_thing" in caplog.text


def test_strength_scales_and_several_add_up(tmp_path) -> None:
    save_file(published(), tmp_path / "stage.safetensors")
    encoder = tiny_vl().model
    for strength in (0.25, 0.5):
        load_lora(encoder, "qwen_vl", LoraSpec(tmp_path / "stage.safetensors", strength, both=True))
    scaled = {name: (a, 0.75 * b) for name, (a, b) in text_pairs().items()}
    assert gap(states(encoder), states(merged(tiny_vl().model, scaled))) < 1e-5
    assert not any(p.requires_grad for p in encoder.parameters())


def test_branches_add_up_each_at_its_own_rank(tmp_path) -> None:
    """alpha holds for every branch and is divided by the branch's rank."""
    state, name = published(), "lora_unet_transformer_blocks_1_img_mlp_net_2"
    a, b = state[f"{name}.lora_down.0.weight"], state[f"{name}.lora_up.0.weight"]
    state[f"{name}.lora_down.1.weight"] = torch.cat([a, a]) / 4
    state[f"{name}.lora_up.1.weight"] = torch.cat([b, b], 1) * 4
    save_file(state, tmp_path / "stage.safetensors")
    model = PairQwen.adopt(stock())
    load_lora(model, "qwen_image", LoraSpec(tmp_path / "stage.safetensors", both=True))
    wanted = image_pairs()
    a, b = wanted["transformer_blocks.1.img_mlp.net.2"]
    wanted["transformer_blocks.1.img_mlp.net.2"] = (a, 2 * b)  # 1 + 2 · 3/6
    assert gap(run(model, pair())[0], run(PairQwen.adopt(merged(stock(), wanted)), pair())[0]) < 1e-5


def test_the_encoder_loads_it_with_its_weights(tmp_path) -> None:
    save_file(public_state(tiny_vl()), tmp_path / "vl.safetensors", metadata())
    save_file(published(), tmp_path / "stage.safetensors")
    spec = LoraSpec(tmp_path / "stage.safetensors", both=True)
    loaded = load_qwen_vl(tmp_path / "vl.safetensors", loras=[spec])
    loaded.prompting = PROMPTING
    want = states(merged(tiny_vl().model, text_pairs()))
    assert gap(loaded.encode(PROMPTS)[0], want) < 1e-5
    loaded = load_qwen_vl(tmp_path / "vl.safetensors", loras=[spec], fp8=True)
    loaded.prompting = PROMPTING
    layer = loaded.model.language_model.layers[0].self_attn.q_proj
    assert layer.base_layer.weight.dtype == torch.float8_e4m3fn and layer.lora_B["lora0"].weight.dtype == torch.float32
    assert gap(loaded.encode(PROMPTS)[0], want) < 0.2


def test_halves_that_do_not_fit(tmp_path) -> None:
    path = tmp_path / "half.safetensors"
    form, _, down, up = TEXT_SPELLINGS["published"]
    only_text = {k: v for k, v in published().items() if "language_model" in k}
    save_file(only_text, path)
    with pytest.raises(InputError, match="must hold a LoRA for qwen_image"):
        load_lora(stock(), "qwen_image", LoraSpec(path))
    save_file({form.format(0, "self_attn_q_proj") + down: torch.zeros(2, 5)}, path)
    with pytest.raises(InputError, match="every LoRA pair must be whole"):
        load_lora(tiny_vl().model, "qwen_vl", LoraSpec(path))
    q = form.format(0, "self_attn_q_proj")
    save_file({q + down: torch.zeros(2, 5), q + up: torch.zeros(32, 2)}, path)
    with pytest.raises(InputError, match=r"must have A \[r, 32\]"):
        load_lora(tiny_vl().model, "qwen_vl", LoraSpec(path))
    save_file({**only_text, q + ".dora_scale": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="dora_scale"):
        load_lora(tiny_vl().model, "qwen_vl", LoraSpec(path))


def test_export_is_read_by_diffusers(tmp_path) -> None:
    model = PairQwen.adopt(stock())
    targets = ["to_q", "to_out.0", "img_mlp.net.0.proj", "add_k_proj"]
    model.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False))
    export_lora(model, "qwen_image", tmp_path / "lora.safetensors")
    theirs = stock()
    QwenImagePipeline.load_lora_into_transformer(load_file(tmp_path / "lora.safetensors"), transformer=theirs)
    segments, shapes = pair("sequence"), [(1, 4, 6)] * 2
    assert gap(stock_run(model, segments, shapes), stock_run(theirs, segments, shapes)) < 1e-5


# --- for ComfyUI ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", TEXT_SPELLINGS)
def test_rewritten_for_comfyui(tmp_path, spelling) -> None:
    save_file(published(spelling) | {"more.lora_down.weight": torch.zeros(1, 1)}, tmp_path / "stage.safetensors")
    state, lora = for_comfyui(read_lora(tmp_path / "stage.safetensors"), "qwen_image", "qwen_vl")
    assert lora.left == {"of modules that this model does not have": ["more.lora_down.weight"]}
    expected = {f"diffusion_model.{name}": ab for name, ab in image_pairs().items()}
    for name, ab in text_pairs().items():
        expected["text_encoders.qwen25_7b.transformer.model." + name.removeprefix("language_model.")] = ab
    assert state.keys() == {f"{name}.lora_{part}.weight" for name in expected for part in "AB"}
    for name, (a, b) in expected.items():
        assert torch.equal(state[f"{name}.lora_A.weight"], a) and torch.equal(state[f"{name}.lora_B.weight"], b)


def test_rewritten_branches_and_alpha() -> None:
    name = "lora_unet_transformer_blocks_12_attn_to_out_0"
    a, b = torch.randn(2, 4), torch.randn(4, 2)
    state = {f"{name}.lora_down.{i}.weight": a * (i + 1) for i in (0, 1)}
    state |= {f"{name}.lora_up.{i}.weight": b for i in (0, 1)} | {f"{name}.alpha": torch.tensor(1.0)}
    out, _ = for_comfyui(Checkpoint(state), "qwen_image", "qwen_vl")
    module = "diffusion_model.transformer_blocks.12.attn.to_out.0"
    assert gap(out[f"{module}.lora_B.weight"] @ out[f"{module}.lora_A.weight"], 0.5 * 3 * b @ a) < 1e-6
    with pytest.raises(InputError, match="must hold a LoRA"):
        for_comfyui(Checkpoint({"x.lora_down.weight": a}), "qwen_image", "qwen_vl")
    with pytest.raises(InputError, match="must be whole"):
        for_comfyui(Checkpoint({f"{name}.lora_down.0.weight": a}), "qwen_image", "qwen_vl")
