"""What comes into a node along links and widgets, looked at once, before any work.

ComfyUI checks the type of a link and the range of a widget that holds a number. It does not see what a link carries
(None, NaN, an empty list, another rank), nor the range of a number that comes along a link; a node that went on with
it would give a black film, or an error of torch's that names no input. `checked` puts these checks in front of a node,
by its own schema. What depends on two inputs at once (channels of a latent and of a model) `fits.py` says.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from comfy_api.latest import InputImpl, io
from torch import Tensor

from ..core.documents import as_integer, as_number
from ..core.errors import InputError

__all__ = ["MAX_TEXT", "check_inputs", "checked", "finite", "texts_of"]

MAX_TEXT = 4000
"""Characters of a text that a node encodes: a text encoder's memory grows with the square of its length."""

_MAX_LINES = 1 << 20
# What resampling overshoots by is less than this; 0…255 in the place of 0…1 is more.
_DARKEST, _BRIGHTEST = -1.0, 2.0
_LONG = ("story", "timeline")
"""Texts that are no prompts; who reads them limits them."""

Execute = Callable[..., io.NodeOutput]
Check = Callable[[Any, str, Any], None]


def checked(*many: str) -> Callable[[Execute], Execute]:
    """Decorator for a node's `execute`: `check_inputs` first.

    Args:
        many: inputs that take one value for each keyframe or frame, in a node that takes lists.
    """

    def decorate(execute: Execute) -> Execute:
        names = list(inspect.signature(execute).parameters)[1:]

        @functools.wraps(execute)
        def run(cls: type[io.ComfyNode], *args: Any, **inputs: Any) -> io.NodeOutput:
            given = {**dict(zip(names, args, strict=False)), **inputs}
            # Anew each time: a list of files may have grown since the server asked.
            check_inputs(cls.define_schema(), given, many)
            return execute(cls, **given)

        return run

    return decorate


def check_inputs(schema: io.Schema, given: Mapping[str, Any], many: Sequence[str] = ()) -> None:
    """Check every input of a node that is given.

    Args:
        schema: the node's.
        given: values by input; in a node that takes lists each is a list.
        many: as in `checked`.

    Raises:
        InputError: an input that is missing, of another kind, empty, not finite or out of range; it names the input.
    """
    for part in schema.inputs:
        if part.id not in given:  # ComfyUI has seen to what is required
            continue
        value = given[part.id]
        if isinstance(part, io.Autogrow.Input):
            slots = value.items() if isinstance(value, Mapping) else [(part.id, value)]
            for name, slot in slots:
                _all(list(_flat(slot)), name, part.template.input)
        elif not schema.is_input_list:
            _one(value, part.id, part)
        elif part.id in many:
            _all(value if isinstance(value, list) else [value], part.id, part)
        else:
            _only(value, part)


def texts_of(values: Sequence[str | None] | None, field: str) -> list[str]:
    """A list of texts, one for each shot or keyframe, as they were written; none where all are empty.

    Raises:
        InputError: an empty one among others: without it they would belong to other shots.
    """
    from ..models.encoders.prompt_text import from_prompt

    texts = [from_prompt(text or "").strip() for text in values or ()]
    if not any(texts):
        return []
    if "" in texts:
        fix = "write it, or connect as many texts as there are"
        raise InputError(f"{field}[{texts.index('')}]", f"must not be empty among {len(texts)}", "", fix)
    return texts


