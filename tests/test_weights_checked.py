"""What model files say of themselves is checked before it is used; a studio is proven before anything is rendered."""

import json
import os
import socket
import struct
import time
import warnings

import open_clip
import pytest
import torch
from diffusers import AutoencoderKLWan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_lora import WAN, stock
from test_studio import CLIP, FLUX, STUDIO, T5, VAE, save, weights, write

from anchorshot.core.errors import InputError
from anchorshot.models.encoders.clip import ClipScorer
from anchorshot.models.encoders.clip_config import split_config
from anchorshot.models.io.arguments import check_arguments, check_types
from anchorshot.models.io.checkpoint import Checkpoint, dequantise, read_checkpoint
from anchorshot.models.io.keymaps import to_public
from anchorshot.models.io.loading import load_transformer, prove_model
from anchorshot.models.io.lora import parse_lora
from anchorshot.models.io.shapes import MAX_BLOCKS, count_blocks
from anchorshot.models.studio import load_studio
from anchorshot.models.studio_config import StudioConfig
from anchorshot.pipelines.film import make_film
from anchorshot.story.storyboard import Storyboard

__all__ = ["weights"]  # a fixture

FUZZ = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)


def file_of(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def refuses(call, match="."):
    """An InputError of one line, at once."""
    begin = time.process_time()
    with pytest.raises(InputError, match=match) as error:
        call()
    assert "\n" not in str(error.value) and time.process_time() - begin < 5
    return error.value


# --- headers, indexes, special files ----------------------------------------------------------------------------------

TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HEADERS = {
    "a name twice": b'{"a": %s, "a": %s}' % ((json.dumps(TENSOR).encode(),) * 2),
    "metadata twice": b'{"__metadata__": {"x": "1", "x": "2"}}',
    "metadata of numbers": {"__metadata__": {"a": 1}},
    "metadata list": {"__metadata__": ["a"]},
    "list": [1],
    "deep": b"[" * 5000,
    "no object": {"a": 3},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 4]}},
    "shape of text": {"a": {**TENSOR, "shape": ["1"]}},
    "huge shape": {"a": {**TENSOR, "shape": [2**60]}},
    "empty of huge sides": {"a": {**TENSOR, "shape": [0, 2**63], "data_offsets": [0, 0]}},
    "many dimensions": {"a": {**TENSOR, "shape": [1] * 100}},
    "overlap": {"a": TENSOR, "b": TENSOR},
    "outside": {"a": {**TENSOR, "data_offsets": [0, 4000]}},
    "unknown type": {"a": {**TENSOR, "dtype": "XX"}},
    "NaN": b'{"a": NaN}',
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_headers_that_are_refused(tmp_path, header):
    path = tmp_path / "m.safetensors"
    path.write_bytes(file_of(header, bytes(4)))
    assert "m.safetensors" in str(refuses(lambda: read_checkpoint(path), "whole and valid"))


@FUZZ
@given(JSON, st.sampled_from(["dtype", "shape", "data_offsets", None]))
def test_any_header_is_read_or_refused(tmp_path, value, part):
    path = tmp_path / "m.safetensors"
    path.write_bytes(file_of({"a": {**TENSOR, part: value} if part else value, "__metadata__": {"a": "b"}}, bytes(4)))
    try:
        assert read_checkpoint(path).metadata == {"a": "b"}
    except InputError as error:
        assert "\n" not in str(error)


def test_special_files_and_folders_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "empty").mkdir()
    refuses(lambda: read_checkpoint(tmp_path / "pipe.safetensors"), "regular safetensors file")
    refuses(lambda: read_checkpoint("/dev/null"), "regular")
    refuses(lambda: read_checkpoint(tmp_path / "empty"), "folder must hold")
    refuses(lambda: read_checkpoint(tmp_path / ("x" * 2000)), "must exist")
    (tmp_path / "m").mkdir()
    os.mkfifo(tmp_path / "m" / "model.safetensors")
    refuses(lambda: read_checkpoint(tmp_path / "m"), "regular")


