"""Qwen2.5-VL as a prompt encoder: template, pictures, positions, files; tiny random weights of the real class."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel, Qwen2VLImageProcessor

from anchorshot.core.errors import InputError
from anchorshot.models.encoders.qwen_tokenizer import QwenTokenizer, load_qwen_tokenizer
from anchorshot.models.encoders.qwen_vl import QwenVLEncoder, load_qwen_vl, prove_qwen_vl
from anchorshot.models.encoders.qwen_vl_prompt import QwenPrompting, picture_patches, picture_pixels, picture_size
from anchorshot.models.io.keymaps import detect_kind, from_public, infer_config, to_public
from anchorshot.models.io.loading import Offload
from tests.tiny_qwen import SECTIONS, config_arguments, metadata, public_state, tiny_tokenizer, tiny_vl, tokenizer_json
from tests.tiny_weights import gap

PROMPTING = QwenPrompting(system_prompt="the red square", picture_area=3136)
PROMPTS = ["a red square waves on the left.", "Mira, a circle with the crown."]


@pytest.fixture(scope="module")
def encoder() -> QwenVLEncoder:
    return QwenVLEncoder(tiny_vl().model, tiny_tokenizer(), PROMPTING)


def picture(height=40, width=72, seed=0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def stock_states(text: str, pictures: list[torch.Tensor]) -> torch.Tensor:
    """The stock class called as its processor's output would have it; pictures must be of final size."""
    processor = Qwen2VLImageProcessor(patch_size=4, merge_size=2, do_rescale=False, do_resize=False)
    tokenizer = tiny_tokenizer()
    given, counts = {}, []
    if pictures:
        given = dict(processor(images=[p.permute(1, 2, 0).numpy() for p in pictures], return_tensors="pt"))
        counts = [int(grid.prod()) // 4 for grid in given["image_grid_thw"]]
    for count in counts:  # what Qwen2_5_VLProcessor does
        text = text.replace("<|image_pad|>", "<|placeholder|>" * count, 1)
    ids = torch.tensor(tokenizer.ids([text.replace("<|placeholder|>", "<|image_pad|>")]))
    is_picture = (ids == tokenizer.id_of("<|image_pad|>")).int()
    with torch.no_grad():
        out = tiny_vl()(input_ids=ids, mm_token_type_ids=is_picture, output_hidden_states=True, **given)
    return out.hidden_states[-1]


# --- template and pictures -----------------------------------------------------------------------------------------


def test_the_edit_template() -> None:
    prompting = QwenPrompting(system_prompt="Look.")
    head = "<|im_start|>system\nLook.<|im_end|>\n<|im_start|>user\n"
    tail = "<|im_end|>\n<|im_start|>assistant\n"
    shown = "<|vision_start|><|image_pad|><|vision_end|>"
    assert prompting.text("Hi") == head + "Hi" + tail
    assert prompting.text("Hi", 2) == f"{head}Picture 1: {shown}Picture 2: {shown}Hi{tail}"
    assert QwenPrompting("Look.", picture_label="").text("Hi", 1) == head + shown + "Hi" + tail
    assert prompting.text("<|im_end|>{}<|image_pad|>") == head + "< |im_end|>{}< |image_pad|>" + tail


def test_the_stock_template_is_that_of_diffusers() -> None:
    from diffusers import QwenImageEditPlusPipeline

    pipeline = QwenImageEditPlusPipeline(None, None, None, None, None, None)
    assert QwenPrompting().text("Hi") == pipeline.prompt_template_encode.format("Hi")


def test_sizes_are_those_of_comfyui_s_node() -> None:
    sizes = {(1080, 1920): 180, (768, 1024): 192, (480, 832): 180, (800, 1920): 189, (1024, 1024): 196}
    for (height, width), tokens in sizes.items():
        h, w = picture_size(height, width)
        assert h % 28 == w % 28 == 0 and h * w // 784 == tokens


def test_a_picture_of_its_final_size_is_left_alone() -> None:
    shown = picture(56, 56)
    assert torch.equal(picture_pixels(shown, 3136), shown)
    scaled = picture_pixels(picture(200, 100), 3136)
    assert scaled.shape == (3, 84, 28) and 0 <= scaled.min() and scaled.max() <= 1


def test_patches_equal_the_processor_s() -> None:
    shown = picture(56, 84)
    processor = Qwen2VLImageProcessor(do_rescale=False, do_resize=False)
    want = processor(images=shown.permute(1, 2, 0).numpy(), return_tensors="pt")
    patches, grid = picture_patches(shown)
    assert gap(patches, want["pixel_values"]) < 1e-6 and [1, *grid] == want["image_grid_thw"][0].tolist()


@pytest.mark.parametrize(
    "bad", [torch.rand(4, 8, 8), torch.rand(3, 8), torch.full((3, 8, 8), 2.0), torch.rand(3, 0, 8)]
)
def test_what_is_no_picture(bad) -> None:
    with pytest.raises(InputError, match="images"):
        picture_pixels(bad)


# --- states --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2])
def test_states_equal_transformers(encoder, count) -> None:
    pictures = [picture_pixels(picture(seed=i, width=40 + 32 * i), 3136, 8) for i in range(count)]
    states, mask = encoder.encode(PROMPTS[:1], [pictures])
    want = stock_states(PROMPTING.text(PROMPTS[0], count), pictures)
    drop = len(tiny_tokenizer().ids([PROMPTING.head])[0])
    assert mask.all() and gap(states, want[:, drop:]) < 1e-5


def test_positions_of_pictures_count(encoder) -> None:
    """As diffusers' pipelines call the model, a picture's tokens are numbered like words."""
    (inputs,) = encoder.inputs(PROMPTS[:1], [picture()])
    right, _ = encoder.states(inputs)
    with torch.no_grad():
        out = encoder.model(input_ids=inputs.ids, pixel_values=inputs.patches, image_grid_thw=inputs.grids)
    assert gap(out.last_hidden_state[:, inputs.drop :], right) > 1e-2


def test_a_batch_equals_single_prompts(encoder) -> None:
    images = [[picture(), picture(32, 32, 1)], None, picture(64, 32, 2)]
    prompts = [*PROMPTS, "waves"]
    states, mask = encoder.encode(prompts, images, batch=2)
    assert states.dtype == torch.float32 and states.shape[:2] == mask.shape
    for i, prompt in enumerate(prompts):
        alone, full = encoder.encode([prompt], [images[i]])
        count = full.shape[1]
        assert int(mask[i].sum()) == count and not states[i, count:].any()
        assert gap(states[i, :count], alone[0]) < 1e-5


def test_pictures_and_their_order_count(encoder) -> None:
    a, b = picture(seed=1), picture(seed=2)
    states = [encoder.encode(PROMPTS[:1], [shown])[0] for shown in ([a, b], [b, a])]
    assert gap(*states) > 1e-2


def test_another_system_prompt_and_number_of_dropped_tokens(encoder) -> None:
    usual, _ = encoder.encode(PROMPTS[:1])
    more, _ = encoder.encode(PROMPTS[:1], drop_tokens=2)
    assert torch.equal(more[:, more.shape[1] - usual.shape[1] :], usual)
    other, _ = encoder.encode(PROMPTS[:1], system_prompt="a blue circle, with the crown")
    assert other.shape == usual.shape and gap(other, usual) > 1e-3
    with pytest.raises(InputError, match="drop_tokens: must be less than"):
        encoder.encode(["a"], drop_tokens=60)


def test_gradients_reach_the_weights(encoder) -> None:
    model = tiny_vl().model.requires_grad_(True)
    trained = QwenVLEncoder(model, tiny_tokenizer(), PROMPTING)
    (inputs,) = trained.inputs(PROMPTS, [picture(), None])
    trained.states(inputs)[0].square().mean().backward()
    for name in ("language_model.layers.0.self_attn.q_proj", "visual.blocks.0.attn.qkv"):
        assert model.get_submodule(name).weight.grad.abs().max() > 0
    assert not encoder.encode(PROMPTS)[0].requires_grad


@pytest.mark.parametrize(
    ("prompts", "images", "message"),
    [("a", None, "prompts"), ([], None, "prompts"), (["a", 1], None, "prompts"), (["a"], [None, None], "images")],
)
def test_what_cannot_be_encoded(encoder, prompts, images, message) -> None:
    with pytest.raises(InputError, match=message):
        encoder.encode(prompts, images)


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "text_encoders.qwen25_7b.transformer."])
def test_a_single_file(tmp_path, encoder, prefix) -> None:
    prompting = {"prompting": json.dumps({"system_prompt": "the red square", "picture_area": 3136})}
    state = {prefix + key: value for key, value in public_state(tiny_vl()).items()}
    save_file(state, tmp_path / "vl.safetensors", metadata() | prompting | {"names": '["Mira"]'})
    loaded = load_qwen_vl(tmp_path / "vl.safetensors")
    assert loaded.prompting == PROMPTING and loaded.names == ["Mira"]
    assert loaded.alias(["<Lou> waves"]) == ["<Mira> waves"]
    assert gap(loaded.encode(PROMPTS, [picture(), None])[0], encoder.encode(PROMPTS, [picture(), None])[0]) < 1e-6
    assert prove_qwen_vl(tmp_path / "vl.safetensors").skeleton.device.type == "meta"


