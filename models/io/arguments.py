"""A model's arguments come from files too: each is checked by type and size before a model is built from it.

Sizes are bounded by the tensors that the same file holds, so that a line of JSON cannot ask for a model that the file
could never fill: without weights it would still take time and memory to build.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch

from ...core.documents import as_array, as_integer, as_number
from ...core.errors import InputError
from .shapes import MAX_BLOCKS

__all__ = ["check_arguments", "check_latents", "check_types", "largest_side", "no_weights"]

_FIX = "give the config that belongs to the file"
_COUNTS = ("layers", "num_layers", "num_single_layers", "num_hidden_layers", "num_res_blocks", "layers_per_block")
# What no tensor's shape tells; the largest that published models come near.
_FREE = {
    "image_size": 4096,
    "max_sequence_length": 1 << 14,
    "relative_attention_max_distance": 1 << 16,
    "rope_max_seq_len": 1 << 14,
    "sample_size": 1 << 14,
    "scale_factor_spatial": 1 << 10,
    "scale_factor_temporal": 1 << 10,
}
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "eos_id", "pad_id")
_PER_CHANNEL = ("latents_mean", "latents_std")
_WIDTHS = (("num_attention_heads", "attention_head_dim"), ("num_heads", "d_kv"))
_MAX_LIST = 16
_SMALL = 1024  # sizes up to here cost nothing, whatever the file holds
_MAX_TEXT = 200


def largest_side(state: Mapping[str, torch.Tensor]) -> int:
    """The longest side of any tensor."""
    return max((side for tensor in state.values() for side in tensor.shape), default=0)


def check_arguments(
    arguments: Mapping[str, Any], state: Mapping[str, torch.Tensor], field: str = "config"
) -> dict[str, Any]:
    """The same arguments, once they are known to be plain values of sizes that the tensors can have.

    Args:
        arguments: a model's arguments, from JSON; names that begin with `_` are not looked at.
        state: the tensors of the same model, under whichever names.
        field: what the arguments are called in errors.

    Raises:
        InputError: a value of another type, out of range, or too large for the tensors.
    """
    limit = max(largest_side(state), _SMALL)
    for name, value in arguments.items():
        if not name.startswith("_"):
            _check(name, value, f"{field}.{name}"[:_MAX_TEXT], limit, len(state))
    for heads, width in _WIDTHS:
        counts = [arguments.get(name) for name in (heads, width)]
        if all(isinstance(count, int) for count in counts) and math.prod(counts) > limit:  # type: ignore[arg-type]
            rule = f"{heads} × {width} must be a width that the file has, at most {limit}"
            raise InputError(field, rule, " × ".join(map(str, counts)), _FIX)
    if "axes_dims_rope" in arguments:
        axes = arguments["axes_dims_rope"]
        sides = [as_integer(side, f"{field}.axes_dims_rope", 2) for side in as_array(axes, f"{field}.axes_dims_rope")]
        head = arguments.get("attention_head_dim", 128)
        if len(sides) != 3 or sum(sides) != head or any(side % 2 for side in sides):
            rule = f"must be three even numbers that add up to attention_head_dim ({head})"
            raise InputError(f"{field}.axes_dims_rope", rule, axes, _FIX)
    return dict(arguments)


@contextlib.contextmanager
def no_weights() -> Iterator[None]:
    """Build a model without weights; only its own buffers (rotary tables) are real.

    A config may give a width of 0. What does not fit the file is refused afterwards, in our words and not torch's.
    """
    from accelerate import init_empty_weights  # here, because ComfyUI reads VAEs' settings without it

    with init_empty_weights(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        yield


def check_types(arguments: Mapping[str, Any], build: Callable[..., Any], field: str = "config") -> None:
    """Check that arguments are of the kinds of value that a class or function has as its defaults; None always goes.

    Where None is the default, the kinds are those that the function is written to take.

    Raises:
        InputError: e.g. a list where one number stands.
    """
    written = _written_types(build)
    for name, parameter in inspect.signature(build).parameters.items():
        value, default = arguments.get(name), parameter.default
        if value is None or default is parameter.empty or name in _IDS:
            continue
        kinds = written.get(name, set()) if default is None else {type(default)}
        if not kinds or not kinds <= _KINDS.keys():
            continue
        taken = {kind for each in kinds for kind in _KINDS[each][0]}
        if type(value) not in taken:
            rule = " or ".join(sorted({_KINDS[kind][1] for kind in kinds}))
            raise InputError(f"{field}.{name}", f"must be {rule}", value, _FIX)


_KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a word"),
    list: ((list, tuple), "a list"),
    tuple: ((list, tuple), "a list"),
}
"""Of a kind of value: what JSON has in its place, and what it is called."""


def _written_types(build: Callable[..., Any]) -> dict[str, set[type]]:
    """The types that a function's arguments are annotated with, without None; empty where they cannot be told."""
    try:
        hints = get_type_hints(build)
    except Exception:  # annotations may name what only a type checker imports
        return {}
    found = {}
    for name, hint in hints.items():
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        found[name] = {get_origin(part) or part for part in parts} - {type(None)}
    return found


def check_latents(config: Mapping[str, Any], channels: int, field: str = "config", required: bool = False) -> None:
    """Check a VAE's statistics: one mean and one deviation per channel, deviations and scale above 0.

    Where they are not `required`, they may be missing.

    Raises:
        InputError: naming which.
    """
    for name, low in (("latents_mean", -math.inf), ("latents_std", 1e-6)):
        values = config.get(name)
        if values is None and not required:
            continue
        listed = list(values) if isinstance(values, tuple) else values
        numbers = [as_number(value, f"{field}.{name}", low) for value in as_array(listed, f"{field}.{name}")]
        if len(numbers) != channels:
            raise InputError(
                f"{field}.{name}", f"must have one number per latent channel ({channels})", len(numbers), _FIX
            )
    if config.get("scaling_factor") is not None:
        as_number(config["scaling_factor"], f"{field}.scaling_factor", 1e-6)


def _check(name: str, value: Any, field: str, limit: int, tensors: int) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, list | tuple):
        longest = max(limit, _MAX_LIST) if name in _PER_CHANNEL else _MAX_LIST
        if len(value) > longest:
            raise InputError(field, f"must have at most {longest} entries", len(value), _FIX)
        for inner in value:
            if isinstance(inner, list | tuple | dict):
                raise InputError(field, "must be a list of plain values", inner, _FIX)
            _check(name, inner, field, limit, tensors)
    elif isinstance(value, str):
        if len(value) > _MAX_TEXT:
            raise InputError(field, f"must be a word of at most {_MAX_TEXT} characters", value, _FIX)
    elif isinstance(value, int):
        as_integer(value, field, *_range(name, limit, tensors))
    elif isinstance(value, float):
        low, high = (0.0, 1.0) if name.endswith(("eps", "epsilon")) or "dropout" in name else (-1e6, 1e6)
        as_number(value, field, low, high)
    else:
        raise InputError(field, "must be a number, a word, true or false, or a list of these", value, _FIX)


def _range(name: str, limit: int, tensors: int) -> tuple[int, int]:
    if name in _IDS:
        return -1, limit
    if name in _PER_CHANNEL or name in ("scaling_factor", "shift_factor"):
        return -(10**6), 10**6
    if name in _COUNTS:
        return 0, min(tensors, MAX_BLOCKS)
    return int(name == "patch_size"), _FREE.get(name, limit)  # what is counted in patches is divided by it
