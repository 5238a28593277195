"""CLIP's configs, in the form of open_clip's own files: which ones are taken, and what in them is allowed.

open_clip resolves names: `hf-hub:…` asks the network, `local-dir:…` opens a folder, and a config may name a text tower,
a tokenizer or a vision tower that is then fetched. Only the architectures that open_clip carries with it are known by
name here, and a config holds nothing but sizes and plain choices.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Any

import open_clip
import torch

from ...core.documents import as_array, as_number, as_object, parse_json
from ...core.errors import InputError
from ..io.arguments import check_arguments

__all__ = ["Config", "find_config", "known_name", "split_config"]

Config = Mapping[str, Any]

_CHOICES = {"resize_mode": ("squash", "shortest", "longest"), "interpolation": ("bicubic", "bilinear")}
_MODEL = frozenset({"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text"})
_VISION = frozenset(
    "layers width head_width mlp_ratio patch_size image_size ls_init_value no_ln_pre final_ln_after_pool pool_type "
    "pos_embed_type patch_dropout".split()
)
_TEXT = frozenset(
    "context_length vocab_size width heads layers mlp_ratio ls_init_value no_causal_mask pool_type pad_id eos_id "
    "proj_bias final_ln_after_pool tokenizer_kwargs".split()
)
_FOREIGN = ("hf_model_name", "hf_tokenizer_name", "timm_model_name")
_CLEAN = ("lower", "whitespace", "canonicalize")
_FIX = "give the config of a ViT or ResNet CLIP"


def known_name(name: str, field: str = "clip config") -> dict[str, Any]:
    """The config of an architecture that open_clip carries with it.

    Raises:
        InputError: any other name; nothing is looked for on the network or on the disk.
    """
    if name not in open_clip.list_models():
        near = difflib.get_close_matches(name[:80], open_clip.list_models(), 3)
        fix = f"try {' or '.join(near) or 'ViT-L-14'}"
        raise InputError(field, "must be a model name that open_clip knows", name, fix)
    return open_clip.get_model_config(name)


def find_config(config: Config | str | None, metadata: Mapping[str, str], source: str | os.PathLike[str]) -> Config:
    """A CLIP's config: given as a mapping or by a name that open_clip knows, or the JSON in the file's metadata.

    Raises:
        InputError: an unknown name, no config at all, or no JSON object.
    """
    if isinstance(config, str):
        return known_name(config)
    if config is not None:
        return config
    if "config" not in metadata:
        fix = "give a config or an open_clip model name such as ViT-L-14-quickgelu"
        raise InputError(str(source), "must carry its config in the metadata", sorted(metadata), fix)
    return as_object(parse_json(metadata["config"], f"{source}: config"), f"{source}: config")


def split_config(
    config: Config, state: Mapping[str, torch.Tensor] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(model config, complete preprocess config), checked.

    Args:
        config: open_clip's model config, or `{"model_cfg": …, "preprocess_cfg": …}`.
        state: the tensors that the sizes are bounded by; None for a new model.

    Raises:
        InputError: a field that is missing, foreign, of another type, or out of range.
    """
    model_cfg = dict(as_object(config.get("model_cfg", dict(config)), "clip config"))
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in model_cfg]
    if missing:
        rule = f"must have {', '.join(missing)}"
        raise InputError("clip config", rule, sorted(map(str, model_cfg)), "give an open_clip config")
    for tower, known in (("vision_cfg", _VISION), ("text_cfg", _TEXT)):
        cfg = as_object(model_cfg[tower], f"clip config.{tower}")
        for name in _FOREIGN:
            if cfg.get(name):
                rule = "must use CLIP's own text tower, tokenizer and vision tower"
                raise InputError("clip config", rule, cfg[name], "choose a ViT CLIP model")
        _only(cfg, known, f"clip config.{tower}")
        plain = {key: value for key, value in cfg.items() if key != "tokenizer_kwargs"}
        if state is not None:
            check_arguments(plain, state, f"clip config.{tower}")
    _only(model_cfg, _MODEL, "clip config")
    if state is not None:
        sizes = {key: value for key, value in model_cfg.items() if key not in ("vision_cfg", "text_cfg")}
        check_arguments(sizes, state, "clip config")
    options = as_object(model_cfg["text_cfg"].get("tokenizer_kwargs") or {}, "clip config.tokenizer_kwargs")
    if options.keys() - {"clean"} or options.get("clean", "lower") not in _CLEAN:
        rule = f"may set clean ({', '.join(_CLEAN)}) only"
        raise InputError("clip config.tokenizer_kwargs", rule, options, "remove the rest")
    return model_cfg, _preprocess(as_object(config.get("preprocess_cfg") or {}, "preprocess_cfg"))


def _preprocess(given: Mapping[str, Any]) -> dict[str, Any]:
    preprocess = {
        "mean": list(open_clip.OPENAI_DATASET_MEAN),
        "std": list(open_clip.OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "squash",
        **{key: value for key, value in given.items() if value is not None},
    }
    for key, choices in _CHOICES.items():
        if preprocess[key] not in choices:
            rule = f"must be one of {', '.join(choices)}"
            raise InputError(f"preprocess_cfg.{key}", rule, preprocess[key], "choose one of them")
    for key, low in (("mean", -1e3), ("std", 1e-3)):
        field = f"preprocess_cfg.{key}"
        numbers = [as_number(value, field, low, 1e3) for value in as_array(preprocess[key], field)]
        if len(numbers) != 3:
            raise InputError(field, "must be three numbers, for red, green and blue", preprocess[key], "correct it")
    return preprocess


def _only(given: Mapping[str, Any], known: frozenset[str], field: str) -> None:
    if unknown := sorted(str(key) for key in given.keys() - known):
        raise InputError(field, "must be an open_clip CLIP config", ", ".join(unknown), _FIX)
