"""A LoRA of a transformer and its text encoder under the names that ComfyUI's loader takes.

ComfyUI knows no branch numbers (`lora_down.0.weight`), and kohya's names of a text encoder only for some. Here all such
files are put into its own plain form, without a model: names alone tell the modules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

import torch

from ...core.errors import InputError
from . import keymaps
from .checkpoint import Checkpoint, dequantise
from .lora_file import LoraAlpha, LoraFile
from .lora_names import FOREIGN, TEXT_PREFIXES, branch_of, key_of, of_text

__all__ = ["for_comfyui"]

_FORM = "in a form that is not read"
_ELSEWHERE = "of modules that this model does not have"


def for_comfyui(checkpoint: Checkpoint, kind: str, text_kind: str) -> tuple[dict[str, torch.Tensor], LoraFile]:
    """A LoRA's tensors for `comfy.sd.load_lora_for_models`, which gives each half to its model.

    Args:
        checkpoint: from `read_lora`.
        kind: a backbone whose public names are diffusers' own, such as `qwen_image`.
        text_kind: its text encoder's, such as `qwen_vl`.

    Returns:
        `diffusion_model.….lora_A.weight` and `text_encoders.….lora_A.weight` with their B, in which alpha/r is baked;
        and which modules those are (`pairs`, by those names) and what is `left`, by the reason.

    Raises:
        InputError: nothing in it is for one of the two, DoRA and other variants, or pairs that are not whole.
    """
    source, out, alphas = checkpoint.name, LoraFile(), LoraAlpha.of(checkpoint)
    image, text = _Spellings(kind, "diffusion_model."), _Spellings(text_kind, "")
    found: dict[str, dict[int, dict[str, torch.Tensor]]] = {}
    for key, tensor in dequantise(checkpoint, torch.float32).items():
        if foreign := FOREIGN.search(key):
            rule = "LoRA variants other than plain pairs are not rewritten"
            raise InputError(source, rule, foreign[1], "use a LoRA of plain pairs")
        name = key_of(key)
        place = name and (text if of_text(key) else image).find(name[0])
        if name is None or place is None or name[1] not in ("A", "B", "alpha"):
            out.left.setdefault(_FORM if name is None or place else _ELSEWHERE, []).append(key)
            continue
        branch = found.setdefault(place, {}).setdefault(branch_of(key), {})
        if name[1] in branch:
            raise InputError(source, "a LoRA must not name a module twice", key, "copy the file again")
        branch[name[1]] = tensor
    for place, branches in found.items():
        alpha = branches.get(0, {}).get("alpha")
        for tensors in branches.values():
            if tensors.keys() == {"alpha"} and len(branches) > 1:
                continue
            if not {"A", "B"} <= tensors.keys():
                seen = f"{place} has only {', '.join(sorted(tensors))}"
                raise InputError(source, "every LoRA pair must be whole", seen, "copy the file again")
            a, b = tensors["A"].float(), tensors["B"].float()
            if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or not len(a):
                seen = f"{place}: A {tuple(a.shape)}, B {tuple(b.shape)}"
                raise InputError(source, "A must be [r, in] and B [out, r]", seen, "copy the file again")
            b = b * alphas.scale(tensors.get("alpha", alpha), len(a), place, out, place)
            before = out.pairs.get(place)
            out.pairs[place] = (a, b) if before is None else (torch.cat([before[0], a]), torch.cat([before[1], b], 1))
    if not out.pairs:
        seen = next(iter(checkpoint.state), "nothing")
        raise InputError(source, f"file must hold a LoRA for {kind} or {text_kind}", seen, "use a LoRA of this model")
    rewritten = {
        f"{place}.lora_{part}.weight": value
        for place, ab in out.pairs.items()
        for part, value in zip("AB", ab, strict=True)
    }
    return {key: value.contiguous() for key, value in rewritten.items()}, out


class _Spellings:
    """Finds a module by any of its names; every line of the kind's table must be one module."""

    def __init__(self, kind: str, prefix: str) -> None:
        keys, table = keymaps.find_keys(kind), keymaps.lora_table(kind)
        text = keymaps.is_text(kind)
        self._prefixes: Collection[str] = (*keys.prefixes, *TEXT_PREFIXES)
        written = keys.prefixes[0] if text else prefix
        self._patterns = [
            (_pattern(spelled), written + public)
            for public, parts in table.modules.items()
            for spelled in dict.fromkeys(_spelled(public, parts[0], keys.lora_aliases))
        ]
        self._found: dict[str, str | None] = {}

    def find(self, spelled: str) -> str | None:
        """The module's name as ComfyUI has it, or None."""
        if spelled not in self._found:
            self._found[spelled] = self._find(spelled)
        return self._found[spelled]

    def _find(self, spelled: str) -> str | None:
        for _ in range(4):
            for pattern, name in self._patterns:
                if match := pattern.fullmatch(spelled):
                    return name.replace("{i}", match["i"]) if "{i}" in name else name
            prefix = next((prefix for prefix in self._prefixes if spelled.startswith(prefix)), None)
            if prefix is None:
                return None
            spelled = spelled[len(prefix) :]
        return None


def _spelled(public: str, own: str, aliases: Callable[[str], Collection[str]]) -> list[str]:
    names = [public, own, *aliases(own)]
    names += [name.removesuffix(".0") for name in names if name.endswith(".to_out.0")]
    return [*names, *(name.replace(".", "_") for name in names)]


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\{i\}", r"(?P<i>\d+)"))
