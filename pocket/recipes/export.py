"""Writes trained pocket models the way public checkpoints are written: key names, precision, metadata."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from ...core.files import atomic_path, write_atomic
from ...models.encoders.clip import ClipScorer, build_clip
from ...models.io import keymaps
from ...story.vocabulary import Vocabulary
from ...training.lora import write_lora
from .. import configs
from ..lexicon import LEXICON, PLAIN, words_of
from ..tokenizer import build_chat_tokenizer, build_tokenizer
from ..world import CAST, DATA_VERSION
from .pair_prompts import EYES, qwen_vl_config

_PACKAGE = Path(__file__).resolve().parent.parent.parent
WEIGHTS = _PACKAGE / "pocket" / "weights"
STUDIO = _PACKAGE / "studios" / "pocket.yaml"

StateDict = dict[str, Tensor]


def start_family(folder: Path) -> Path:
    """A family of one's own in `folder`, at first the shipped one: its files under ``weights/``, and its studio file.

    What is there already stays. The package itself is never written to.

    Returns:
        The studio file, for `load_studio` and ``--studio``.
    """
    for path in sorted(WEIGHTS.glob("*.safetensors")):
        target = folder / "weights" / path.name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target) as temporary:
                shutil.copyfile(path, temporary)
    studio = folder / "pocket.yaml"
    if not studio.exists():
        text = STUDIO.read_text(encoding="utf-8")
        moved = text.replace("models_dir: ../pocket/weights", "models_dir: weights")
        assert moved != text, "the pocket studio's file says where its weights lie"
        write_atomic(studio, moved)
    return studio


def checkpoint_weights(path: Path) -> StateDict:
    """The averaged (EMA) weights of a training checkpoint, buffers included."""
    tensors = load_file(path)
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    weights |= {k.removeprefix("ema."): v for k, v in tensors.items() if k.startswith("ema.")}
    return weights


def tokenizer_of(path: Path) -> Tokenizer:
    """The tokenizer that a text encoder's file carries."""
    with safe_open(path, framework="pt") as file:
        return Tokenizer.from_str(file.metadata()["tokenizer"])


def taught_words() -> Vocabulary:
    """The words of the pocket world's captions, which its text encoders are taught."""
    kinds = ("colour", "shape", "accessory", "place", "action")
    return Vocabulary((*words_of(), *PLAIN), {kind: LEXICON[kind] for kind in kinds})


def part(weights: Mapping[str, Tensor], prefix: str) -> StateDict:
    """Tensors under `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def joined(parts: Mapping[str, Mapping[str, Tensor]]) -> StateDict:
    """One state dict of several, each under its prefix: the inverse of `part`."""
    return {prefix + k: v for prefix, tensors in parts.items() for k, v in tensors.items()}


def metadata(recipe: str, seed: int, config: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, str]:
    """What a weight file says of itself: recipe, seed, data version, architecture, measured figures."""
    return {
        "recipe": recipe,
        "seed": str(seed),
        "data_version": str(DATA_VERSION),
        "config": json.dumps(config),
        "figures": json.dumps(figures),
    }


def write_weights(path: Path, tensors: StateDict, meta: dict[str, str], dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write one file atomically; tensors in `dtype`, but for fp8 ones and their scales."""
    keep = (torch.float8_e4m3fn,)
    tidy = {k: v if v.dtype in keep or k.endswith(".scale_weight") else v.to(dtype) for k, v in tensors.items()}
    tidy = {k: v.detach().cpu().contiguous().clone() for k, v in tidy.items()}
    with atomic_path(path) as temporary:
        save_file(tidy, temporary, metadata=meta)
    return path