@pytest.mark.parametrize("version", ["usual", "newer names", "older config"])
def test_a_folder_of_transformers(tmp_path, encoder, version) -> None:
    folder = tmp_path / "pipeline" / "text_encoder"
    tiny_vl().save_pretrained(folder)
    if version == "newer names":  # those that the model has in memory
        state = {k: v.detach().clone() for k, v in tiny_vl().state_dict().items()}
        save_file(state, folder / "model.safetensors")
    if version == "older config":  # the language model's arguments beside the eyes' part, as published
        arguments = config_arguments()
        older = {**arguments["text_config"], "rope_scaling": {"type": "mrope", "mrope_section": SECTIONS}}
        del older["mrope_section"]
        older |= {"vision_config": {**arguments["vision_config"], "in_chans": 3}, "model_type": "qwen2_5_vl"}
        (folder / "config.json").write_text(json.dumps(older))
    (tmp_path / "pipeline" / "tokenizer").mkdir()
    (tmp_path / "pipeline" / "tokenizer" / "tokenizer.json").write_text(tokenizer_json())
    loaded = load_qwen_vl(tmp_path / "pipeline")
    loaded.prompting = PROMPTING
    assert gap(loaded.encode(PROMPTS, [picture(), None])[0], encoder.encode(PROMPTS, [picture(), None])[0]) < 1e-6


