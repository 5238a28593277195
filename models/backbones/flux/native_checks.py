"""What interleaved pairs cannot be combined with in ComfyUI, said before anything is computed.

Plain dictionaries in, `InputError` out; ComfyUI itself is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ....core.errors import InputError
from ...layouts.pairs import PairLayout

__all__ = [
    "check_conditioning",
    "check_options",
    "check_shapes",
    "check_shared",
    "count_padded",
    "only_entry",
    "real_caption",
]

Conditioning = list[Any]
"""ComfyUI's CONDITIONING: a list of [tokens [b, T, D], dict]."""

PADDED = 256
"""Tokens that core's FLUX text encoder fills shorter prompts up to."""

# key of a conditioning → (what it is, what to do about it)
_FOREIGN = {
    "area": ("areas of the picture", "remove Conditioning (Set Area)"),
    "mask": ("masks", "remove Conditioning (Set Mask)"),
    "control": ("a ControlNet", "remove Apply ControlNet"),
    "gligen": ("GLIGEN boxes", "remove GLIGEN"),
    "reference_latents": ("reference latents", "give earlier frames as context"),
    "concat_latent_image": ("a latent to concatenate (Fill, Canny, Depth)", "use a text-to-image Flux"),
    "concat_mask": ("a mask to concatenate (Fill)", "use a text-to-image Flux"),
    "attention_mask_img_shape": ("an attention mask over the picture", "apply the style model without attn_bias"),
}
# Set once for the whole sequence: all captions run in one call.
_SHARED = ("hooks", "start_percent", "end_percent", "clip_start_percent", "clip_end_percent", "strength", "default")


def check_conditioning(field: str, entry: Mapping[str, Any]) -> None:
    """Refuse a conditioning that speaks of places in ONE picture, or brings a second network.

    Raises:
        InputError: an area, a mask, a ControlNet, reference or concatenated latents.
    """
    for key, (what, fix) in _FOREIGN.items():
        if entry.get(key) is not None:
            raise InputError(field, f"cannot carry {what} when frames are sampled together", key, fix)


def check_options(model_options: Mapping[str, Any]) -> None:
    """Refuse patches of the model that expect the stock sequence of one text and one picture.

    Raises:
        InputError: replaced blocks, block or attention patches, rope options, context windows.
    """
    options = model_options.get("transformer_options", {})
    replaced = [name for name, blocks in options.get("patches_replace", {}).items() if blocks]
    if replaced:
        fix = "take the node that replaces blocks off this model"
        raise InputError("model", "its blocks must not be replaced by another pack", replaced, fix)
    patched = [name for name, patches in options.get("patches", {}).items() if patches]
    if patched:
        fix = "take the node that patches attention or blocks off this model"
        raise InputError("model", "must carry no patches made for one text and one picture", patched, fix)
    if options.get("rope_options"):
        rule = "its position ids are set by the frames and cannot be scaled or shifted"
        raise InputError("model", rule, options["rope_options"], "take the RoPE node off this model")
    if model_options.get("context_handler") is not None:
        raise InputError("model", "cannot run in context windows", "context windows", "take that node off this model")


def check_shapes(layout: PairLayout, latent_shapes: Sequence[Sequence[int]]) -> None:
    """The sampled latent must be the one that was laid out with the model.

    Raises:
        InputError: another number of frames, or other sizes.
    """
    seen = [(shape[-2] // 2, shape[-1] // 2) for shape in latent_shapes]
    if seen != list(layout.sizes):
        shown = ", ".join(f"{2 * h}×{2 * w}" for h, w in layout.sizes)
        fix = "take model and latent from the same node"
        raise InputError("latent", f"its frames must be {shown}", [tuple(s) for s in latent_shapes], fix)


def only_entry(field: str, conditioning: Conditioning) -> tuple[Tensor, dict[str, Any]]:
    """Tokens and dictionary of a CONDITIONING that must hold one prompt and nothing foreign.

    Raises:
        InputError: no or several prompts, or what `check_conditioning` refuses.
    """
    if not isinstance(conditioning, (list, tuple)) or len(conditioning) != 1:
        seen = len(conditioning) if isinstance(conditioning, (list, tuple)) else type(conditioning).__name__
        fix = "give each frame one prompt (do not combine conditionings)"
        raise InputError(field, "must be a conditioning of exactly one prompt", seen, fix)
    tokens, entry = conditioning[0]
    check_conditioning(field, entry)
    return tokens, entry


def check_shared(field: str, entry: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """Hooks, schedules and strength count for the whole sequence: they must be those of the first new frame.

    Raises:
        InputError: this frame has others.
    """
    for key in _SHARED:
        if key in entry and entry[key] is not first.get(key) and entry[key] != first.get(key):
            rule = f"{key} must be that of the first new frame: all captions run together"
            raise InputError(field, rule, entry[key], f"set {key} on all frames or on none")


def count_padded(captions: Sequence[Conditioning]) -> int:
    """How many captions are as long as core's FLUX text encoder fills them up to by itself, 256 tokens.

    Once encoded, padding cannot be taken off again: T5 has attended to it, and nothing tells its states from words.
    """
    return sum(
        1
        for caption in captions
        for tokens, entry in caption
        if tokens.shape[1] == PADDED and entry.get("attention_mask") is None
    )


def real_caption(field: str, tokens: Tensor, entry: Mapping[str, Any]) -> Tensor:
    """The caption at its real length: in a long context padding would cost more than the compressed pictures.

    Where an encoder gives a mask, what it hides is cut off. Core's FLUX text encoder gives none: its captions are
    encoded at their real length (`comfyui.encode_text`, or T5 Tokenizer Options), or come with their padding.

    Raises:
        InputError: rows of different lengths, or a hidden token before a real one.
    """
    mask = entry.get("attention_mask")
    if mask is None:
        return tokens
    mask = mask.reshape(-1, mask.shape[-1])[:, : tokens.shape[1]].bool()
    length = int(mask[0].sum())
    if length == 0 or not mask[:, :length].all() or mask[:, length:].any():
        fix = "encode one caption at a time"
        raise InputError(field, "must hide only padding at the end, in all rows alike", mask.sum(1).tolist(), fix)
    return tokens[:, :length]
