"""Key tables: one public tensor is one diffusers tensor, or several of them stacked along dim 0.

A table is written once, per module and with `{i}` for a block number, and read in both directions: for whole state
dicts (loading and saving checkpoints) and for single modules (LoRA files, where a fused matrix splits on one side).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ...core.errors import InputError

StateDict = dict[str, torch.Tensor]

OWN = {"c": "", "a": "", "q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
CONTEXT = {"c": "_context", "a": "added_", "q": "add_q_proj", "k": "add_k_proj", "v": "add_v_proj", "o": "to_add_out"}
"""How diffusers names the two streams of a joint block, the picture's and the text's."""


def split_rows(rows: int, parts: int, width: int | None) -> list[int]:
    """Heights of the `parts` matrices stacked in one of `rows` rows; given `width`, all but the last are that tall."""
    if width is None or rows == parts * width:
        return [rows // parts] * parts
    return [width] * (parts - 1) + [rows - width * (parts - 1)]


def swap_halves(tensor: torch.Tensor) -> torch.Tensor:
    """Exchange the two halves along dim 0 (its own inverse)."""
    first, second = tensor.chunk(2, dim=0)
    return torch.cat([second, first], dim=0)


@dataclass(frozen=True)
class Entry:
    """One line of a table, resolved for a block number: the public module and the diffusers modules stacked in it."""

    public: str
    parts: tuple[str, ...]
    swapped: bool = False


class _Names:
    """Finds the line of a table by a name: plain names in a dict, names with a block number by pattern."""

    def __init__(self, lines: Mapping[str, str]) -> None:
        self._plain = {name: line for name, line in lines.items() if "{i}" not in name}
        self._numbered = [(_pattern(name), line) for name, line in lines.items() if "{i}" in name]

    def find(self, name: str) -> tuple[str, str] | None:
        """(line, block number or "") or None."""
        if name in self._plain:
            return self._plain[name], ""
        for pattern, line in self._numbered:
            if match := pattern.fullmatch(name):
                return line, match["i"]
        return None


@dataclass
class Table:
    """Public module name → diffusers module names; `{i}` stands for any block number.

    `swapped` names public modules whose two output halves (shift, scale) lie in the other order in diffusers.
    `weight_names` tells, by the last part of a public module's name, what public files call its `weight`.
    """

    modules: Mapping[str, tuple[str, ...]]
    swapped: frozenset[str] = frozenset()
    weight_names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = {p: public for public, names in self.modules.items() for p in names}
        self._public = _Names({public: public for public in self.modules})
        self._parts = _Names(parts)

    def by_public(self, module: str) -> Entry | None:
        """The entry of a public module name, or None."""
        return self._entry(self._public.find(module))

    def by_part(self, module: str) -> Entry | None:
        """The entry that holds this diffusers module, or None."""
        return self._entry(self._parts.find(module))

    def _entry(self, found: tuple[str, str] | None) -> Entry | None:
        if found is None:
            return None
        public, number = found
        parts = tuple(p.replace("{i}", number) for p in self.modules[public])
        return Entry(public.replace("{i}", number), parts, public in self.swapped)

    def to_public(self, state: Mapping[str, torch.Tensor]) -> StateDict:
        """diffusers names → public names; stacks what the public format stacks. Raises InputError on an unknown key."""
        out: StateDict = {}
        for key, tensor in state.items():
            module, suffix = _split(key)
            entry = self.by_part(key) or self.by_part(module)
            if entry is None:
                raise unknown_key(key, "the diffusers model")
            whole = self.by_part(key) is not None
            named = self.weight_names.get(_last(entry.public), suffix) if suffix == "weight" else suffix
            name = entry.public if whole else f"{entry.public}.{named}"
            if name in out:
                continue
            tail = "" if whole else f".{suffix}"
            missing = [p for p in entry.parts if p + tail not in state]
            if missing:
                raise InputError(
                    "state_dict",
                    "every part of a fused tensor must be present",
                    missing[0] + tail,
                    f"give all of {', '.join(entry.parts)}",
                )
            stacked = torch.cat([state[p + tail] for p in entry.parts]) if len(entry.parts) > 1 else tensor
            out[name] = swap_halves(stacked) if entry.swapped else stacked
        return out

    def from_public(self, state: Mapping[str, torch.Tensor], width: int | None = None) -> StateDict:
        """Public names → diffusers names; `width` is the model's hidden size (needed where unequal parts are stacked).

        Raises InputError on a key that the table does not know.
        """
        out: StateDict = {}
        for key, tensor in state.items():
            module, suffix = _split(key)
            if entry := self.by_public(key):
                out[entry.parts[0]] = tensor
                continue
            entry = self.by_public(module)
            if entry is None:
                raise unknown_key(key, "the public format")
            suffix = "weight" if suffix == self.weight_names.get(_last(module)) else suffix
            tensor = swap_halves(tensor) if entry.swapped else tensor
            if len(entry.parts) == 1:
                out[f"{entry.parts[0]}.{suffix}"] = tensor
                continue
            # Cloned: views of one storage would be saved, offloaded and cast together.
            pieces = tensor.split(split_rows(len(tensor), len(entry.parts), width))
            out.update({f"{part}.{suffix}": p.clone() for part, p in zip(entry.parts, pieces, strict=True)})
        return out


def unknown_key(key: str, where: str) -> InputError:
    """The error for a tensor name outside a table."""
    return InputError(
        "state_dict",
        f"every tensor name must belong to {where}",
        key,
        "check that the file holds the kind of model that is asked for",
    )


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\{i\}", r"(?P<i>\d+)"))


def _split(key: str) -> tuple[str, str]:
    module, _, suffix = key.rpartition(".")
    return module, suffix


def _last(module: str) -> str:
    return module.rpartition(".")[2]
