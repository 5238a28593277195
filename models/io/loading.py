"""Transformers and VAEs from the files people have: ComfyUI single files, diffusers folders, LoRAs, fp8, offloading.

Nothing here reaches for the network: arguments of a model come from the file's metadata, from the folder's config.json,
from a config that is given, or from names and shapes.
"""

from __future__ import annotations

import inspect
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from ...core.errors import InputError
from ..backbones import Backbone, VaeKind, find_backbone, find_vae
from . import keymaps
from .arguments import check_arguments, check_types, no_weights
from .checkpoint import (
    FP8,
    Checkpoint,
    PathLike,
    check_values,
    compare,
    dequantise,
    load_weights,
    read_checkpoint,
    read_config,
)
from .kinds import ModelKind
from .lora import LoraSpec, load_lora

if TYPE_CHECKING:
    from diffusers import ModelMixin

__all__ = [
    "LoraSpec", "Offload", "check_kind", "compile_blocks", "empty_vae", "load_transformer", "load_vae", "own_part",
    "prove_model",
]  # fmt: skip


@dataclass(frozen=True)
class Offload:
    """Where weights wait while they are not in use (diffusers' group offloading).

    Args:
        level: `block` moves whole transformer blocks, `leaf` single layers (least memory, slowest).
        blocks: how many blocks move together.
        folder: keep the waiting weights on disk instead of in memory, in a folder of their own that is made here and
            removed with the model.
    """

    level: Literal["block", "leaf"] = "block"
    blocks: int = 1
    folder: PathLike | None = None


def load_transformer(
    kind: str,
    path: PathLike,
    config: Mapping[str, Any] | PathLike | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    fp8: bool = False,
    offload: Offload | None = None,
    loras: Sequence[LoraSpec] = (),
    compile: bool = False,
) -> Any:
    """Load a transformer, as the class that its backbone makes of diffusers' own (`Backbone.adopt`).

    Args:
        kind: a backbone's.
        path: a safetensors file in public names (ComfyUI's, with or without its prefix) or in diffusers names, or a
            diffusers folder (also a pipeline's, with a `transformer` folder).
        config: the model's arguments (mapping, JSON file or folder); None takes the folder's, the file metadata's, or
            reads them from names and shapes.
        dtype: what the model computes in. Layers that diffusers marks as sensitive stay fp32.
        device: where the model computes.
        fp8: keep the blocks' weights in fp8 (e4m3) and cast each layer to `dtype` when it is used. Plain fp8 files stay
            as they are; scaled fp8 files are dequantised first.
        offload: move weights to `device` only while they are used; None keeps them there.
        loras: adapters to add, in order.
        compile: compile the repeated blocks on their first use.

    Raises:
        InputError: a file of another kind, a pickle, broken or incomplete or not finite weights, an unreadable
            quantisation, or a config that does not belong to the file.
    """
    backbone = find_backbone(kind)
    path = _inside(path, "transformer")
    offload_device = torch.device("cpu") if offload else torch.device(device)
    model = backbone.adopt()(_load(backbone, path, config, dtype, offload_device, keep_fp8=fp8))
    for spec in loras:
        load_lora(model, kind, spec, dtype)
    if fp8:
        model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
    if offload:
        _offload(model, torch.device(device), offload)
    if compile:
        compile_blocks(model)
    return model


