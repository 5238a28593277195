"""Adapters in training: where they sit, that they can be left out, merged, and written for every host."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from anchorshot.core.errors import InputError
from anchorshot.models.backbones.qwen_image.headless import PairQwen
from anchorshot.models.io.lora import LoraSpec, load_lora
from anchorshot.training.checkpoint import trained
from anchorshot.training.lora import ADAPTER, add_lora, merge_lora, without_lora, write_lora
from tests.test_qwen_image import memory, pair, run, stock
from tests.tiny_qwen import tiny_vl
from tests.tiny_weights import gap


def transformer():
    return PairQwen.adopt(stock(zero_cond_t=True))


def encoder():
    return tiny_vl().model


def velocity(model):
    return torch.cat(run(model, [*pair(), memory()]), 1)


def states(model):
    ids = torch.arange(3, 9)[None]
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


def shaken(model):
    """Adapters as if they had been trained."""
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, p in trained(model):
            p.copy_(0.3 * torch.randn(p.shape, generator=g))
    return model


KINDS = {"qwen_image": (transformer, velocity), "qwen_vl": (encoder, states)}


def test_every_linear_layer_of_the_blocks_but_the_modulations():
    model, text = transformer(), encoder()
    names = add_lora(model, "qwen_image", 4)
    assert len(names) == 3 * 12
    assert not any("_mod" in name for name in names)
    assert {name.split(".", 2)[2] for name in names} >= {"attn.to_out.0", "attn.add_k_proj", "txt_mlp.net.0.proj"}
    names = add_lora(text, "qwen_vl", 4)
    assert len(names) == 7 * text.config.text_config.num_hidden_layers
    assert all(name.startswith("language_model.layers.") for name in names)
    for one in (model, text):
        assert all(f".lora_A.{ADAPTER}." in n or f".lora_B.{ADAPTER}." in n for n, _ in trained(one))


@pytest.mark.parametrize("kind", KINDS)
def test_they_change_nothing_at_first_and_nothing_where_they_are_left_out(kind):
    build, outputs = KINDS[kind]
    model = build()
    before = outputs(model)
    add_lora(model, kind, 4)
    assert torch.equal(outputs(model), before)
    shaken(model)
    assert gap(outputs(model), before) > 1e-2
    with without_lora(model):
        assert torch.equal(outputs(model), before)
    assert gap(outputs(model), before) > 1e-2


def test_adapters_of_a_bf16_model_are_fp32():
    model = transformer().bfloat16()
    add_lora(model, "qwen_image", 4)
    assert {p.dtype for _, p in trained(model)} == {torch.float32}
    assert model.transformer_blocks[0].attn.to_q.base_layer.weight.dtype == torch.bfloat16


def test_two_models_in_one_file_which_is_read_for_each_and_merged(tmp_path):
    made = {kind: shaken_with_lora(kind) for kind in KINDS}
    path = tmp_path / "both.safetensors"
    write_lora(path, {kind: dict(trained(model)) for kind, model in made.items()}, {"recipe": "test"})
    names = load_file(path).keys()
    assert "transformer.transformer_blocks.0.attn.to_out.0.lora_A.weight" in names
    assert "text_encoders.qwen25_7b.transformer.model.layers.0.self_attn.q_proj.lora_B.weight" in names
    assert not any("alpha" in name for name in names)
    for kind, (build, outputs) in KINDS.items():
        expected, plain = outputs(made[kind]), outputs(build())
        loaded, merged = build(), build()
        load_lora(loaded, kind, LoraSpec(path))
        merge_lora(merged, kind, [LoraSpec(path)])
        assert gap(outputs(loaded), expected) < 1e-5 < gap(plain, expected)
        assert gap(outputs(merged), expected) < 1e-5
        assert [n for n, _ in merged.named_parameters()] == [n for n, _ in build().named_parameters()]
        add_lora(merged, kind, 2)  # a second stage begins where the first ended
        with without_lora(merged):
            assert gap(outputs(merged), expected) < 1e-5


def shaken_with_lora(kind):
    model = KINDS[kind][0]()
    add_lora(model, kind, 4)
    return shaken(model)


def test_two_files_are_merged_with_their_strengths(tmp_path):
    made = shaken_with_lora("qwen_image")
    path = tmp_path / "one.safetensors"
    write_lora(path, {"qwen_image": dict(trained(made))}, {})
    halves, whole = transformer(), transformer()
    merge_lora(halves, "qwen_image", [LoraSpec(path, 0.5), LoraSpec(path, 0.5)])
    merge_lora(whole, "qwen_image", [LoraSpec(path)])
    assert gap(velocity(halves), velocity(whole)) < 1e-5


def test_diffusers_reads_the_transformer_s_half(tmp_path):
    from diffusers import QwenImagePipeline

    made = {kind: shaken_with_lora(kind) for kind in KINDS}
    path = tmp_path / "both.safetensors"
    write_lora(path, {kind: dict(trained(model)) for kind, model in made.items()}, {})
    pipeline = QwenImagePipeline(None, None, None, None, stock(zero_cond_t=True))
    pipeline.load_lora_weights(str(tmp_path), weight_name=path.name)
    expected = velocity(made["qwen_image"])
    assert gap(velocity(PairQwen.adopt(pipeline.transformer)), expected) < 1e-5


def test_no_adapters_no_file(tmp_path):
    with pytest.raises(InputError, match="must be adapters to write"):
        write_lora(tmp_path / "x.safetensors", {"qwen_image": dict(trained(copy.deepcopy(transformer())))}, {})
