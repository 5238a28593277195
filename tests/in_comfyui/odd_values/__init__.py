"""A node pack for tests: values that other packs' nodes might give, and a look at what comes out.

`OddValue` gives a named value, or changes one that it is given; its output fits every input, as that of packs with
"any" sockets does. `OddLook` says of a value whether its numbers are finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from comfy.nested_tensor import NestedTensor
from comfy_api.latest import ComfyExtension, io, ui
from torch import Tensor

from .tiny_pair import pair_models, write_lora

NAN, INF = float("nan"), float("inf")


def drawn(*shape: int) -> Tensor:
    """Noise that is the same every time."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def prompt(tokens: Any, **entry: Any) -> list[Any]:
    return [[tokens, entry]]


MADE: dict[str, Callable[[], Any]] = {
    "pictures": lambda: drawn(2, 80, 160, 3),
    "clip": lambda: drawn(5, 80, 160, 3),
    "nothing": lambda: None,
    "empty list": list,
    "text": lambda: "a word",
    "number": lambda: 3.5,
    "nan": lambda: NAN,
    "infinity": lambda: INF,
    "minus": lambda: -(10**9),
    "huge": lambda: 10**18,
    "true": lambda: True,
    "bytes": lambda: b"\0\xff",
    "dictionary": lambda: {"a": 1},
    "object": object,
    "small pictures": lambda: drawn(2, 8, 8, 3),
    "odd pictures": lambda: drawn(2, 75, 155, 3),
    "one picture": lambda: drawn(1, 80, 160, 3),
    "no picture": lambda: drawn(0, 80, 160, 3),
    "flat picture": lambda: drawn(2, 0, 160, 3),
    "grey pictures": lambda: drawn(2, 80, 160, 1),
    "transparent pictures": lambda: drawn(2, 80, 160, 4),
    "seven channels": lambda: drawn(2, 80, 160, 7),
    "bytes of pictures": lambda: (drawn(2, 80, 160, 3) * 255).to(torch.uint8),
    "pictures to 255": lambda: drawn(2, 80, 160, 3) * 255,
    "half pictures": lambda: drawn(2, 80, 160, 3).half(),
    "complex pictures": lambda: drawn(2, 80, 160, 3).to(torch.complex64),
    "pictures of nan": lambda: drawn(2, 80, 160, 3) * NAN,
    "list of pictures": lambda: [drawn(80, 160, 3), drawn(1, 80, 160, 3)],
    "latent without samples": lambda: {"noise_mask": drawn(1, 80, 160)},
    "latent of lists": lambda: {"samples": [[1.0, 2.0]]},
    "latent of nothing": lambda: {"samples": None},
    "latent of integers": lambda: {"samples": torch.zeros(1, 16, 3, 10, 20, dtype=torch.int64)},
    "latent of zeros": lambda: {"samples": torch.zeros(1, 16, 3, 10, 20)},
    "latent of a picture": lambda: {"samples": drawn(1, 16, 10, 20)},
    "latent of four channels": lambda: {"samples": drawn(1, 4, 10, 20)},
    "latent of seventeen channels": lambda: {"samples": drawn(1, 17, 3, 10, 20)},
    "latent of odd sides": lambda: {"samples": drawn(1, 16, 3, 9, 19)},
    "latent of one cell": lambda: {"samples": drawn(1, 16, 1, 1, 1)},
    "latent of no row": lambda: {"samples": drawn(0, 16, 3, 10, 20)},
    "latent of two dimensions": lambda: {"samples": drawn(16, 20)},
    "latent of nan": lambda: {"samples": drawn(1, 16, 3, 10, 20) * NAN},
    "nested latent": lambda: {"samples": NestedTensor([drawn(1, 16, 10, 20), drawn(1, 16, 6, 12)])},
    "mask of nan": lambda: {"samples": drawn(1, 16, 3, 10, 20), "noise_mask": drawn(1, 1, 3, 10, 20) * NAN},
    "mask of text": lambda: {"samples": drawn(1, 16, 3, 10, 20), "noise_mask": "all"},
    "no prompt": list,
    "prompt of nothing": lambda: prompt(None),
    "prompt without settings": lambda: [[drawn(1, 5, 128)]],
    "prompt of nan": lambda: prompt(drawn(1, 5, 128) * NAN),
    "prompt of no token": lambda: prompt(drawn(1, 0, 128)),
    "wide prompt": lambda: prompt(drawn(1, 5, 4096), pooled_output=drawn(1, 768)),
    "flat prompt": lambda: prompt(drawn(5, 128)),
    "pooled of nan": lambda: prompt(drawn(1, 5, 128), pooled_output=drawn(1, 64) * NAN),
    "narrow pooled": lambda: prompt(drawn(1, 5, 128), pooled_output=drawn(1, 3)),
    "guidance of nan": lambda: prompt(drawn(1, 5, 128), guidance=NAN),
    "two prompts": lambda: [*prompt(drawn(1, 5, 128)), *prompt(drawn(1, 5, 128))],
    "rows of prompts": lambda: prompt(drawn(3, 5, 128)),
    "prompt with an area": lambda: prompt(drawn(1, 5, 128), area=(1, 1, 0, 0), strength=1.0, set_area_to_bounds=False),
    "references of text": lambda: prompt(drawn(1, 5, 128), reference_latents="no"),
    "rising levels": lambda: torch.tensor([0.0, 0.5, 1.0]),
    "levels of nan": lambda: torch.tensor([1.0, NAN, 0.0]),
    "levels in a table": lambda: torch.rand(2, 3),
    "one level": lambda: torch.tensor([1.0]),
    "no level": lambda: torch.zeros(0),
    "high levels": lambda: torch.tensor([14.6, 3.0, 0.0]),
    "levels below zero": lambda: torch.tensor([1.0, 0.0, -1.0]),
    "whole levels": lambda: torch.tensor([1, 0]),
    "levels as list": lambda: [1.0, 0.0],
    "silence of nan": lambda: {"waveform": drawn(1, 2, 800) * NAN, "sample_rate": 8000},
    "sound without rate": lambda: {"waveform": drawn(1, 2, 800)},
    "flat sound": lambda: {"waveform": drawn(800), "sample_rate": 8000},
    "long text": lambda: "walks " * 200_000,
    "object as timeline": lambda: {"keyframes": [{"requested": 0}, {"requested": 0.25}]},
}
"""By name, a value from nothing."""


