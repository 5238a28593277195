"""Shared by all tests: thread limits, seeds, the `cuda` marker, studios and judges with tiny random models."""

from __future__ import annotations

import os

# Before torch is imported, or its pools are made already: tiny models are slower, and less reproducible, on many.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that needs the network is a broken test
os.environ.setdefault("MPLBACKEND", "Agg")

import json
import random
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import settings

if TYPE_CHECKING:
    from anchorshot.evaluation.metrics.networks import MetricModels

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's background job; tests of Ctrl-C need a foreground's
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("anchorshot", derandomize=True, deadline=None, database=None)
settings.load_profile("anchorshot")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `cuda` on machines without a CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Every test starts from the same global random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


TINY_STUDIO = """
name: tiny
dtype: float32
models_dir: .
keyframe: {file: keyframe.safetensors}
keyframe_text: {kind: t5, file: t5.safetensors}
video: {file: video.safetensors}
video_vae: {kind: wan_vae, file: vae.safetensors}
clip: {file: clip.safetensors}
defaults:
  keyframe: {steps: 2, groups: 2, images: 1}
  video: {steps: 2, shift: 3.0}
"""


@pytest.fixture(scope="session")
def tiny_studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML of a studio of tiny random models: real classes, real files in public key names, 8 px latent cells."""
    from diffusers import AutoencoderKLWan, FluxTransformer2DModel, WanTransformer3DModel
    from safetensors.torch import save_file
    from transformers import T5Config, T5EncoderModel

    from anchorshot.models.encoders.clip import ClipScorer, build_clip
    from anchorshot.models.io.keymaps import to_public
    from anchorshot.pocket.configs import CLIP, KEYFRAME, T5, VAE, VIDEO
    from anchorshot.pocket.tokenizer import build_tokenizer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny-studio")
    tokenizer = build_tokenizer()
    t5 = T5 | {"vocab_size": tokenizer.get_vocab_size(), "num_layers": 1}
    tiny = {
        "keyframe": ("flux", FluxTransformer2DModel, KEYFRAME | {"num_layers": 1, "num_single_layers": 1}),
        "video": ("wan", WanTransformer3DModel, VIDEO | {"num_layers": 1, "ffn_dim": 32}),
        "vae": ("wan_vae", AutoencoderKLWan, VAE | {"base_dim": 8, "decoder_base_dim": 8}),
    }
    for name, (kind, model_class, config) in tiny.items():
        state = {key: value.contiguous() for key, value in to_public(kind, model_class(**config).state_dict()).items()}
        save_file(state, folder / f"{name}.safetensors", metadata={"config": json.dumps(config)})
    encoder = T5EncoderModel(T5Config(**t5))
    state = {key: value.contiguous() for key, value in to_public("t5", encoder.state_dict()).items()}
    metadata = {"config": json.dumps(t5), "tokenizer": tokenizer.to_str()}
    save_file(state, folder / "t5.safetensors", metadata=metadata)
    ClipScorer(build_clip(CLIP), CLIP).save(folder / "clip.safetensors")
    path = folder / "tiny.yaml"
    path.write_text(TINY_STUDIO)
    return path


PAIR_STUDIO = (
    TINY_STUDIO.replace("name: tiny", "name: tiny-pairs")
    + """  pair: {steps: 2, guidance: 2.0, system_prompt: the red square}
pair: {file: pair.safetensors}
pair_text: {file: qwen_vl.safetensors}
"""
)


@pytest.fixture(scope="session")
def pair_studio(tiny_studio: Path) -> Path:
    """The YAML of the tiny studio with a tiny Qwen-Image and a tiny Qwen2.5-VL for start and end frames."""
    import tiny_qwen
    from diffusers import QwenImageTransformer2DModel
    from safetensors.torch import save_file
    from tiny_weights import strong

    from anchorshot.pocket.configs import VAE

    folder, channels = tiny_studio.parent, VAE["z_dim"]
    config = {
        "in_channels": 4 * channels,
        "out_channels": channels,
        "num_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "axes_dims_rope": [4, 6, 6],
        "zero_cond_t": True,
    }
    model = strong(QwenImageTransformer2DModel(**config))
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "pair.safetensors", metadata={"config": json.dumps(config)})
    prompting = {"prompting": json.dumps({"picture_area": 3136})}
    text = tiny_qwen.public_state(tiny_qwen.tiny_vl())
    save_file(text, folder / "qwen_vl.safetensors", metadata=tiny_qwen.metadata() | prompting)
    path = folder / "pairs.yaml"
    path.write_text(PAIR_STUDIO)
    return path


MOCHI_STUDIO = """
name: tiny-mochi
models_dir: .
video: {kind: mochi, file: diffusion_models/mochi.safetensors}
video_text: {kind: t5, file: t5.safetensors}
video_vae: {kind: mochi_vae, file: vae/mochi_vae.safetensors}
clip: {file: clip.safetensors}
defaults:
  video: {steps: 3}
"""


@pytest.fixture(scope="session")
def mochi_studio(tiny_studio: Path) -> Path:
    """The YAML of a studio whose video model is a tiny Mochi, its files in public key names without any config."""
    import tiny_mochi

    from anchorshot.pocket.configs import T5

    folder = tiny_studio.parent
    for name in ("diffusion_models", "vae"):
        (folder / name).mkdir()
    model = tiny_mochi.transformer(text_embed_dim=T5["d_model"])
    tiny_mochi.write(folder / "diffusion_models" / "mochi.safetensors", "mochi", model)
    tiny_mochi.write(folder / "vae" / "mochi_vae.safetensors", "mochi_vae", tiny_mochi.vae())
    path = folder / "mochi.yaml"
    path.write_text(MOCHI_STUDIO)
    return path


@pytest.fixture(scope="session")
def judge_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of judges with random weights, see `tiny_judges`."""
    from tiny_judges import write_judges

    return write_judges(tmp_path_factory.mktemp("judges"))


@pytest.fixture(scope="session")
def judges(judge_files: Path) -> MetricModels:
    """All of them, read."""
    from anchorshot.evaluation.metrics.networks import MetricModels

    return MetricModels.load(
        judge_files / "clip.safetensors", None, judge_files / "dinov2", judge_files / "alex.safetensors"
    )