def finite(values: Tensor, field: str, what: str = "values") -> tuple[float, float]:
    """Lowest and highest of `values`, found in one pass on their own device.

    Raises:
        InputError: no numbers to compute with, none at all, or NaN or infinities among them.
    """
    if values.is_meta or values.layout != torch.strided or not values.is_floating_point():
        fix = "connect what a core node gives"
        raise InputError(field, f"must hold {what} in floating point", str(values.dtype).removeprefix("torch."), fix)
    if not values.numel():
        raise InputError(field, f"must not be empty of {what}", tuple(values.shape), "look at the node before")
    values = values.detach()
    small = values.dtype.itemsize == 1  # torch finds no extremes in 8-bit floats
    low, high = torch.stack(torch.aminmax(values.float() if small else values)).tolist()
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = int((~torch.isfinite(values.float())).sum())
        seen = f"NaN or infinity in {bad} of {values.numel()}"
        fix = "look at what the node before gives; a model or VAE that overflows in fp16 needs bf16 or fp32"
        raise InputError(field, f"must hold finite {what}", seen, fix)
    return low, high


def _only(value: Any, part: Any) -> None:
    """One value in a node that takes lists: a list of one, or of equal ones."""
    values = value if isinstance(value, list) else [value]
    if not values and not part.optional:
        raise InputError(part.id, "must not be an empty list", 0, "look at the node before: it gave nothing")
    kinds = part.get_io_type().split(",")
    # Every latent of a list may say the same size; of all else only one thing can be meant.
    same = (lambda a, b: True) if kinds == ["LATENT"] else _equal
    if any(not same(other, values[0]) for other in values[1:]):
        fix = "connect one, in the place of a list"
        raise InputError(part.id, "must be the same for all that this node makes", f"{len(values)} of them", fix)
    for each in values:
        _one(each, part.id, part)


def _all(values: Sequence[Any], field: str, part: Any) -> None:
    for i, value in enumerate(values):
        _one(value, field if len(values) == 1 else f"{field}[{i}]", part)


def _one(value: Any, field: str, part: Any) -> None:
    kinds = part.get_io_type().split(",")
    if value is None:
        if not part.optional and any(kind in _CHECKS for kind in kinds):
            fix = "look at the node before: it gave nothing (a checkpoint may lack this part)"
            raise InputError(field, f"must be connected to {_article(kinds[0])}", None, fix)
        return
    checks = [_CHECKS[kind] for kind in kinds if kind in _CHECKS]
    if len(checks) == 1:
        return checks[0](value, field, part)
    if isinstance(value, Tensor) and "IMAGE" in kinds:  # whose error says more than that it is no other kind
        return _image(value, field, part)
    if isinstance(value, InputImpl.VideoFromComponents) and "VIDEO" in kinds:
        return _video(value, field, part)
    for check in checks:
        with contextlib.suppress(InputError):
            return check(value, field, part)
    if checks:
        names = " or ".join(kinds)
        raise InputError(field, f"must be {names}", _seen(value), f"connect {names}")


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    plain = (bool, int, float, str)
    return a == b if isinstance(a, plain) and isinstance(b, plain) else False


def _flat(values: Any) -> Iterator[Any]:
    if isinstance(values, list | tuple):
        for value in values:
            yield from _flat(value)
    elif values is not None:
        yield values


def _article(kind: str) -> str:
    name = kind.removeprefix("ANCHORSHOT_")
    return f"{'an' if name[0] in 'AEIO' else 'a'} {name}"


# --- one function for each kind of socket ----------------------------------------------------------------------------


def _image(value: Any, field: str, part: Any) -> None:
    for batch in _flat([value]):
        if not isinstance(batch, Tensor) or batch.ndim not in (3, 4) or batch.shape[-1] not in (1, 3, 4):
            raise InputError(field, "must be pictures [B, H, W, C]", _seen(batch), "connect an IMAGE")
        low, high = finite(batch, field, "pictures")
        if low < _DARKEST or high > _BRIGHTEST:
            fix = "divide 8-bit values by 255, or tone-map the picture"
            raise InputError(field, "must hold values in 0…1", f"{low:g}…{high:g}", fix)