def spoilt(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of IMAGE, LATENT, CONDITIONING or SIGMAS with changed numbers."""
    if isinstance(value, Tensor):
        return change(value.clone())
    if isinstance(value, Mapping) and "samples" in value:
        return {**value, "samples": spoilt(value["samples"], change)}
    if isinstance(value, list) and value and isinstance(value[0], list):
        return [[spoilt(tokens, change), entry] for tokens, entry in value]
    return value


def _poke(values: Tensor) -> Tensor:
    values.view(-1)[values.numel() // 2 :][:1] = NAN
    return values


CHANGED: dict[str, Callable[[Any], Any]] = {
    "one nan": lambda v: spoilt(v, _poke),
    "infinite": lambda v: spoilt(v, lambda t: t + INF),
    "times a billion": lambda v: spoilt(v, lambda t: t * 1e9),
    "fewer": lambda v: spoilt(v, lambda t: t[: len(t) // 2]),
    "twice": lambda v: spoilt(v, lambda t: torch.cat([t, t])),
    "half precision": lambda v: spoilt(v, lambda t: t.half()),
    "double precision": lambda v: spoilt(v, lambda t: t.double()),
    "integers": lambda v: spoilt(v, lambda t: t.to(torch.int32)),
    "other rank": lambda v: spoilt(v, lambda t: t[None]),
    "narrower": lambda v: spoilt(v, lambda t: t[..., : max(1, t.shape[-1] // 2)]),
    "without what nodes add": lambda v: {"samples": v["samples"]} if isinstance(v, Mapping) and "samples" in v else v,
    "in a list": lambda v: [v],
    "in a dictionary": lambda v: {"value": v},
}
"""By name, a change of a value that is given."""


class OddValue(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OddValue",
            category="tests",
            inputs=[io.String.Input("name"), io.AnyType.Input("given", optional=True)],
            outputs=[io.AnyType.Output("value")],
        )

    @classmethod
    def execute(cls, name: str, given: Any = None) -> io.NodeOutput:
        return io.NodeOutput(CHANGED[name](given) if name in CHANGED else MADE[name]())


class OddList(io.ComfyNode):
    """The same several times, as an output of many; with a count of 0, an empty one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OddList",
            category="tests",
            inputs=[io.AnyType.Input("given"), io.Int.Input("count", min=0, max=64)],
            outputs=[io.AnyType.Output("values", is_output_list=True)],
        )

    @classmethod
    def execute(cls, given: Any, count: int) -> io.NodeOutput:
        return io.NodeOutput([given] * count)


class OddLook(io.ComfyNode):
    """Says ``finite``, ``not finite`` or ``no numbers`` of what it is given."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OddLook",
            category="tests",
            is_output_node=True,
            is_input_list=True,
            inputs=[io.AnyType.Input("value")],
            outputs=[],
        )

    @classmethod
    def execute(cls, value: list[Any]) -> io.NodeOutput:
        numbers = [bool(torch.isfinite(t.float()).all()) for t in tensors(value)]
        said = "no numbers" if not numbers else "finite" if all(numbers) else "not finite"
        return io.NodeOutput(ui=ui.PreviewText(said))


class TinyPairModels(io.ComfyNode):
    """MODEL and CLIP for start and end frames: random, or from a folder's `pair` and `qwen_vl.safetensors`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TinyPairModels",
            category="tests",
            inputs=[io.String.Input("folder", default="")],
            outputs=[io.Model.Output("model"), io.Clip.Output("clip")],
        )

    @classmethod
    def execute(cls, folder: str) -> io.NodeOutput:
        if not folder:
            return io.NodeOutput(*pair_models())
        from anchorshot.pocket.native_pairs import load_pair_clip, load_pair_model

        return io.NodeOutput(
            load_pair_model(f"{folder}/pair.safetensors"), load_pair_clip(f"{folder}/qwen_vl.safetensors")
        )


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, float):
        return [torch.tensor(0.0 if math.isfinite(value) else NAN)]
    if isinstance(value, Mapping):
        value = list(value.values())
    if getattr(value, "is_nested", False) is True:
        value = value.unbind()
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors(item)]
    return []


class OddExtension(ComfyExtension):
    async def on_load(self) -> None:
        write_lora()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [OddValue, OddList, OddLook, TinyPairModels]


async def comfy_entrypoint() -> OddExtension:
    return OddExtension()
