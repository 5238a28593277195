"""ClipScorer on the real open_clip class: file round trip, embeddings, pooled text, preprocessing, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torchvision.transforms import functional as TF
from transformers import CLIPTextConfig, CLIPTextModel

from anchorshot.core.errors import InputError
from anchorshot.memory.retrieval import query_parts
from anchorshot.models.encoders.clip import ClipScorer, build_clip

CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
TEXTS = ["a yellow square with a crown, waves on the left", "a pink circle with a bow", "a"]


@pytest.fixture(scope="module")
def scorer() -> ClipScorer:
    torch.manual_seed(0)
    return ClipScorer(build_clip(CONFIG), CONFIG)


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    return torch.rand(3, 3, 40, 80, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def saved(scorer: ClipScorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scorer.save(tmp_path_factory.mktemp("clip") / "clip.safetensors", {"recipe": "random"})


def test_is_the_real_class_with_the_standard_tokenizer(scorer: ClipScorer) -> None:
    assert type(scorer.model) is open_clip.CLIP and not scorer.model.training
    assert torch.equal(scorer.tokenizer(TEXTS), open_clip.get_tokenizer("ViT-B-32")(TEXTS))
    assert (scorer.dim, scorer.text_width, scorer.image_size) == (24, 16, (32, 32))


def test_embeddings_are_unit_and_match_the_model(scorer: ClipScorer, frames: torch.Tensor) -> None:
    images, texts = scorer.embed_images(frames), scorer.embed_texts(TEXTS)
    assert images.shape == texts.shape == (3, 24)
    assert torch.allclose(images.norm(dim=-1), torch.ones(3), atol=1e-6)
    with torch.no_grad():
        expected = scorer.model(scorer.preprocess(frames), scorer.tokenizer(TEXTS))
    assert torch.allclose(images, expected[0], atol=1e-6)
    assert torch.allclose(texts, expected[1], atol=1e-6)


def test_a_long_query_is_embedded_in_parts(scorer: ClipScorer, caplog: pytest.LogCaptureFixture) -> None:
    """What stands after token 77 counts for retrieval; elsewhere it is cut, with a warning."""
    start = "a yellow square with a crown waves on the left. " * 7  # 77 tokens
    long = [f"{start}a pink circle sits.", f"{start}a red star jumps."]
    parts = query_parts(long[0], lambda part: scorer.tokenizer.lengths([part])[0], 75)
    found = [scorer.embed_query(text) for text in long]
    assert len(parts) == 2 and torch.allclose(found[0], scorer.embed_texts(parts), atol=1e-6) and not caplog.records
    assert (found[0] - found[1]).norm() > 1e-2
    assert torch.allclose(scorer.embed_query("a"), scorer.embed_texts(["a"]), atol=1e-6)
    cut, pooled = scorer.embed_texts(long), scorer.pooled(long)
    assert torch.allclose(cut[0], cut[1], atol=1e-6) and torch.allclose(pooled[0], pooled[1], atol=1e-6)
    assert caplog.text.count("CLIP reads 77 of") == 1


def test_a_model_may_bring_its_own_way_to_read() -> None:
    own = {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "tokenizer_kwargs": {"clean": "canonicalize"}}}
    built = build_clip(CONFIG)
    scorer = ClipScorer(built, own)
    assert torch.equal(scorer.tokenizer(["A, b!"]), ClipScorer(built, CONFIG).tokenizer(["a b"]))
    assert scorer.embed_query("a, b! " * 60).shape == (1, 24)


def test_pooled_is_the_text_state_before_the_projection(scorer: ClipScorer) -> None:
    pooled = scorer.pooled(TEXTS)
    assert pooled.shape == (3, 16)
    with torch.no_grad():
        expected = scorer.model.encode_text(scorer.tokenizer(TEXTS))
    assert torch.allclose(pooled @ scorer.model.text_projection, expected, atol=1e-6)


def test_pooled_equals_the_pooler_output_that_flux_was_trained_with(scorer: ClipScorer) -> None:
    """The same weights in transformers' CLIPTextModel, the class of FLUX.1's first text encoder."""
    text = CONFIG["text_cfg"]
    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=16, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        hidden_act="gelu", projection_dim=24, bos_token_id=49406, eos_token_id=49407,
    )  # fmt: skip
    state = scorer.model.state_dict()
    names = {
        "embeddings.token_embedding.weight": state["token_embedding.weight"],
        "embeddings.position_embedding.weight": state["positional_embedding"],
        "final_layer_norm.weight": state["ln_final.weight"],
        "final_layer_norm.bias": state["ln_final.bias"],
    }
    inner = {"out_proj": "attn.out_proj", "fc1": "mlp.c_fc", "fc2": "mlp.c_proj"}
    for layer in range(text["layers"]):
        ours, theirs = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            qkv = state[f"{ours}.attn.in_proj_{kind}"].chunk(3)
            for letter, part in zip("qkv", qkv, strict=True):
                names[f"{theirs}.self_attn.{letter}_proj.{kind}"] = part
            for name, source in inner.items():
                place = "self_attn" if name == "out_proj" else "mlp"
                names[f"{theirs}.{place}.{name}.{kind}"] = state[f"{ours}.{source}.{kind}"]
            for number in (1, 2):
                names[f"{theirs}.layer_norm{number}.{kind}"] = state[f"{ours}.ln_{number}.{kind}"]
    reference = CLIPTextModel(config).eval()
    prefix = "text_model." if any(key.startswith("text_model.") for key in reference.state_dict()) else ""
    reference.load_state_dict({prefix + key: value for key, value in names.items()})
    with torch.no_grad():
        expected = reference(scorer.tokenizer(TEXTS)).pooler_output
    assert torch.allclose(scorer.pooled(TEXTS), expected, atol=1e-5)


def test_batches_do_not_change_results(scorer: ClipScorer, frames: torch.Tensor) -> None:
    assert torch.allclose(scorer.embed_images(frames, batch=2), scorer.embed_images(frames), atol=1e-6)
    assert torch.allclose(scorer.pooled(TEXTS, batch=1), scorer.pooled(TEXTS), atol=1e-6)
    assert scorer.embed_images(frames[:0]).shape == (0, 24)
    assert scorer.embed_texts([]).shape == (0, 24)
    assert scorer.pooled([]).shape == (0, 16)


def test_file_round_trip_keeps_every_weight_and_the_random_state(
    scorer: ClipScorer, saved: Path, frames: torch.Tensor
) -> None:
    state = torch.get_rng_state()
    loaded = ClipScorer.load(saved)
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in scorer.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value), key
    # Weights that want gradients take another path through torch's kernels, a few last bits away.
    assert torch.allclose(loaded.embed_images(frames), scorer.embed_images(frames), atol=1e-5)
    assert torch.allclose(loaded.pooled(TEXTS), scorer.pooled(TEXTS), atol=1e-5)
    with safe_open(saved, framework="pt") as file:
        assert file.metadata()["recipe"] == "random"
        assert json.loads(file.metadata()["config"])["model_cfg"]["embed_dim"] == 24
        assert {"visual.conv1.weight", "text_projection", "token_embedding.weight"} <= set(file.keys())


def test_config_may_be_given_flat_and_the_file_may_be_half_precision(
    scorer: ClipScorer, saved: Path, frames: torch.Tensor, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.safetensors"
    tensors = {key: value.half() for key, value in load_file(saved).items()}
    save_file({**tensors, "attn_mask": torch.zeros(77, 77)}, bare)  # older files carry the mask
    loaded = ClipScorer.load(bare, CONFIG)
    assert loaded.model.positional_embedding.dtype == torch.float32
    assert torch.allclose(loaded.embed_images(frames), scorer.embed_images(frames), atol=2e-2)
    assert torch.allclose(loaded.embed_texts(TEXTS), scorer.embed_texts(TEXTS), atol=2e-2)


def test_bfloat16_weights_give_fp32_embeddings(scorer: ClipScorer, saved: Path, frames: torch.Tensor) -> None:
    loaded = ClipScorer.load(saved, dtype=torch.bfloat16)
    assert loaded.model.positional_embedding.dtype == torch.bfloat16
    embedded = loaded.embed_images(frames)
    assert embedded.dtype == torch.float32
    assert (embedded * scorer.embed_images(frames)).sum(-1).min() > 0.99
    assert loaded.pooled(TEXTS).dtype == torch.float32


def test_a_known_model_name_gives_its_config(tmp_path: Path) -> None:
    config = open_clip.get_model_config("ViT-S-32-alt")
    torch.manual_seed(0)
    ClipScorer(build_clip(config), config).save(tmp_path / "vit.safetensors")
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(tmp_path / "vit.safetensors"), bare)
    assert ClipScorer.load(bare, "ViT-S-32-alt").image_size == (224, 224)


def test_preprocessing_matches_torchvision(frames: torch.Tensor) -> None:
    size, bicubic = [32, 32], TF.InterpolationMode.BICUBIC
    expected = {
        "squash": TF.resize(frames, size, bicubic),
        "shortest": TF.center_crop(TF.resize(frames, [32, 64], bicubic), size),
        "longest": TF.pad(TF.resize(frames, [16, 32], bicubic), [0, 8, 0, 8]),
    }
    for mode, pixels in expected.items():
        scorer = ClipScorer(build_clip(CONFIG), {"model_cfg": CONFIG, "preprocess_cfg": {"resize_mode": mode}})
        normal = TF.normalize(pixels.clamp(0, 1), open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
        assert torch.allclose(scorer.preprocess(frames), normal, atol=1e-5), mode


def test_every_part_of_a_wide_frame_is_seen(scorer: ClipScorer, frames: torch.Tensor) -> None:
    edge = frames.clone()
    edge[..., -8:] = 0.0
    assert not torch.allclose(scorer.embed_images(edge), scorer.embed_images(frames), atol=1e-4)


def refusal(tmp_path: Path, name: str, tensors: dict[str, torch.Tensor], **metadata: str) -> Path:
    save_file(tensors, tmp_path / name, metadata=metadata or None)
    return tmp_path / name


def test_refusals_name_the_fault(saved: Path, frames: torch.Tensor, scorer: ClipScorer, tmp_path: Path) -> None:
    tensors = load_file(saved)
    pickled = tmp_path / "pickle.safetensors"
    torch.save({"a": 1}, pickled)
    without = {key: value for key, value in tensors.items() if key != "text_projection"}
    other = {**CONFIG, "embed_dim": 48}
    siglip = open_clip.get_model_config("ViT-B-16-SigLIP")
    cases = [
        (lambda: ClipScorer.load(tmp_path / "none.safetensors"), "file must exist"),
        (lambda: ClipScorer.load(pickled), "a pickle"),
        (lambda: ClipScorer.load(refusal(tmp_path, "a.safetensors", tensors)), "carry its config"),
        (lambda: ClipScorer.load(refusal(tmp_path, "b.safetensors", tensors, config="{")), "not valid JSON"),
        (lambda: ClipScorer.load(refusal(tmp_path, "c.safetensors", without), CONFIG), "1 missing"),
        (lambda: ClipScorer.load(saved, other), "must have shape"),
        (lambda: ClipScorer.load(saved, "ViT-L-41"), "ViT-L-14"),
        (lambda: ClipScorer.load(saved, siglip), "own text tower"),
        (lambda: ClipScorer.load(saved, {"embed_dim": 3}), "vision_cfg"),
        (lambda: build_clip({**CONFIG, "vision_cfg": {"nonsense": 1}}), "open_clip CLIP config"),
        (lambda: build_clip(CONFIG, {"text_model.embeddings.x": torch.zeros(1)}), "transformers"),
        (lambda: scorer.embed_images(frames[0]), r"\[B, 3, H, W\]"),
        (lambda: scorer.embed_images(frames * float("nan")), "finite"),
        (lambda: scorer.embed_texts("one text"), "list"),
        (lambda: ClipScorer(scorer.model, {"model_cfg": CONFIG, "preprocess_cfg": {"resize_mode": "x"}}), "squash"),
    ]
    for call, message in cases:
        with pytest.raises(InputError, match=message):
            call()
