"""The shipped pocket studio: its files, and that it learned what the papers say it should.

The bounds lie below the measured figures (docs/figures.md) by what a few stories can vary.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from anchorshot import evaluation
from anchorshot.models.studio import load_studio
from anchorshot.pocket.bank import random_shots, to_tensor
from anchorshot.pocket.recipes.export import WEIGHTS
from anchorshot.pocket.recipes.recogniser import held_out_accuracy
from anchorshot.pocket.recogniser import load_recogniser
from anchorshot.pocket.render import render

FILES = (
    "clip",
    "keyframe",
    "pair",
    "pair_dpo",
    "qwen_vl",
    "recogniser",
    "t5",
    "t5_video",
    "upscale",
    "upscale_vae",
    "vae",
    "video",
)


@pytest.fixture(scope="module")
def studio():
    return load_studio("pocket")


def test_family_is_complete_small_and_documented():
    assert sorted(p.stem for p in WEIGHTS.glob("*.safetensors")) == sorted(FILES)
    assert sum(p.stat().st_size for p in WEIGHTS.iterdir()) <= 35e6
    for name in FILES:
        with safe_open(WEIGHTS / f"{name}.safetensors", framework="pt") as f:
            meta = f.metadata()
        assert {"recipe", "seed", "data_version", "config", "figures"} <= meta.keys()
        json.loads(meta["config"]), json.loads(meta["figures"])


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("keyframe", "double_blocks.0.img_attn.qkv.weight"),
        ("video", "blocks.0.self_attn.q.weight"),
        ("vae", "encoder.conv1.weight"),
        ("t5", "encoder.block.0.layer.0.SelfAttention.q.weight"),
        ("pair", "transformer_blocks.0.attn.add_q_proj.weight"),
        ("qwen_vl", "model.layers.0.self_attn.q_proj.weight"),
        ("pair_dpo", "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"),
        ("clip", "transformer.resblocks.0.attn.in_proj_weight"),
    ],
)
def test_files_use_public_key_names(name, key):
    with safe_open(WEIGHTS / f"{name}.safetensors", framework="pt") as f:
        assert key in f.keys()  # noqa: SIM118 (not a dict)


def test_recogniser_reads_held_out_renders():
    assert held_out_accuracy(load_recogniser(Path(WEIGHTS) / "recogniser.safetensors"), 256) >= 0.98


def held_out_pictures(count):
    shots = random_shots(count, "test", 50)
    return shots, to_tensor(np.stack([render(s)[0] for s in shots]))


def test_vae_keeps_pictures_recognisable(studio):
    shots, pictures = held_out_pictures(32)
    latents = studio.image_vae.encode_image(pictures)
    assert 0.8 < float(latents.std()) < 1.25, "latents have unit scale"
    again = studio.image_vae.decode_image(latents)
    assert float(-10 * (again - pictures).square().mean((1, 2, 3)).log10().mean()) >= 27.5


def test_clip_finds_the_picture_of_a_caption(studio):
    shots, pictures = held_out_pictures(64)
    similarity = studio.clip.embed_texts([s.query for s in shots]) @ studio.clip.embed_images(pictures).T
    found = [shots[int(b)].query == shots[i].query for i, b in enumerate(similarity.argmax(1))]
    assert np.mean(found) >= 0.7


def test_memory_carries_places_and_looks():
    result = evaluation.run("keyframes", stories=4, shots=6, variants=["goldenmem", "none"])
    rows = {row["variant"]: row for row in result["rows"]}
    memory, none = rows["goldenmem"], rows["none"]
    assert memory["place"] >= 0.9
    assert memory["introduced"] >= 0.9, "looks that the caption tells"
    assert memory["layout"] >= none["layout"] + 0.3
    assert memory["identity"] >= max(0.85, none["identity"] + 0.4)


def test_video_keeps_its_keyframes():
    result = evaluation.run("video", stories=3, variants=["multi_chunk", "latent_replacement", "replication"])
    rows = {row["variant"]: row for row in result["rows"]}
    ours = rows["multi_chunk"]
    assert ours["keyframes_exact"] == 1
    assert ours["keyframe_psnr"] >= ours["vae_psnr"] - 1
    assert ours["boundary_jump"] <= 1.4, "three clips scatter; sixteen stay under 1.3"
    for baseline in ("latent_replacement", "replication"):
        assert ours["keyframe_psnr"] > rows[baseline]["keyframe_psnr"]
        assert ours["psnr"] > rows[baseline]["psnr"], "nearer to the true clip than either baseline"


def test_weights_are_finite(studio):
    for part in (studio.keyframe, studio.video, studio.video_vae.model):
        assert all(bool(torch.isfinite(p).all()) for p in part.parameters())