@pytest.mark.parametrize("options", [{"dtype": torch.bfloat16, "fp8": True}, {"offload": Offload("leaf")}])
def test_less_memory(tmp_path, encoder, options) -> None:
    save_file(public_state(tiny_vl()), tmp_path / "vl.safetensors", metadata())
    loaded = load_qwen_vl(tmp_path / "vl.safetensors", **options)
    loaded.prompting = PROMPTING
    want = encoder.encode(PROMPTS, [picture(), None])[0]
    assert gap(loaded.encode(PROMPTS, [picture(), None])[0], want) < (0.2 if "fp8" in options else 1e-6)
    kept = {p.dtype for name, p in loaded.model.named_parameters() if name.endswith("q_proj.weight")}
    assert kept == {torch.float8_e4m3fn if "fp8" in options else torch.float32}


def test_the_published_size() -> None:
    """Names and shapes of the 7B model, and its arguments read back from them."""
    text = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    config = Qwen2_5_VLConfig(
        text_config={**text, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_parameters": rope},
        vision_config={"hidden_size": 1280, "out_hidden_size": 3584},
    )
    with torch.device("meta"):
        model = Qwen2_5_VLModel(config)
    public = to_public("qwen_vl", model.state_dict())
    assert len(public) == 728 and detect_kind(public) == "qwen_vl"
    assert {"model.layers.27.mlp.down_proj.weight", "visual.blocks.31.attn.qkv.bias"} <= public.keys()
    back = from_public("qwen_vl", {**public, "lm_head.weight": torch.zeros(1)})
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in model.state_dict().items()}
    inferred = infer_config("qwen_vl", public)
    for part in ("text_config", "vision_config"):
        for name, value in inferred[part].items():
            stated = getattr(config, part)
            expected = stated.rope_parameters[name] if name in rope else getattr(stated, name)
            assert value == (list(expected) if isinstance(expected, tuple) else expected), name


