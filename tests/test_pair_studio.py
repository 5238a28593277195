"""The parts of a studio that make start and end frames: faults, fingerprints, proof."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from diffusers import QwenImageTransformer2DModel
from safetensors import safe_open
from safetensors.torch import save_file

from anchorshot.core.errors import InputError
from anchorshot.models.studio import load_studio
from anchorshot.models.studio_config import StudioConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pair_text": None}, "pair_text: goes with pair"),
        ({"pair": None}, "pair_text: goes with pair"),
        ({"pair": {"kind": "wan", "file": "x"}}, "pair.kind: must be one of qwen_image"),
        ({"pair_text": {"kind": "t5", "file": "x"}}, "pair_text.kind: must be one of qwen_vl"),
        ({"pair_vae": {"kind": "flux_vae", "file": "x"}}, "pair_vae.kind: must be Qwen-Image's VAE"),
        ({"defaults": {"pair": {"prompt": "shot"}}}, r"defaults.pair.prompt: must hold \{text\}"),
        ({"defaults": {"pair": {"prompt": "{text} {size}"}}}, r"defaults.pair.prompt: may hold \{text\}"),
        ({"defaults": {"pair": {"area": 0}}}, "defaults.pair.area"),
        ({"defaults": {"pair": {"guidance": 2.0, "guidance_against": "it"}}}, "defaults.pair.guidance_against"),
        ({"defaults": {"pair": {"guidance_against": "memory"}}}, "guidance_against: matters only with guidance"),
        ({"defaults": {"pair": {"packing": "grid"}}}, "defaults.pair.packing"),
    ],
)
def test_faults_of_a_pair_model(pair_studio, changes, message):
    data = yaml.safe_load(pair_studio.read_text()) | changes
    with pytest.raises(InputError, match=message):
        StudioConfig.parse({name: value for name, value in data.items() if value is not None})


def test_a_pair_model_leaves_what_was_made_without_it_resumable(pair_studio, tiny_studio, tmp_path):
    plain = load_studio(tiny_studio)
    text = pair_studio.read_text().replace("name: tiny-pairs", "name: tiny")
    path = tiny_studio.parent / "tiny_with_pairs.yaml"
    path.write_text(text)
    more = load_studio(path)
    assert more.fingerprint() == plain.fingerprint()
    parts = ("pair", "pair_text", "pair_vae")
    other = load_studio(pair_studio)
    assert other.fingerprint(*parts) == more.fingerprint(*parts) != more.fingerprint()
    more.check(*parts, "clip")
    with pytest.raises(InputError, match="pair: must be set for start and end frames"):
        plain.check_task("pairs")
    with pytest.raises(InputError, match="pair"):
        _ = plain.pair


def test_a_pair_model_and_its_encoder_fit(pair_studio, tmp_path):
    data = yaml.safe_load(pair_studio.read_text())
    with safe_open(pair_studio.parent / "pair.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"]) | {"joint_attention_dim": 48}
    model = QwenImageTransformer2DModel(**config)
    save_file(model.state_dict(), tmp_path / "wide.safetensors", {"config": json.dumps(config)})
    path = pair_studio.parent / "wide.yaml"
    path.write_text(yaml.safe_dump(data | {"pair": {"file": str(tmp_path / "wide.safetensors")}}))
    with pytest.raises(InputError, match="pair: joint_attention_dim must be what pair_text gives"):
        load_studio(path).check("pair", "pair_text")


def test_one_lora_file_for_both_models(pair_studio, tmp_path, caplog):
    """Each takes its half, and neither is remarked upon for the other's; alone, the other half is."""
    plain = load_studio(pair_studio)
    lora = {
        "lora_unet_transformer_blocks_0_attn_to_q.lora_{}.0.weight": plain.pair.img_in.out_features,
        "lora_unet_model_language_model_layers_0_self_attn_q_proj.lora_{}.0.weight": plain.pair_text.dim,
    }
    state = {name.format("down"): torch.ones(1, width) for name, width in lora.items()}
    state |= {name.format("up"): torch.ones(width, 1) for name, width in lora.items()}
    save_file(state, tmp_path / "stage.safetensors")
    data, path = yaml.safe_load(pair_studio.read_text()), pair_studio.parent / "with_lora.yaml"
    loras = {"loras": [{"file": str(tmp_path / "stage.safetensors")}]}
    for sections, said in ((("pair", "pair_text"), False), (("pair",), True)):
        path.write_text(yaml.safe_dump(data | {name: data[name] | loras for name in sections}))
        studio = load_studio(path)
        studio.check("pair", "pair_text")
        caplog.clear()
        assert "lora0" in studio.pair.peft_config
        assert ("lora0" in getattr(studio.pair_text.model, "peft_config", {})) is (len(sections) == 2)
        assert ("2 of a text encoder" in caplog.text) is said
        assert "of a transformer" not in caplog.text
