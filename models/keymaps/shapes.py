"""Reading a model's arguments off its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from ...story.errors import InputError


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
    """How many numbered blocks follow `prefix` in the key names: the highest number plus one, 0 if there are none."""
    numbers = {int(n) for k in keys if k.startswith(prefix) and (n := k[len(prefix) :].split(".", 1)[0]).isdigit()}
    return max(numbers, default=-1) + 1


def need_config(argument: str, seen: str) -> InputError:
    """The error for an argument that shapes do not tell."""
    return InputError(
        "config",
        f"{argument} cannot be read from the tensors of a model of unusual size",
        seen,
        "give a config (a dict, a config.json, or the file's own metadata)",
    )