def _latent(value: Any, field: str, part: Any) -> None:
    if not isinstance(value, Mapping) or "samples" not in value:
        seen = f"keys {sorted(map(str, value))}" if isinstance(value, Mapping) else _seen(value)
        raise InputError(field, "must be a LATENT with samples", seen, "connect a latent of a core or Anchorshot node")
    for samples in _parts(value["samples"]) or [None]:
        if not isinstance(samples, Tensor) or samples.ndim < 3:
            rule = "must have samples [B, C, h, w] or [B, C, F, h, w]"
            raise InputError(field, rule, _seen(samples), "connect a latent of pictures or videos")
        finite(samples, field, "samples")
    for mask in _parts(value.get("noise_mask")):
        if not isinstance(mask, Tensor):
            raise InputError(field, "must have a tensor as its noise_mask", _seen(mask), "set the mask anew")
        finite(mask.float(), field, "mask values")


def _parts(samples: Any) -> list[Any]:
    """The tensors of a LATENT's value, which may be nested."""
    if samples is None:
        return []
    return list(samples.unbind()) if getattr(samples, "is_nested", False) is True else [samples]


def _conditioning(value: Any, field: str, part: Any) -> None:
    if not isinstance(value, list | tuple) or not value:
        seen = "an empty list" if isinstance(value, list | tuple) else _seen(value)
        raise InputError(field, "must be a CONDITIONING of at least one prompt", seen, "connect an encoded prompt")
    for prompt in value:
        whole = isinstance(prompt, list | tuple) and len(prompt) == 2 and isinstance(prompt[1], Mapping)
        tokens = prompt[0] if whole else prompt
        if not whole or not isinstance(tokens, Tensor) or tokens.ndim != 3:
            rule = "must hold prompts of [tokens [B, T, D], settings]"
            raise InputError(field, rule, _seen(tokens), "encode it with CLIP Text Encode")
        finite(tokens, field, "prompt tokens")
        pooled, references = prompt[1].get("pooled_output"), prompt[1].get("reference_latents", [])
        if not isinstance(pooled, Tensor | None):
            raise InputError(field, "must have a tensor as its pooled_output", _seen(pooled), "encode it anew")
        if not isinstance(references, list | tuple) or not all(isinstance(each, Tensor) for each in references):
            rule = "must have a list of tensors as its reference_latents"
            raise InputError(field, rule, _seen(references), "add them with Reference Latent")
        for key, held in prompt[1].items():
            for item in held if isinstance(held, list | tuple) else [held]:
                _setting(item, field, key)


