"""The names in LoRA files: which tensor of which module, in the spellings of the tools that people train with.

diffusers and peft, ComfyUI, kohya's sd-scripts, OneTrainer, SimpleTuner and LyCORIS, DiffSynth, XLabs, ai-toolkit,
diffusion-pipe, and the speed-up LoRAs of lightx2v.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from torch import nn

from . import keymaps

__all__ = ["FOREIGN", "TEXT_PREFIXES", "Place", "branch_of", "key_of", "of_text", "places", "resolve", "text_key"]

_PREFIXES = (
    "base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.", "lora_transformer_",
    "lora_unet__", "lora_unet_", "lycoris_", "pipe.dit.", "pipe.", "dit.", "unet.", "module.", "model.",
)  # fmt: skip
TEXT_PREFIXES = (
    "text_encoders.transformer.", "text_encoders.", "text_encoder.", "text_encoder_", "lora_te1_", "lora_te2_",
    "lora_te3_", "lora_te_", "te1_", "te_", "te.", *_PREFIXES,
)  # fmt: skip
"""What files put before the modules of a text encoder; some put what they put before a transformer's."""
_TEXT = re.compile(r"^(text_encoders?\.|text_encoder_\d\.|lora_te\d?_|clip_|te\d?[._])")
_DECODER = re.compile(r"(?:^|[._])layers[._]\d+[._](?:self_attn|mlp)[._]")
_BRANCH = re.compile(r"[._]lora[._](?:A|B|down|up)\.(\d+)\.(?:weight|bias)$")
_PAIR = re.compile(
    r"^(?P<module>.+?)[._]lora(?:_linear_layer)?[._](?P<part>A|B|down|up|mid)"
    r"(?:\.(?!weight$|bias$)[^.]+)?(?:\.(?P<leaf>weight|bias))?$"
)
_OTHER = re.compile(
    r"^(?P<module>.+)\.(?P<part>alpha|diff|diff_b|diff_m|w_norm|b_norm|lokr_(?:w[12](?:_[ab])?|t2)|hada_(?:w[12]_[ab]|t[12]))$"
)
_XLABS = re.compile(
    r"^(?P<block>.*(?:double|single)_blocks\.\d+)\.processor\.(?P<layer>qkv|proj)_lora(?P<stream>[12]?)\.(?P<part>down|up)\.weight$"
)
_XLABS_MODULES = {
    "qkv1": "img_attn.qkv", "proj1": "img_attn.proj", "qkv2": "txt_attn.qkv", "proj2": "txt_attn.proj",
    "qkv": "linear1_qkv", "proj": "linear2",
}  # fmt: skip
FOREIGN = re.compile(
    r"\.(?P<variant>dora_scale|lora_magnitude_vector.*|oft_.*|boft_.*|[ab][12]\.weight|lora_E.*|vera_.*|on_input|set_weight)$"
)
"""What changes the meaning of the whole: DoRA, OFT, BOFT, GLoRA, AdaLoRA, VeRA, IA³, weights that replace others."""
_PARTS = {"A": "A", "down": "A", "B": "B", "up": "B", "mid": "mid"}
_SAME = {"w_norm": "diff", "b_norm": "diff_b"}


class Place(NamedTuple):
    """Where in a model a spelled name leads.

    Attributes:
        entry: the diffusers modules (or the one parameter), stacked where the public format stacks them.
        public: the name is the public format's, whose rows may lie in another order.
        parameter: a parameter of its own, such as a table of modulations, rather than a module.
    """

    entry: keymaps.Entry
    public: bool
    parameter: bool = False


def text_key(key: str) -> bool:
    """Whether a tensor says that it belongs to a text encoder."""
    return _TEXT.match(key) is not None


def of_text(key: str) -> bool:
    """Whether a tensor that is not the transformer's belongs to a text encoder, by its prefix or by its module."""
    return text_key(key) or _DECODER.search(key) is not None


def branch_of(key: str) -> int:
    """The number of a pair, where files give a module several and add their products up; else 0."""
    found = _BRANCH.search(key)
    return int(found[1]) if found else 0


def key_of(key: str) -> tuple[str, str] | None:
    """(module as spelled, part) of a tensor's name, or None where the form is not known.

    Parts: `A`, `B`, `mid`, `bias` (of B), `alpha`, `diff`, `diff_b`, and LoKr's and LoHa's own.
    """
    if found := _XLABS.match(key):
        return f"{found['block']}.{_XLABS_MODULES[found['layer'] + found['stream']]}", _PARTS[found["part"]]
    if found := _PAIR.match(key):
        if found["leaf"] == "bias":
            return (found["module"], "bias") if _PARTS[found["part"]] == "B" else None
        return found["module"], _PARTS[found["part"]]
    if found := _OTHER.match(key):
        if found["part"] == "diff_m":  # a difference of a block's modulation table
            return f"{found['module']}.modulation", "diff"
        return found["module"], _SAME.get(found["part"], found["part"])
    return None


def resolve(spelled: str, known: Mapping[str, Place], prefixes: Collection[str] = _PREFIXES) -> Place | None:
    """The place of a module's name, with or without the prefixes that tools put before it."""
    for _ in range(4):
        for name in (spelled, spelled.replace(".processor.", ".")):
            for tail in ("", ".weight", ".scale"):
                if name.endswith(tail) and (place := known.get(name[: len(name) - len(tail)])):
                    return place
        prefix = next((prefix for prefix in prefixes if spelled.startswith(prefix)), None)
        if prefix is None:
            return None
        spelled = spelled[len(prefix) :]
    return None


def places(
    table: keymaps.Table,
    modules: Mapping[str, nn.Module],
    parameters: Collection[str],
    aliases: Callable[[str], Collection[str]] = lambda name: (),
) -> dict[str, Place]:
    """Every way to write the name of a module or of a parameter of its own → its place.

    Args:
        table: the kind's key table.
        modules: a model's modules under their diffusers names.
        parameters: names of its parameters.
        aliases: more names of a module.
    """
    out: dict[str, Place] = {}

    def add(spelled: str, place: Place) -> None:
        # The first counts: where both formats share a name (patch_embedding) they mean the same module.
        out.setdefault(spelled, place)
        out.setdefault(spelled.replace(".", "_"), place)

    for name in modules:
        if (entry := table.by_part(name)) is None:
            continue
        place = Place(keymaps.Entry(name, (name,)), False)
        add(name, place)
        if name.endswith(".to_out.0"):
            add(name.removesuffix(".0"), place)
        add(entry.public, Place(entry, True))
        for alias in aliases(name):
            add(alias, place)
        if entry.public.endswith(".linear1"):  # of a single block; some train its attention alone
            add(f"{entry.public}_qkv", Place(keymaps.Entry(entry.public, entry.parts[:3]), True))
    for name in parameters:
        if name not in modules and (entry := table.by_part(name)) is not None:
            add(name, Place(keymaps.Entry(name, (name,)), False, parameter=True))
            add(entry.public, Place(entry, True, parameter=True))
    return out
