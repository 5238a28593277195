"""Qwen-Image's files: ComfyUI's and diffusers' formats of the transformer, and its VAE as one of Wan's class."""

import json

import pytest
import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from safetensors.torch import save_file

from anchorshot.core.errors import InputError
from anchorshot.models.backbones import find_backbone, kinds_for
from anchorshot.models.backbones.qwen_image.headless import PairQwen
from anchorshot.models.backbones.qwen_image.keymap import ZERO_COND_T, marked
from anchorshot.models.io.keymaps import detect_kind, from_public, infer_config, is_public, to_public
from anchorshot.models.io.loading import load_transformer, load_vae, prove_model
from anchorshot.models.layouts.start_end import Segment
from tests.test_qwen_image import CONFIG, TIMES, pair, run, stock, texts
from tests.tiny_weights import gap, seeded

TINY = {**CONFIG, "attention_head_dim": 128, "num_attention_heads": 2, "num_layers": 1, "axes_dims_rope": (16, 56, 56)}
PREFIXES = ["", "model.diffusion_model.", "diffusion_model."]


def state_of(model):
    return {key: value.detach().clone().contiguous() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("zero", [True, False])
def test_a_file_of_comfyui_s_says_all_by_its_names_and_shapes(tmp_path, prefix, zero) -> None:
    model = seeded(QwenImageTransformer2DModel(**TINY, zero_cond_t=zero))
    state = {prefix + key: value for key, value in marked(state_of(model), model.config).items()}
    assert (prefix + ZERO_COND_T in state) is zero
    save_file(state, tmp_path / "qwen.safetensors")
    loaded = load_transformer("qwen_image", tmp_path / "qwen.safetensors")
    assert type(loaded) is PairQwen and loaded.config.zero_cond_t is zero
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    prove_model("qwen_image", tmp_path / "qwen.safetensors")


def test_a_file_with_its_config_and_a_diffusers_folder(tmp_path) -> None:
    model = stock(zero_cond_t=True)
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    save_file(state_of(model), tmp_path / "small.safetensors", {"config": json.dumps(config)})
    model.save_pretrained(tmp_path / "pipeline" / "transformer")
    for path in (tmp_path / "small.safetensors", tmp_path / "pipeline"):
        loaded = load_transformer("qwen_image", path)
        assert loaded.config.zero_cond_t is True and loaded.config.axes_dims_rope == [4, 6, 6]
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_a_model_of_unusual_heads_needs_its_config(tmp_path) -> None:
    save_file(state_of(stock()), tmp_path / "small.safetensors")
    with pytest.raises(InputError, match="axes_dims_rope"):
        load_transformer("qwen_image", tmp_path / "small.safetensors")


def test_names_go_both_ways_and_are_known_by() -> None:
    state = state_of(stock())
    public = to_public("qwen_image", state)
    assert public.keys() == state.keys() and is_public("qwen_image", public) and detect_kind(public) == "qwen_image"
    assert from_public("qwen_image", {**public, ZERO_COND_T: torch.zeros(0)}).keys() == state.keys()
    with pytest.raises(InputError, match="every tensor name"):
        from_public("qwen_image", {**public, "transformer_blocks.0.more.weight": torch.zeros(1)})


def test_the_published_size() -> None:
    with torch.device("meta"):
        model = QwenImageTransformer2DModel(zero_cond_t=True)
    public = marked(to_public("qwen_image", model.state_dict()), model.config)
    assert len(public) == 1934
    for argument, value in infer_config("qwen_image", public).items():
        expected = model.config[argument]
        assert value == (list(expected) if isinstance(expected, tuple) else expected), argument
    assert sum(p.numel() for p in PairQwen.adopt(model).parameters()) == 20_430_401_088


def test_fp8_weights_run_the_segments(tmp_path) -> None:
    model = seeded(QwenImageTransformer2DModel(**TINY))
    save_file(state_of(model), tmp_path / "qwen.safetensors")
    loaded = load_transformer("qwen_image", tmp_path / "qwen.safetensors", dtype=torch.bfloat16, fp8=True)
    assert loaded.transformer_blocks[0].attn.to_q.weight.dtype == torch.float8_e4m3fn
    segments = [Segment(s.tokens.bfloat16(), s.ids) for s in pair()]
    with torch.no_grad():
        start, _ = loaded.forward_segments(segments, texts().bfloat16(), None, TIMES)
    assert gap(start.float(), run(PairQwen.adopt(model), pair())[0]) < 0.2


def test_its_task_and_its_parts() -> None:
    backbone = find_backbone("qwen_image")
    assert kinds_for("pairs") == ["qwen_image"] and backbone.vae.kind == "wan_vae" and backbone.text == ("qwen_vl",)


def test_its_vae_is_one_of_wan_s_class(tmp_path) -> None:
    sizes = {"base_dim": 8, "dim_mult": [1, 1, 2, 2], "num_res_blocks": 1}
    stock_vae = seeded(AutoencoderKLQwenImage(**sizes))
    stock_vae.save_pretrained(tmp_path / "pipeline" / "vae")
    save_file(to_public("wan_vae", state_of(stock_vae)), tmp_path / "qwen_image_vae.safetensors")
    frames = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(stock_vae.config[f"latents_{name}"]).view(1, -1, 1, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        want = (stock_vae.encode(frames[:, :, None] * 2 - 1).latent_dist.mode() - mean) / std
        back = (stock_vae.decode(want * std + mean).sample[:, :, 0] / 2 + 0.5).clamp(0, 1)
    for path in (tmp_path / "pipeline", tmp_path / "qwen_image_vae.safetensors"):
        codec = find_backbone("qwen_image").vae.codec()(load_vae("wan_vae", path))
        assert gap(codec.encode_image(frames), want[:, :, 0]) < 1e-6
        assert gap(codec.decode_image(want[:, :, 0]), back) < 1e-5