def _setting(value: Any, field: str, key: str) -> None:
    """A tensor or number beside a prompt: pooled text, masks, reference latents, guidance."""
    if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
        finite(value, field, f"numbers in {key}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(field, f"must have a finite {key}", value, "set it anew")


def _sigmas(value: Any, field: str, part: Any) -> None:
    if not isinstance(value, Tensor) or value.ndim != 1:
        raise InputError(field, "must be noise levels [steps + 1]", _seen(value), "connect SIGMAS of one schedule")
    if len(value) < 2:
        fix = "give at least one step: two levels"
        raise InputError(field, "must hold at least two noise levels", len(value), fix)
    low, _ = finite(value, field, "noise levels")
    if low < 0 or bool((value.diff() > 0).any()):
        shown = ", ".join(f"{level:g}" for level in value[:6].tolist())
        fix = "connect a scheduler's; Flip Sigmas is for unsampling"
        raise InputError(field, "must fall from step to step and end at 0 or above", shown, fix)


def _audio(value: Any, field: str, part: Any) -> None:
    waveform = value.get("waveform") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(waveform, Tensor) or waveform.ndim != 3:
        seen = _seen(value if waveform is None else waveform)
        raise InputError(field, "must be an AUDIO with a waveform [B, channels, samples]", seen, "connect Load Audio")
    finite(waveform, field, "sound")
    as_integer(value.get("sample_rate"), f"{field}.sample_rate", 1)


def _object(what: str, *abilities: str) -> Check:
    """A check of one of ComfyUI's objects by what is asked of it: packs bring classes of their own."""

    def check(value: Any, field: str, part: Any) -> None:
        missing = [name for name in abilities if not hasattr(value, name)]
        if missing:
            raise InputError(field, f"must be a {what}", _seen(value), f"connect a {what}")

    return check


def _integer(value: Any, field: str, part: Any) -> None:
    _plain(value, field, "a whole number")
    as_integer(value, field, _or(part, "min", -math.inf), _or(part, "max", math.inf))


def _number(value: Any, field: str, part: Any) -> None:
    _plain(value, field, "a number")
    as_number(value, field, _or(part, "min", -math.inf), _or(part, "max", math.inf))


def _plain(value: Any, field: str, what: str) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InputError(field, f"must be {what}", _seen(value), f"connect {what}")


def _or(part: Any, name: str, default: float) -> float:
    limit = getattr(part, name, None)
    return default if limit is None else limit


def _option(value: Any, field: str, part: Any) -> None:
    options = getattr(part, "options", None)
    if options and (not isinstance(value, str) or value not in options):
        shown = ", ".join(map(str, options[:8])) + (", …" if len(options) > 8 else "")
        seen = value if isinstance(value, str) else _seen(value)
        raise InputError(field, f"must be one of {shown}", seen, "choose one of them")


def _text(value: Any, field: str, part: Any) -> None:
    if part.id == "timeline" and isinstance(value, Mapping | list):
        return
    if not isinstance(value, str):
        raise InputError(field, "must be a text", _seen(value), "connect a STRING")
    if part.id in _LONG:
        return
    lines = value.splitlines() if part.id == "captions" else [value]
    longest = max(map(len, lines), default=0)
    if longest > MAX_TEXT or len(value) > _MAX_LINES:
        seen = f"{longest} characters"
        raise InputError(field, f"must be a text of at most {MAX_TEXT} characters", seen, "shorten it")


def _flag(value: Any, field: str, part: Any) -> None:
    if not isinstance(value, bool):
        raise InputError(field, "must be true or false", _seen(value), "connect a BOOLEAN")


def _seen(value: Any) -> str:
    """What was found, in a word: a tensor's shape, else the type."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    return "nothing" if value is None else f"a value of type {type(value).__name__}"


def _video(value: Any, field: str, part: Any) -> None:
    _object("VIDEO", "get_components", "get_stream_source")(value, field, part)
    if not isinstance(value, InputImpl.VideoFromComponents):  # a file, which is read when it is needed
        return
    held = value.get_components()
    _image(held.images, field, part)
    if held.audio is not None:
        _audio(held.audio, field, part)
    if not held.frame_rate > 0:
        raise InputError(field, "must have a frame rate above 0", float(held.frame_rate), "set it in Create Video")


_CHECKS: dict[str, Check] = {
    "IMAGE": _image,
    "LATENT": _latent,
    "CONDITIONING": _conditioning,
    "SIGMAS": _sigmas,
    "AUDIO": _audio,
    "VIDEO": _video,
    "MODEL": _object("MODEL", "model", "model_options", "clone", "get_model_object"),
    "GUIDER": _object("GUIDER", "model_patcher", "set_conds"),
    "CLIP": _object("CLIP", "tokenize", "encode_from_tokens", "cond_stage_model"),
    "CLIP_VISION": _object("CLIP_VISION", "encode_image", "model"),
    "VAE": _object("VAE", "encode", "decode", "latent_dim"),
    "ANCHORSHOT_STORYBOARD": _object("STORYBOARD", "shots", "captions"),
    "ANCHORSHOT_TIMELINE": _object("TIMELINE", "frames", "keyframe_frames"),
    "ANCHORSHOT_CONTEXT": _object("CONTEXT of GoldenMem Context", "frames", "recall"),
    "INT": _integer,
    "FLOAT": _number,
    "COMBO": _option,
    "STRING": _text,
    "BOOLEAN": _flag,
}
