"""MetricModels with random weights, each in its public file format."""

from __future__ import annotations

from pathlib import Path

import lpips
import torch
from safetensors.torch import save_model
from transformers import Dinov2Config, Dinov2Model

from anchorshot.models.encoders.clip import ClipScorer, build_clip
from anchorshot.pocket.configs import CLIP

TINY_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def write_judges(folder: Path) -> Path:
    """Write alex.safetensors (LPIPS), dinov2/ (DINO without a preprocessor) and clip.safetensors; return the folder."""
    torch.manual_seed(0)
    package = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
    save_model(package, str(folder / "alex.safetensors"))
    Dinov2Model(Dinov2Config(image_size=28, patch_size=14, **TINY_VIT)).save_pretrained(folder / "dinov2")
    ClipScorer(build_clip(CLIP), CLIP).save(folder / "clip.safetensors")
    return folder
