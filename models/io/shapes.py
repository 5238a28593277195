"""Reading a model's arguments off its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from ...core.errors import InputError

MAX_BLOCKS = 512
"""Most blocks of one kind; published models have up to 64."""


def need(state: Mapping[str, torch.Tensor], *names: str) -> torch.Tensor:
    """The first of `names` that is present; InputError if none is."""
    for name in names:
        if name in state:
            return state[name]
    raise InputError(
        "state_dict",
        "the model's tensors must be complete",
        f"no {names[0]}",
        "check that the file is whole and holds the kind of model that is asked for",
    )


def count_blocks(keys: Iterable[str], prefix: str) -> int:
    """How many numbered blocks follow `prefix` in the key names, 0 if there are none.

    Raises:
        InputError: a gap in the numbers, or more blocks than any model has: a name must not make a model of its own.
    """
    names = {k[len(prefix) :].split(".", 1)[0] for k in keys if k.startswith(prefix)}
    numbers = {int(name) for name in names if name.isascii() and name.isdigit() and len(name) <= 9}
    if numbers and max(numbers) >= min(len(numbers), MAX_BLOCKS):
        fix = "check that the file is whole"
        rule = f"blocks {prefix}… must be numbered from 0 without a gap, and at most {MAX_BLOCKS}"
        raise InputError("state_dict", rule, f"{len(numbers)} up to number {max(numbers)}", fix)
    return len(numbers)


def need_config(argument: str, seen: str) -> InputError:
    """The error for an argument that shapes do not tell."""
    return InputError(
        "config",
        f"{argument} cannot be read from the tensors of a model of unusual size",
        seen,
        "give a config (a dict, a config.json, or the file's own metadata)",
    )
