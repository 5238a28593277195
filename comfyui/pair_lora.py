"""LoRA files for a Qwen-Image-class MODEL and its Qwen2.5-VL CLIP, in the names of any tool.

STAGE's published LoRA holds both halves in one file and numbers its branches (``lora_down.0.weight``), which core's
loader leaves out. The file is put into core's names; core does the rest, and other LoRAs, fp8 and offloading stay.
"""

from __future__ import annotations

import logging
from typing import Any

import comfy.sd

from ..core.errors import InputError
from ..models.backbones.native_models import pairs_on
from ..models.io.checkpoint import PathLike
from ..models.io.lora_comfyui import for_comfyui
from ..models.io.lora_file import read_lora, remarks
from .pair_text import NAME, prompting_of

__all__ = ["load_pair_lora"]

logger = logging.getLogger(__name__)

_MODEL, _TEXT = "diffusion_model.", "text_encoders."


def load_pair_lora(
    model: Any, clip: Any, path: PathLike, strength_model: float = 1.0, strength_clip: float = 1.0
) -> tuple[Any, Any, list[str]]:
    """Clones of both with the file's LoRA, and in words what of it was used.

    Args:
        model: a MODEL of the Qwen-Image class.
        clip: its Qwen2.5-VL CLIP.
        path: the safetensors file; it may hold either half alone.
        strength_model, strength_clip: 1 is what it was trained at.

    Raises:
        InputError: other models, no LoRA for either of them, or tensors that do not fit.
    """
    pairs_on(model)
    prompting_of(clip)
    checkpoint = read_lora(path)
    tensors, lora = for_comfyui(checkpoint, "qwen_image", "qwen_vl")
    shapes = {key.removesuffix(".weight"): value.shape for key, value in model.model.state_dict().items()}
    text = clip.cond_stage_model.state_dict().items()
    shapes |= {_TEXT + key.removesuffix(".weight"): value.shape for key, value in text}
    fit = "use a LoRA of this model"
    for place, (down, up) in lora.pairs.items():
        if place not in shapes:
            raise InputError(checkpoint.name, "must be a LoRA of these models", f"{place}, which they lack", fit)
        if tuple(shapes[place]) != (len(up), down.shape[1]):
            rule = f"must be [{', '.join(map(str, shapes[place]))}] at {place}"
            raise InputError(checkpoint.name, rule, f"[{len(up)}, {down.shape[1]}]", fit)
    tuned = comfy.sd.load_lora_for_models(model, clip, tensors, strength_model, strength_clip)
    halves = {"transformer": _MODEL, "text encoder": _TEXT + NAME}
    counts = [f"{sum(place.startswith(p) for place in lora.pairs)} layers of the {half}" for half, p in halves.items()]
    lines = [f"{checkpoint.name}: {' and '.join(counts)}", *remarks(checkpoint, lora, both=True)]
    for line in lines:
        logger.info("%s", line)
    return tuned[0], tuned[1], lines