def load_vae(
    kind: str,
    path: PathLike,
    config: Mapping[str, Any] | PathLike | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Any:
    """Load a VAE of a backbone as diffusers' class; what a file may lack (`VaeKind.optional`) is None then.

    Args and errors as `load_transformer`.
    """
    return _load(find_vae(kind), _inside(path, "vae"), config, dtype, torch.device(device))


def empty_vae(kind: str, path: PathLike, config: Mapping[str, Any] | PathLike | None = None) -> Any:
    """The VAE of a file without its weights, on the meta device: what it is, before it is worth loading.

    Args and errors as `load_vae`.
    """
    return prove_model(kind, _inside(path, "vae"), config)


def prove_model(
    kind: str,
    path: PathLike,
    config: Mapping[str, Any] | PathLike | None = None,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """The model of a file, without its weights, once it is known that they would load: names, shapes, types, config.

    The values are looked at, too, where the file is small (`checkpoint.SMALL_FILE`); the tensors of large ones stay
    unread, so that it takes seconds and no memory.

    Args:
        kind: a backbone's or its VAE's.
        path, config, dtype: as `load_transformer`.

    Raises:
        InputError: whatever would stop loading.
    """
    model = keymaps.find_kind(kind)
    folder = "vae" if isinstance(model, VaeKind) else "transformer"
    plan = _plan(_diffusers_kind(model), _inside(path, folder), config, dtype, values=False)
    compare(plan.skeleton, plan.state, plan.source)
    return plan.skeleton


def compile_blocks(model: Any, **options: Any) -> None:
    """Compile a transformer's repeated blocks (one compilation serves all); shapes may change from call to call.

    `options` go to `torch.compile`.
    """
    if not model._repeated_blocks:  # diffusers names none for some
        model._repeated_blocks = model._no_split_modules
    model.compile_repeated_blocks(**{"dynamic": True, **options})


def check_kind(kind: str, checkpoint: Checkpoint) -> None:
    """Refuse a file that holds another kind of model than asked for (InputError naming both)."""
    names = checkpoint.state.keys() | checkpoint.unread.keys()
    found = keymaps.detect_kind(names)
    if found != kind:
        some = f"tensors such as {', '.join(sorted(names)[:2]) or 'none'}"
        seen = keymaps.find_kind(found).described if found else some
        rule = f"file must hold {keymaps.find_kind(kind).described}"
        raise InputError(checkpoint.name, rule, seen, "choose another file")


def own_part(kind: str, checkpoint: Checkpoint) -> Checkpoint:
    """Of an all-in-one checkpoint the model of `kind`, under its own names; what else is in the file does not count."""
    names = checkpoint.state.keys() | checkpoint.unread.keys()
    prefix = keymaps.part_prefix(kind, names)
    part = checkpoint.without(keymaps.OTHER_PARTS) if prefix is None else checkpoint.part(prefix)
    if (complete := keymaps.find_keys(kind).complete) is not None:
        part.state = dict(complete(part.state))
    return part


class _Plan(NamedTuple):
    """A model without weights, and the tensors that belong in it."""

    skeleton: ModelMixin
    state: dict[str, torch.Tensor]
    arguments: dict[str, Any]
    source: str


def _diffusers_kind(model: ModelKind) -> Backbone | VaeKind:
    """Refuse what is no model of diffusers."""
    if not isinstance(model, Backbone | VaeKind):
        raise InputError("kind", "must be a backbone's or a VAE's", model.kind, "choose one of them")
    return model


def _plan(
    model: Backbone | VaeKind,
    path: Path,
    config: Mapping[str, Any] | PathLike | None,
    dtype: torch.dtype,
    values: bool = True,
) -> _Plan:
    checkpoint = own_part(model.kind, read_checkpoint(path))
    check_kind(model.kind, checkpoint)
    if not values:
        checkpoint = checkpoint.without_large_values()
    checkpoint.state = dequantise(checkpoint, dtype)
    given = read_config(config) or checkpoint.config or _infer(model, checkpoint)
    arguments = check_arguments(_renamed(model, given), checkpoint.state)
    state = dict(_to_diffusers(model.kind, checkpoint, arguments))
    skeleton = _build(model, arguments)
    ignored = getattr(skeleton, "_keys_to_ignore_on_load_unexpected", None) or ()
    state = {k: v for k, v in state.items() if not any(part in k for part in ignored)}
    for module in model.optional if isinstance(model, VaeKind) else ():
        if not any(k.startswith(f"{module}.") for k in state):
            setattr(skeleton, module, None)
    if not values:
        check_values(state, dtype, checkpoint.name)
    return _Plan(skeleton, state, arguments, checkpoint.name)


def _load(
    model: Backbone | VaeKind,
    path: Path,
    config: Mapping[str, Any] | PathLike | None,
    dtype: torch.dtype,
    device: torch.device,
    keep_fp8: bool = False,
) -> ModelMixin:
    plan = _plan(model, path, config, dtype)
    kept: set[str] = set()
    if keep_fp8 and any(t.dtype == torch.float8_e4m3fn for t in plan.state.values()):
        kept = _layerwise_fp8(_build(model, plan.arguments), dtype)
    return load_weights(
        plan.skeleton,
        plan.state,
        source=plan.source,
        dtype=dtype,
        device=device,
        fp32=plan.skeleton._keep_in_fp32_modules or (),
        keep_fp8=kept,
    )


def _infer(model: Backbone | VaeKind, checkpoint: Checkpoint) -> dict[str, Any]:
    state: Mapping[str, torch.Tensor] = checkpoint.state
    if model.keys.to_public is not None and not model.keys.is_public(state.keys()):
        state = keymaps.to_public(model.kind, state)
    return keymaps.infer_config(model.kind, state, checkpoint.metadata)


def _renamed(model: Backbone | VaeKind, arguments: Mapping[str, Any]) -> dict[str, Any]:
    names = model.renamed if isinstance(model, VaeKind) else {}
    return {own: value for name, value in arguments.items() for own in names.get(name, (name,))}


def _to_diffusers(kind: str, checkpoint: Checkpoint, arguments: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
    state = checkpoint.state
    if keymaps.is_public(kind, state.keys()):
        return keymaps.from_public(kind, state, arguments)
    keymaps.check_depth(kind, state, arguments)
    return state


def _build(model: Backbone | VaeKind, arguments: Mapping[str, Any]) -> ModelMixin:
    """The model without weights; only its own buffers (rotary tables) are real."""
    cls = model.network()
    own = {k: v for k, v in arguments.items() if not k.startswith("_")}
    if "quantization_config" in own:
        raise InputError(
            "config",
            "quantised diffusers folders are not read",
            "quantization_config",
            "use a bf16, fp16 or fp8 file of the same model",
        )
    unknown = sorted(own.keys() - inspect.signature(cls.__init__).parameters.keys())
    if unknown:
        raise InputError(
            "config",
            f"must hold arguments of {cls.__name__} only",
            ", ".join(unknown),
            "give the config that belongs to the file",
        )
    check_types(own, cls.__init__)
    try:
        with no_weights():
            return cls(**own)
    except Exception as error:  # whatever a class that trusts its arguments runs into
        raise InputError(
            "config", f"must describe a {cls.__name__}", str(error), "give the config that belongs to the file"
        ) from error


def _layerwise_fp8(skeleton: ModelMixin, dtype: torch.dtype) -> set[str]:
    """Names of the parameters that layerwise casting stores in fp8, asked of diffusers itself."""
    skeleton.to(dtype)
    skeleton.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
    return {name for name, parameter in skeleton.named_parameters() if parameter.dtype in FP8}


def _offload(model: Any, device: torch.device, offload: Offload) -> None:
    folder = None
    if offload.folder is not None:
        # diffusers reuses any file it finds under a block's name, whatever model it came from: never share a folder.
        Path(offload.folder).mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix="offload-", dir=offload.folder)
        weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
    model.enable_group_offload(
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type=f"{offload.level}_level",
        num_blocks_per_group=offload.blocks if offload.level == "block" else None,
        use_stream=device.type == "cuda",
        offload_to_disk_path=folder,
    )


def _inside(path: PathLike, part: str) -> Path:
    """The component's folder where a whole pipeline's folder is given."""
    path = Path(path)
    return path / part if (path / part).is_dir() and not (path / "config.json").is_file() else path