INDEXES = ["[]", "1", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', '{"weight_map": {"a": ["b"]}}', 
           "[" * 5000, '{"weight_map": {"a": "/etc/x.safetensors"}}', '{"weight_map": {"a": "b/../x.safetensors"}}',
           '{"weight_map": {"a": ""}}', '{"weight_map": {"a": "config.json"}}', '{"weight_map": null}']  # fmt: skip


@pytest.mark.parametrize("index", INDEXES, ids=[i[:40] for i in INDEXES])
def test_indexes_that_are_refused(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    refuses(lambda: read_checkpoint(tmp_path))


def test_parts_must_not_hold_a_tensor_twice(tmp_path):
    for name in ("a", "b"):
        save_file({"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    refuses(lambda: read_checkpoint(tmp_path), "twice")


# --- quantisation marks and the other parts of a file -----------------------------------------------------------------


@pytest.mark.parametrize(
    "mark", [torch.ones(1), torch.zeros(2, dtype=torch.uint8), torch.zeros(9999, dtype=torch.uint8)]
)
def test_marks_of_formats_are_read_as_text_of_a_bounded_size(mark):
    refuses(lambda: dequantise(Checkpoint({"a.weight": torch.zeros(2, 2), "a.comfy_quant": mark}), torch.float32))


@FUZZ
@given(JSON)
def test_any_quantisation_metadata_is_read_or_refused(value):
    for stored in (value, {"layers": value}, {"layers": {"a": value}}, {"layers": {"a": {"format": value}}}):
        checkpoint = Checkpoint({"a.weight": torch.zeros(2)}, {"_quantization_metadata": json.dumps(stored)})
        try:
            assert dequantise(checkpoint, torch.float32).keys() == {"a.weight"}
        except InputError as error:
            assert "\n" not in str(error)


def test_another_part_of_an_all_in_one_file_does_not_count(tmp_path):
    """Whatever format it has, by marks, by metadata or by a type that nothing here reads."""
    own = to_public("wan", stock("wan").state_dict())
    other = {
        "text_encoders.umt5xxl.transformer.a.weight": torch.zeros(2, 2, dtype=torch.int8),
        "text_encoders.umt5xxl.transformer.a.weight.absmax": torch.ones(1),
        "vae.b.weight": torch.zeros(4, dtype=torch.float8_e8m0fnu),
        "vae.b.comfy_quant": torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8),
    }
    metadata = {"config": json.dumps(WAN), "_quantization_metadata": '{"layers": {"vae.b": {"format": "mxfp8"}}}'}
    for prefix in ("model.diffusion_model.", ""):
        path = tmp_path / "all.safetensors"
        save_file({prefix + k: v for k, v in own.items()} | other, path, metadata=metadata)
        assert load_transformer("wan", path).config.num_layers == WAN["num_layers"]
        key = prefix + "blocks.0.ffn.0.weight"
        strange = {**own, "blocks.0.ffn.0.weight": torch.zeros(64, 48).to(torch.float8_e8m0fnu)}
        save_file({prefix + k: v for k, v in strange.items()} | other, path, metadata=metadata)
        assert "blocks.0.ffn.0.weight: F8_E8M0" in str(refuses(lambda path=path: load_transformer("wan", path))), key


# --- configs ----------------------------------------------------------------------------------------------------------


def test_names_do_not_make_blocks():
    assert count_blocks(["b.0.x", "b.1.x", "b.²", "b.x"], "b.") == 2
    refuses(lambda: count_blocks(["b.0", "b.999999999"], "b."), "without a gap")
    refuses(lambda: count_blocks([f"b.{i}" for i in range(MAX_BLOCKS + 1)], "b."), "at most")


@pytest.mark.parametrize(
    "change",
    [
        {"num_layers": 3_000_000}, {"num_layers": 10**40}, {"num_layers": -1}, {"attention_head_dim": 10**9},
        {"num_attention_heads": 900, "attention_head_dim": 900}, {"ffn_dim": 1e30}, {"eps": -1.0}, {"eps": [1]},
        {"rope_max_seq_len": 10**9}, {"patch_size": [1] * 99}, {"patch_size": [1, 0, 2]},
        {"patch_size": {"a": 1}}, {"qk_norm": "x" * 999},
        {"text_dim": "many"}, {"in_channels": True}, {"freq_dim": 0},
    ],
    ids=str,
)  # fmt: skip
def test_sizes_of_a_config_are_bounded_by_the_file(tmp_path, change):
    path = tmp_path / "m.safetensors"
    save_file(to_public("wan", stock("wan").state_dict()), path, metadata={"config": json.dumps({**WAN, **change})})
    refuses(lambda: prove_model("wan", path))
    refuses(lambda: load_transformer("wan", path))


@FUZZ
@given(st.sampled_from(sorted(WAN)), JSON)
def test_any_argument_is_taken_or_refused(name, value):
    state = {"a": torch.zeros(64, 8, device="meta")}
    try:
        assert check_arguments({name: value}, state) == {name: value}
    except InputError as error:
        assert "\n" not in str(error)


def test_rotary_axes_must_make_a_head():
    for axes in ([4, 6], [4, 6, 5], [4, 6, 8], "x", [4, 6, "6"], [-4, 14, 6], None):
        arguments = {"attention_head_dim": 16, "axes_dims_rope": axes}
        refuses(lambda arguments=arguments: check_arguments(arguments, {}))
    check_arguments({"attention_head_dim": 16}, {})


def test_arguments_without_a_default_are_of_the_kinds_that_are_written():
    """As a list for the one patch size of a VAE, which is None by default."""
    check_types({"patch_size": None, "latents_mean": [0.0]}, AutoencoderKLWan.__init__)
    check_types({"patch_size": 2, "dim_mult": (1, 2), "dropout": 0}, AutoencoderKLWan.__init__)
    refuses(lambda: check_arguments({"patch_size": 0}, {}))
    for change in ({"patch_size": [1]}, {"patch_size": True}, {"patch_size": 2.0}, {"decoder_base_dim": "x"},
                   {"latents_mean": 0.0}):  # fmt: skip
        refuses(lambda change=change: check_types(change, AutoencoderKLWan.__init__))


# --- CLIP: one reader, no network -------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch):
    """Whoever opens a connection or asks for an address fails the test."""

    def stop(*args, **kwargs):
        raise AssertionError("reached for the network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, stop)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, stop)


NAMES = [
    "hf-hub:some/model",
    "local-dir:/tmp",
    "hf-hub:",
    "schema:x",
    "roberta-ViT-B-32",
    "ViT-B-16-SigLIP",
    "coca_ViT-B-32",
]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_of_a_clip_is_looked_for_elsewhere(weights, offline, name):
    studio = write(weights.parent, clip={"file": "clip.safetensors", "config": name})
    refuses(lambda: load_studio(studio).check("clip"))
    refuses(lambda: ClipScorer.load(weights / "clip.safetensors", name))


FOREIGN = [
    {"text_cfg": {**CLIP["text_cfg"], "hf_tokenizer_name": "a/b"}},
    {"text_cfg": {**CLIP["text_cfg"], "tokenizer_kwargs": {"bpe_path": "/etc/passwd"}}},
    {"text_cfg": {**CLIP["text_cfg"], "tokenizer_kwargs": {"reduction_mask": "syntax"}}},  # would fetch word lists
    {"vision_cfg": {**CLIP["vision_cfg"], "timm_model_name": "a"}},
    {"vision_cfg": {**CLIP["vision_cfg"], "layers": 10**6}},
    {"vision_cfg": {**CLIP["vision_cfg"], "image_size": 4000, "pos_embed_type": "sin_cos_2d"}},
    {"vision_cfg": {**CLIP["vision_cfg"], "pool_type": "none"}},
    {"vision_cfg": []},
    {"embed_dim": -1},
    {"embed_dim": 10**12},
    {"cast_dtype": "x"},
]


@pytest.mark.parametrize("change", FOREIGN, ids=str)
def test_configs_of_a_clip_hold_sizes_only(weights, offline, change):
    refuses(lambda: ClipScorer.load(weights / "clip.safetensors", {**CLIP, **change}))


def test_a_text_encoder_fetches_nothing_that_its_config_names(weights, offline, tmp_path):
    state = load_file(weights / "t5.safetensors")
    tokenizer = read_checkpoint(weights / "t5.safetensors").metadata["tokenizer"]
    config = {**T5, "attn_implementation": "kernels-community/x", "auto_map": {"AutoModel": "a/b--c.D"}}
    save_file(state, tmp_path / "t5.safetensors", {"config": json.dumps(config), "tokenizer": tokenizer})
    part = {"kind": "t5", "file": str(tmp_path / "t5.safetensors")}
    studio = load_studio(write(weights.parent, video_text=part))
    studio.check("video_text")
    assert studio.video_text.model.config._attn_implementation != "kernels-community/x"


@pytest.mark.parametrize(("part", "name"), [("keyframe", "pooled_projection_dim"), ("video", "freq_dim"),
                                            ("video_text", "d_model"), ("video_text", "d_ff")])  # fmt: skip
def test_a_width_of_0_is_refused_in_our_words_alone(weights, tmp_path, part, name):
    file = "t5" if part == "video_text" else part
    known = {"keyframe": FLUX, "video": {**WAN, "text_dim": 32, "num_layers": 1}, "video_text": T5}[part]
    metadata = read_checkpoint(weights / f"{file}.safetensors").metadata
    changed = {**metadata, "config": json.dumps({**known, name: 0})}
    save_file(load_file(weights / f"{file}.safetensors"), tmp_path / "x.safetensors", changed)
    kind = {"kind": "t5"} if part == "video_text" else {}
    studio = load_studio(write(weights.parent, **{part: {**kind, "file": str(tmp_path / "x.safetensors")}}))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        refuses(lambda: studio.check(part))
    assert [str(warning.message) for warning in seen] == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "int", "bool", "complex"])
def test_weights_of_a_clip_are_finite_floats(weights, tmp_path, value):
    state = load_file(weights / "clip.safetensors")
    key = "visual.proj"
    kinds = {"int": torch.int32, "bool": torch.bool, "complex": torch.complex64}
    state[key] = state[key].to(kinds[value]) if value in kinds else torch.full_like(state[key], value)
    save_file(state, tmp_path / "clip.safetensors", {"config": json.dumps(CLIP)})
    for call in (ClipScorer.load, ClipScorer.prove):
        assert key in str(refuses(lambda call=call: call(tmp_path / "clip.safetensors")))


@FUZZ
@given(st.sampled_from(["embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "preprocess_cfg"]), JSON)
def test_any_clip_config_is_taken_or_refused(name, value):
    config = {"model_cfg": {**CLIP, name: value}} if name != "preprocess_cfg" else {"model_cfg": CLIP, name: value}
    try:
        split_config(config, {"a": torch.zeros(64, 64)})
    except InputError as error:
        assert "\n" not in str(error)


# --- LoRAs and studio files -------------------------------------------------------------------------------------------

PART_NAMES = (
    "lora_A.weight lora_B.weight alpha diff diff_b lokr_w1 lokr_w2 hada_w1_a hada_w1_b hada_w2_a hada_w2_b "
    "lora_mid.weight lora_B.bias x"
).split()
SHAPES = st.lists(st.sampled_from([0, 1, 2, 8, 48, 64]), max_size=3)


@FUZZ
@given(st.dictionaries(st.sampled_from(PART_NAMES), SHAPES, max_size=5), JSON)
def test_any_lora_is_applied_or_refused(parts, metadata):
    names = ("blocks.0.ffn.0", "patch_embedding", "blocks.0.norm2", "blocks.0")
    for name in names:
        tensors = {f"{name}.{part}": torch.ones(shape) for part, shape in parts.items()}
        stored = {"lora_adapter_metadata": json.dumps({"lora_alpha": metadata})}
        try:
            lora = parse_lora(MODEL, "wan", Checkpoint(tensors, stored))
            assert lora.pairs or lora.deltas
        except InputError as error:
            assert "\n" not in str(error)


MODEL = stock("wan")


@FUZZ
@given(st.sampled_from([*STUDIO, "defaults", "dtype", "other"]), JSON)
def test_any_studio_is_taken_or_refused(name, value):
    for data in ({**STUDIO, name: value}, {**STUDIO, "clip": {"file": "a", name: value}}, value):
        try:
            assert isinstance(StudioConfig.parse(data), StudioConfig)
        except InputError as error:
            assert "\n" not in str(error)


# --- a studio is proven before anything is rendered -------------------------------------------------------------------


def test_a_bad_video_model_is_found_before_the_run_folder_is_touched(weights, tmp_path):
    state = load_file(weights / "video.safetensors")
    story = Storyboard.model_validate(
        {"title": "a", "fps": 8, "size": [64, 32], "shots": [{"scene": "a", "seconds": 1.125}]}
    )
    out = tmp_path / "film"
    bad = {
        "incomplete": {k: v for k, v in state.items() if "ffn.0.bias" not in k},
        "NaN": {k: v * float("nan") if "ffn.0.bias" in k else v for k, v in state.items()},
        "another size": {k: v[:-1] if "ffn.0.weight" in k else v for k, v in state.items()},
    }
    config = {"config": json.dumps({**WAN, "text_dim": 32, "num_layers": 1})}
    for tensors in bad.values():
        save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "video.safetensors", config)
        studio = load_studio(write(weights.parent, video={"file": str(tmp_path / "video.safetensors")}))
        error = refuses(lambda studio=studio: make_film(story, studio, out))
        assert error.where == "studio.yaml" and error.field.startswith("video")
        assert not out.exists() and not set(vars(studio)) & {"keyframe", "video"}


def test_what_a_studio_is_made_of_must_fit_together(weights, tmp_path):
    from diffusers import FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    tokenizer = read_checkpoint(weights / "t5.safetensors").metadata["tokenizer"]
    rows = load_file(weights / "t5.safetensors")["shared.weight"].shape[0]
    wide = {**T5, "d_model": 40}
    t5 = T5EncoderModel(T5Config(vocab_size=rows, **wide))
    save(tmp_path / "t5.safetensors", "t5", t5, wide, {"tokenizer": tokenizer})
    pooled = {**FLUX, "pooled_projection_dim": 24}
    save(tmp_path / "flux.safetensors", "flux", FluxTransformer2DModel(**pooled), pooled)
    cases = {
        "keyframe: joint_attention_dim": {"keyframe_text": {"kind": "t5", "file": f"{tmp_path}/t5.safetensors"}},
        "video: text_dim": {"video_text": {"kind": "t5", "file": f"{tmp_path}/t5.safetensors"}},
        "keyframe: pooled_projection_dim": {"keyframe": {"file": f"{tmp_path}/flux.safetensors"}},
    }
    for message, change in cases.items():
        refuses(lambda change=change: load_studio(write(weights.parent, **change)).check(), message)
    state = load_file(weights / "vae.safetensors")
    for i, statistics in enumerate(([0.0] * 4, None, 3, [1.0] * 5, ["1"] * 4)):
        path = tmp_path / f"vae{i}.safetensors"
        save_file(state, path, {"config": json.dumps({**VAE, "latents_std": statistics})})
        change = {"video_vae": {"kind": "wan_vae", "file": str(path)}}
        refuses(lambda: load_studio(write(weights.parent, **change)).check("video_vae"), "latents_std")  # noqa: B023
    lora = tmp_path / "lora.safetensors"
    save_file(
        {"blocks.0.ffn.0.lora_A.weight": torch.zeros(2, 9), "blocks.0.ffn.0.lora_B.weight": torch.zeros(64, 2)}, lora
    )
    change = {"video": {"file": "video.safetensors", "loras": [{"file": str(lora)}]}}
    assert refuses(lambda: load_studio(write(weights.parent, **change)).check()).field.startswith("video.loras[0]")


def test_a_change_of_a_file_is_proven_anew(weights, tmp_path):
    save_file(load_file(weights / "clip.safetensors"), tmp_path / "clip.safetensors", {"config": json.dumps(CLIP)})
    studio = load_studio(write(weights.parent, clip={"file": str(tmp_path / "clip.safetensors")}))
    studio.check("clip")
    (tmp_path / "clip.safetensors").write_bytes(b"something else")
    refuses(lambda: studio.check("clip"), "whole and valid")
    assert "ViT-L-14" in open_clip.list_models()