def test_files_that_cannot_be_used(tmp_path) -> None:
    state, path = public_state(tiny_vl()), tmp_path / "vl.safetensors"
    save_file(state, path, {"tokenizer": tokenizer_json()})
    with pytest.raises(InputError, match="num_attention_heads.*cannot be read"):
        load_qwen_vl(path)
    save_file(state, path, {"config": metadata()["config"]})
    with pytest.raises(InputError, match="needs its tokenizer"):
        load_qwen_vl(path)
    short = {k: v for k, v in state.items() if "layers.1" not in k}
    save_file(short, path, metadata())
    with pytest.raises(InputError, match="own depth"):
        load_qwen_vl(path)
    save_file(state, path, metadata() | {"prompting": '{"sistem": "x"}'})
    with pytest.raises(InputError, match="metadata.prompting: must hold.*sistem"):
        load_qwen_vl(path)
    wrong = json.loads(metadata()["config"])
    wrong["text_config"]["mrope_section"] = [16, 24, 24]
    save_file(state, path, metadata() | {"config": json.dumps(wrong)})
    with pytest.raises(InputError, match="half a head"):
        load_qwen_vl(path)
    for part, change, message in (
        ("text_config", {"num_key_value_heads": 0}, "num_key_value_heads: must divide"),
        ("vision_config", {"out_hidden_size": 40}, "out_hidden_size: must be the language model's width"),
        ("vision_config", {"window_size": 4}, "window_size: must be at least"),
        ("vision_config", {"patch_size": [4, 4]}, "patch_size: must be a whole number"),
        ("vision_config", {"depth": 500}, "depth: the config must describe"),
        ("text_config", {"hidden_act": "sideways"}, "must describe a Qwen2_5_VLModel"),
    ):
        wrong = json.loads(metadata()["config"])
        wrong[part] |= change
        save_file(state, path, metadata() | {"config": json.dumps(wrong)})
        with pytest.raises(InputError, match=message):
            load_qwen_vl(path)
    save_file({"encoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(1)}, path, metadata())
    with pytest.raises(InputError, match="must hold a Qwen2.5-VL encoder"):
        load_qwen_vl(path)


def test_tokenizers(tmp_path) -> None:
    with pytest.raises(InputError, match="no <|im_start|>"):
        QwenTokenizer('{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}')
    with pytest.raises(InputError, match="must be a tokenizer.json"):
        QwenTokenizer("{}")
    with pytest.raises(InputError, match="folder must hold"):
        load_qwen_tokenizer(tmp_path)
    with pytest.raises(InputError, match="file must exist"):
        load_qwen_tokenizer(tmp_path / "none.json")


def test_the_older_tokenizer_files(tmp_path) -> None:
    words = {"h": 0, "i": 1, "hi": 2}
    (tmp_path / "vocab.json").write_text(json.dumps(words))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nh i\n")
    controls = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    added = {str(3 + i): {"content": token, "special": True} for i, token in enumerate(controls)}
    config = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added, "unk_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_qwen_tokenizer(tmp_path)
    assert tokenizer.ids(["hi<|im_end|>"])[0] == [2, tokenizer.id_of("<|im_end|>")]
