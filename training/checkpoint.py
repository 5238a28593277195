"""Checkpoints: weights, averages, optimizer and random state as one safetensors file, whichever processes wrote it.

A checkpoint always holds whole tensors, written once; so training resumes under any number of processes, sharded or
not.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..core.errors import InputError
from ..core.files import atomic_path, write_atomic
from .ema import Average
from .processes import is_main, local, shard_like, whole, whole_like

__all__ = ["average", "check_folder", "load_state", "load_weights", "save_checkpoint", "trained"]


def check_folder(folder: Path, resume: bool) -> None:
    """Refuse (InputError) a folder that holds another run's checkpoints, which a new run would write over."""
    if not resume and any(folder.glob("*.safetensors")):
        raise InputError("--out", "must hold no checkpoints of another run", str(folder), "add --resume or clear it")


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters that training changes."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def average(model: nn.Module, ema: Average) -> dict[str, Tensor]:
    """The state of `model` with averaged weights, gathered if they are sharded: every process must call this."""
    state = {name: whole(value) for name, value in model.state_dict().items()}
    named = zip(trained(model), ema.values, strict=True)
    return state | {name: whole_like(value, p) for (name, p), value in named}


def save_checkpoint(
    path: Path,
    step: int,
    model: nn.Module,
    ema: Average,
    optimizer: torch.optim.Optimizer,
    log: list[dict],
    frozen: bool = True,
) -> None:
    """Write weights, EMA, optimizer and random state as one safetensors file, atomically, and the log beside it.

    Every process must call this; the main one writes. Without `frozen` only the weights that are trained are written.
    """
    state = model.state_dict() if frozen else dict(trained(model))
    tensors: dict[str, Tensor] = {f"model.{k}": whole(v) for k, v in state.items()}
    for (name, param), mean in zip(trained(model), ema.values, strict=True):
        tensors[f"ema.{name}"] = whole_like(mean, param)
        for key, value in optimizer.state.get(param, {}).items():
            tensors[f"optimizer.{key}.{name}"] = whole(value)
    if not is_main():
        return
    tensors["random.torch"] = torch.get_rng_state()
    tensors = {k: v.detach().clone().contiguous() for k, v in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"step": str(step), "ema_steps": str(ema.steps)})
    write_atomic(path.with_suffix(".log.json"), json.dumps(log))


def load_weights(path: Path, model: nn.Module, frozen: bool = True) -> None:
    """Restore the weights and buffers, before the model is sharded; without `frozen` those that are trained."""
    with safe_open(path, framework="pt") as file:
        names = [k for k in file.keys() if k.startswith("model.")]  # noqa: SIM118 (not a dict)
        state = {k.removeprefix("model."): file.get_tensor(k) for k in names}
    own = dict(trained(model))
    if not frozen and state.keys() != own.keys():
        odd = sorted(state.keys() ^ own.keys())[0]
        rule = "checkpoints must be of the same recipe"
        raise InputError(path.name, rule, f"{odd} is in one of the two", "resume with the recipe it was begun with")
    model.load_state_dict(state, strict=frozen)


def load_state(path: Path, model: nn.Module, ema: Average, optimizer: torch.optim.Optimizer) -> tuple[int, list[dict]]:
    """Restore everything but the weights, after the model was sharded; returns (next step, log)."""
    with safe_open(path, framework="pt") as file:
        meta = file.metadata()
        names = set(file.keys())
        averages = []
        for name, param in trained(model):
            averages.append(local(shard_like(file.get_tensor(f"ema.{name}").to(param.device, param.dtype), param)))
            state = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if f"optimizer.{key}.{name}" in names:
                    value = file.get_tensor(f"optimizer.{key}.{name}")
                    state[key] = value if key == "step" else shard_like(value.to(param.device, param.dtype), param)
            if state:
                optimizer.state[param] = state
        torch.set_rng_state(file.get_tensor("random.torch"))
    ema.values = averages
    ema.steps = int(meta["ema_steps"])
    log_path = path.with_suffix(".log.json")
    return int(meta["step"]), json.loads(log_path.read_text()) if log_path.exists() else []
