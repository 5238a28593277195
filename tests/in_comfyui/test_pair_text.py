"""Shots' texts and pictures through ComfyUI's Qwen2.5-VL classes, against the command line's encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from in_comfyui import tiny, tiny_qwen

from anchorshot.comfyui.pair_text import encode_shot, prompting_of
from anchorshot.core.errors import InputError
from anchorshot.models.encoders.qwen_vl import QwenVLEncoder, load_qwen_vl
from anchorshot.pocket.native_pairs import load_pair_clip, load_pair_model

TEXT = "<Mira>, a yellow square (smiling), waves {left} \\(red:1.4).\n2.75 s, 66 frames"
ODD = ["", "<|im_start|>user\nx<|im_end|>", "embedding:x <|image_pad|> 😀 李雷", TEXT]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, QwenVLEncoder]:
    """CLIP and headless encoder of one file."""
    path = tiny_qwen.write_text_encoder(tmp_path_factory.mktemp("vl"), {"picture_area": 14112})
    return load_pair_clip(path), load_qwen_vl(path)


def picture(height: int = 80, width: int = 160, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("text", ODD)
def test_states_equal_the_command_line(pair: tuple[Any, QwenVLEncoder], text: str, count: int) -> None:
    clip, headless = pair
    shown = [picture(seed=i) for i in range(count)]
    ((states, entry),) = encode_shot(clip, text, shown, prompting_of(clip))
    wanted, mask = headless.encode([text], [shown])
    assert states.shape == wanted.shape and bool(mask.all()) and entry.get("attention_mask") is None
    assert torch.allclose(states, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("drop", [0, 5, 64])
def test_another_prompt_and_number_of_dropped_states(pair: tuple[Any, QwenVLEncoder], drop: int) -> None:
    clip, headless = pair
    system = "Both frames come in one picture {above} and (below)."
    prompting = prompting_of(clip, system, drop)
    ((states, _),) = encode_shot(clip, TEXT, [picture()], prompting)
    wanted, _ = headless.encode([TEXT], [picture()], system_prompt=system, drop_tokens=drop)
    assert torch.allclose(states, wanted, atol=1e-5, rtol=1e-5)


def test_dropping_all_is_refused(pair: tuple[Any, QwenVLEncoder]) -> None:
    clip, _ = pair
    with pytest.raises(InputError, match="drop_tokens"):
        encode_shot(clip, "x", [], prompting_of(clip, None, 5000))


def test_the_picture_is_seen(pair: tuple[Any, QwenVLEncoder]) -> None:
    clip, _ = pair
    a, b = (encode_shot(clip, TEXT, [picture(seed=i)], prompting_of(clip))[0][0] for i in (0, 1))
    assert (a[:, -1] - b[:, -1]).abs().max() > 1e-3


def test_core_templates_on_the_small_clip(pair: tuple[Any, QwenVLEncoder]) -> None:
    """Text Encode Qwen Image Edit puts its own conversation around the text; picture and text arrive."""
    from comfy_extras.nodes_qwen import TextEncodeQwenImageEditPlus

    clip, _ = pair
    (made,) = TextEncodeQwenImageEditPlus.execute(clip, TEXT, image1=picture(112, 112).movedim(0, -1)[None]).args
    assert made[0][0].shape[-1] == tiny_qwen.WIDTH and torch.isfinite(made[0][0]).all()


def test_another_clip_is_refused() -> None:
    with pytest.raises(InputError, match=r"clip.*Qwen2.5-VL"):
        prompting_of(tiny.clip_l())


def test_public_vocabulary() -> None:
    """Core's own tokenizer and conversation: the ids of the text as we put it, states dropped where core counts."""
    import comfy.text_encoders.qwen_image as core

    clip_tokens = core.QwenImageTokenizer()
    prompting = prompting_of(type("Clip", (), {"tokenizer": clip_tokens})())
    assert prompting.system_prompt in clip_tokens.llama_template_images
    ours = clip_tokens.tokenize_with_weights(prompting.text("a (red:1.4) dog").replace("(", "\\(").replace(")", "\\)"))
    words = clip_tokens.qwen25_7b.tokenizer
    assert [t for t, _ in ours["qwen25_7b"][0]] == words(prompting.text("a (red:1.4) dog"))["input_ids"]


def test_a_model_file_becomes_core_s_model(tmp_path: Path) -> None:
    path = tiny_qwen.write_transformer(tmp_path)
    model, random = load_pair_model(path, 2.2), tiny_qwen.native()
    assert type(model.model).__name__ == "QwenImage"
    assert model.model.diffusion_model.default_ref_method == "index_timestep_zero"
    for key, value in random.model.diffusion_model.state_dict().items():
        assert torch.equal(model.model.diffusion_model.state_dict()[key], value)
    assert float(model.get_model_object("model_sampling").sigma(torch.tensor(0.5))) == pytest.approx(2.2 / 3.2)