def scaled_fp8(tensors: StateDict, others: Collection[str] = ()) -> StateDict:
    """The blocks' matrices, and `others`, as fp8 with one scale each, in ComfyUI's format: half the size, about 3 %
    rounding.
    """
    out: StateDict = {"scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn).fill_(0)}
    for key, value in tensors.items():
        if value.ndim == 2 and ("blocks." in key or key in others) and key.endswith(".weight"):
            out |= fp8_matrix({key: value}, key)
        else:
            out[key] = value
    return out


def rows_fp8(tensors: StateDict, keep: Collection[str] = ()) -> StateDict:
    """Every kernel of three dimensions or more as fp8 with a scale for each of its rows, but for those in `keep`.

    A VAE loses 0.3 dB of its 31 that way, and 0.6 dB with one scale for a whole kernel.
    """
    out: StateDict = {"scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn).fill_(0)}
    for key, value in tensors.items():
        if value.ndim < 3 or value.shape[1] == 1 or not key.endswith(".weight") or key in keep:
            out[key] = value
            continue
        flat = value.float().flatten(1)
        scale = flat.abs().amax(1).clamp_min(1e-12) / 448
        out[key] = (flat / scale[:, None]).to(torch.float8_e4m3fn).view(value.shape)
        out[key.removesuffix(".weight") + ".scale_weight"] = scale
    return out


def fp8_matrix(tensors: StateDict, key: str) -> StateDict:
    """One matrix as fp8 with its scale."""
    scale = tensors[key].float().abs().amax().clamp_min(1e-12) / 448
    small = (tensors[key].float() / scale).to(torch.float8_e4m3fn)
    return {**tensors, key: small, key.removesuffix(".weight") + ".scale_weight": scale}


def export_vae(
    folder: Path, weights: StateDict, mean: list[float], std: list[float], seed: int, figures: Mapping[str, Any]
) -> Path:
    """The VAE in the original Wan names; its latent statistics travel in the config."""
    config = {**configs.VAE, "latents_mean": mean, "latents_std": std}
    meta = metadata("vae", seed, config, figures)
    return write_weights(folder / "vae.safetensors", keymaps.to_public("wan_vae", weights), meta)


def export_keyframe(folder: Path, weights: StateDict, seed: int, figures: Mapping[str, Any]) -> Path:
    """The keyframe model in Black Forest Labs' names, as ComfyUI's scaled fp8."""
    meta = metadata("keyframes", seed, configs.KEYFRAME, figures)
    return write_weights(folder / "keyframe.safetensors", scaled_fp8(keymaps.to_public("flux", weights)), meta)


def export_t5(folder: Path, weights: StateDict, seed: int, figures: Mapping[str, Any], name: str = "t5") -> Path:
    """A text encoder in transformers' names; its tokenizer, names and words in the metadata."""
    tokenizer = build_tokenizer()
    config = {**configs.T5, "vocab_size": tokenizer.get_vocab_size(), "pad_token_id": 0, "eos_token_id": 1}
    meta = metadata("keyframes", seed, config, figures) | {"tokenizer": tokenizer.to_str(), "names": json.dumps(CAST)}
    meta |= taught_words().metadata()
    return write_weights(folder / f"{name}.safetensors", keymaps.to_public("t5", weights), meta)


def export_video(folder: Path, weights: StateDict, seed: int, figures: Mapping[str, Any]) -> Path:
    """The video model in the original Wan names, as ComfyUI's scaled fp8: the family has to stay under 35 MB."""
    meta = metadata("video", seed, configs.VIDEO, figures)
    return write_weights(folder / "video.safetensors", scaled_fp8(keymaps.to_public("wan", weights)), meta)


def export_upscale_vae(
    folder: Path, weights: StateDict, mean: list[float], std: list[float], seed: int, figures: Mapping[str, Any]
) -> Path:
    """The VAE of super-resolution in the original Wan names, kernels as scaled fp8; its statistics in the config."""
    config = {**configs.UPSCALE_VAE, "latents_mean": mean, "latents_std": std}
    meta = metadata("upscale_vae", seed, config, figures)
    public = rows_fp8(keymaps.to_public("wan_vae", weights))
    return write_weights(folder / "upscale_vae.safetensors", public, meta)


def export_upscale(folder: Path, weights: StateDict, seed: int, figures: Mapping[str, Any]) -> Path:
    """The super-resolution model in the original Wan names, as ComfyUI's scaled fp8."""
    meta = metadata("upscale", seed, configs.UPSCALE, figures)
    return write_weights(folder / "upscale.safetensors", scaled_fp8(keymaps.to_public("wan", weights)), meta)


def export_clip(folder: Path, weights: StateDict, seed: int, figures: Mapping[str, Any]) -> Path:
    """The CLIP in open_clip's names, half precision; the standard vocabulary's 49,408 rows as scaled fp8."""
    scorer = ClipScorer(build_clip(configs.CLIP, weights), configs.CLIP)
    meta = metadata("clip", seed, scorer.config, figures)
    state = fp8_matrix(scorer.model.state_dict(), "token_embedding.weight")
    return write_weights(folder / "clip.safetensors", state, meta, torch.float16)


def export_pair(folder: Path, weights: StateDict, seed: int, figures: Mapping[str, Any]) -> Path:
    """The pair model in Qwen-Image's names, as ComfyUI's scaled fp8."""
    meta = metadata("pairs", seed, configs.PAIR, figures)
    small = scaled_fp8(keymaps.to_public("qwen_image", weights), ("norm_out.linear.weight",))
    return write_weights(folder / "pair.safetensors", small, meta)


def export_qwen_vl(folder: Path, weights: StateDict, seed: int, figures: Mapping[str, Any]) -> Path:
    """The pair model's text encoder in Qwen2.5-VL's names; tokenizer, names, words and how it is prompted in the
    metadata.
    """
    tokenizer = build_chat_tokenizer()
    config = qwen_vl_config()
    meta = metadata("pairs", seed, config, figures) | {"tokenizer": tokenizer.to_str(), "names": json.dumps(CAST)}
    prompting = {"system_prompt": "", "picture_label": "", "picture_area": EYES[0] * EYES[1]}
    meta |= taught_words().metadata() | {"prompting": json.dumps(prompting)}
    return write_weights(folder / "qwen_vl.safetensors", keymaps.to_public("qwen_vl", weights), meta)


def export_pair_dpo(folder: Path, weights: StateDict, seed: int, figures: Mapping[str, Any]) -> Path:
    """What preference alignment adds to the pair model and its text encoder: one LoRA file for both."""
    path = folder / "pair_dpo.safetensors"
    states = {"qwen_image": part(weights, "transformer."), "qwen_vl": part(weights, "qwen.")}
    write_lora(path, states, metadata("pair_dpo", seed, {}, figures), torch.bfloat16)
    return path


def export_recogniser(folder: Path, weights: StateDict, width: int, seed: int, figures: Mapping[str, Any]) -> Path:
    """The recogniser under its own names."""
    meta = metadata("recogniser", seed, {"width": width}, figures)
    return write_weights(folder / "recogniser.safetensors", weights, meta)
