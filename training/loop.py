"""One training loop for every recipe: accelerate, EMA, atomic checkpoints with exact resume, loss curve.

A recipe draws each batch from (seed, step) alone, so resuming needs no data-loader state: a run that was killed and
resumed takes exactly the steps an unbroken run takes.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset

from ..core.files import atomic_path, write_atomic
from .attention import cpu_attention, fuse_norms
from .graphs import GraphedSteps, map_tensors
from .muon import MuonAdamW
from .recipe import Recipe

#: how much faster vectors learn than embeddings and edges. Attention's sharpness hangs on the 40 numbers of a QK norm,
#: which at the matrices' pace crept from 1.0 to 1.3 in 900 steps, all of them upwards.
VECTOR_SCALE = 5.0


@dataclass
class LoopConfig:
    """Settings of one run (Captain Cinema, Table 4: AdamW, warm-up then cosine decay, gradient clip 1).

    Attributes:
        steps: total optimizer steps; the cosine decay ends here.
        lr: peak learning rate.
        muon_lr: peak learning rate of hidden matrices under Muon; 0 leaves them to AdamW.
        warmup: steps of linear warm-up.
        final_lr: fraction of `lr` the cosine decays to.
        ema: decay of the exponential moving average of the weights (ramped up at the start).
        precision: ``no`` or ``bf16`` (autocast).
        save_every: steps between checkpoints.
        workers: processes that prepare batches on a GPU; a CPU has no core to spare for them.
        graphs: replay each kind of step as one CUDA graph.
    """

    steps: int
    lr: float
    muon_lr: float = 0.0
    seed: int = 0
    warmup: int = 100
    final_lr: float = 0.05
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.998
    precision: str = "bf16"
    save_every: int = 250
    log_every: int = 25
    max_minutes: float = math.inf
    workers: int = 2
    graphs: bool = True


def learning_rate(config: LoopConfig, step: int) -> float:
    """Linear warm-up, then cosine decay to ``final_lr`` (Captain Cinema, Table 4)."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
    return config.lr * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress)))


def _optimizer(model: torch.nn.Module, config: LoopConfig, edges: tuple[str, ...]) -> MuonAdamW:
    """Muon for the hidden matrices where the config wants it; AdamW for vectors, embeddings and `edges`."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    hidden: list[torch.nn.Parameter] = []
    decay: list[torch.nn.Parameter] = []
    plain: list[torch.nn.Parameter] = []
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        edge = id(p) in embeddings or any(part in name for part in edges)
        if p.ndim > 1 and config.muon_lr and not edge:
            hidden.append(p)
        else:
            (decay if p.ndim > 1 else plain).append(p)
    groups = [
        {"params": decay, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
        {"params": hidden, "weight_decay": config.weight_decay, "orthogonal": True},
    ]
    scales = (1.0, VECTOR_SCALE, config.muon_lr / config.lr)
    groups = [g | {"lr_scale": scale} for g, scale in zip(groups, scales, strict=True) if g["params"]]
    return MuonAdamW(groups, lr=config.lr, betas=config.betas, eps=1e-8, foreach=True)


def save_checkpoint(
    path: Path, step: int, model: torch.nn.Module, ema: EMAModel, optimizer: torch.optim.Optimizer, log: list[dict]
) -> None:
    """Write weights, EMA, optimizer and random state as one safetensors file, atomically."""
    tensors: dict[str, torch.Tensor] = {f"model.{k}": v for k, v in model.state_dict().items()}
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    for (name, param), shadow in zip(named, ema.shadow_params, strict=True):
        tensors[f"ema.{name}"] = shadow
        for key, value in optimizer.state.get(param, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    tensors["random.torch"] = torch.get_rng_state()
    tensors = {k: v.detach().clone().contiguous() for k, v in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"step": str(step), "ema_steps": str(ema.optimization_step)})
    write_atomic(path.with_suffix(".log.json"), json.dumps(log))


def load_checkpoint(
    path: Path, model: torch.nn.Module, ema: EMAModel, optimizer: torch.optim.Optimizer
) -> tuple[int, list[dict]]:
    """Restore everything `save_checkpoint` wrote; returns (next step, log)."""
    with safe_open(path, framework="pt") as f:
        meta = f.metadata()
        tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    ema.shadow_params = [tensors[f"ema.{n}"].to(p) for n, p in named]
    ema.optimization_step = int(meta["ema_steps"])
    for name, param in named:
        state = {}
        for key in ("step", "exp_avg", "exp_avg_sq"):
            if f"optimizer.{key}.{name}" in tensors:
                value = tensors[f"optimizer.{key}.{name}"]
                state[key] = value if key == "step" else value.to(param)
        if state:
            optimizer.state[param] = state
    torch.set_rng_state(tensors["random.torch"])
    log_path = path.with_suffix(".log.json")
    return int(meta["step"]), json.loads(log_path.read_text()) if log_path.exists() else []


class _Batches(Dataset):
    """A recipe's batches by step."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __getitem__(self, step: int) -> tuple[int, Any]:
        return step, self.recipe.batch(step)


def _batches(recipe: Recipe, start: int, stop: int, workers: int) -> DataLoader:
    """Batches of the steps start…stop−1, in order; `workers` processes prepare them ahead."""
    forked = workers > 0 and sys.platform == "linux"  # elsewhere what the recipe holds would have to be pickled
    return DataLoader(
        _Batches(recipe),
        batch_size=None,
        sampler=range(start, stop),
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # it draws a seed that nothing uses: not from the state that checkpoints keep
        num_workers=workers if forked else 0,
        multiprocessing_context="fork" if forked else None,
        prefetch_factor=4 if forked else None,
    )


def _as_it_is(batch: Any) -> Any:
    return batch


def train(
    recipe: Recipe,
    config: LoopConfig,
    out: Path,
    on_save: Callable[[torch.nn.Module, int], None] | None = None,
    cpu: bool = False,
) -> torch.nn.Module:
    """Train a recipe; resumes from ``out/<name>.safetensors`` when it is there.

    Args:
        recipe: what to train and on what.
        config: how.
        out: folder for the checkpoint, its log and the loss curve.
        on_save: called with the EMA model and the step at each checkpoint (for exports).
        cpu: stay on the CPU even where there is a GPU.

    Returns:
        The module with its EMA weights.
    """
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / f"{recipe.name}.safetensors"
    torch.manual_seed(config.seed)
    accelerator = Accelerator(mixed_precision=config.precision, cpu=cpu)
    device = accelerator.device
    model = recipe.build().train()
    model.to(device)
    optimizer = _optimizer(model, config, recipe.edges)
    trained = [p for p in model.parameters() if p.requires_grad]
    on_cpu = device.type == "cpu"
    ema = EMAModel(trained, decay=config.ema, min_decay=0.0, use_ema_warmup=True, power=0.75, foreach=not on_cpu)
    ema.to(device)
    start, log = load_checkpoint(checkpoint, model, ema, optimizer) if checkpoint.exists() else (0, [])
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    recipe.prepare(device)
    fuse_norms(model)

    def forward_backward(inputs: Any) -> dict[str, torch.Tensor]:
        with accelerator.autocast(AutocastKwargs(cache_enabled=on_cpu)), cpu_attention(on_cpu):
            loss, numbers = recipe.loss(wrapped, inputs)
        accelerator.backward(loss)
        return {"loss": loss.detach(), **{k: v.detach() for k, v in numbers.items()}}

    graphed = GraphedSteps(forward_backward, trained) if config.graphs and not on_cpu else None

    def save(step: int) -> None:
        if accelerator.is_main_process:
            save_checkpoint(checkpoint, step, model, ema, optimizer.optimizer, log)
            plot_losses(log, out / f"{recipe.name}.png")
            if on_save is not None:
                ema.store(trained)
                ema.copy_to(trained)
                on_save(model, step)
                ema.restore(trained)

    began = time.monotonic()
    running: dict[str, torch.Tensor] = {}
    count = 0
    for step, batch in _batches(recipe, start, config.steps, 0 if on_cpu else config.workers):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step) * group["lr_scale"]
        inputs = recipe.inputs(map_tensors(lambda x: x.to(device, non_blocking=True), batch), step)
        numbers = forward_backward(inputs) if graphed is None else graphed(inputs)
        accelerator.clip_grad_norm_(trained, config.clip)
        optimizer.step()
        if graphed is None:
            optimizer.zero_grad(set_to_none=True)
        ema.step(trained)
        for key, value in numbers.items():
            running[key] = running.get(key, 0) + value
        count += 1
        if (step + 1) % config.log_every == 0:
            entry = {"step": step + 1, "minutes": (time.monotonic() - began) / 60}
            entry |= {k: float(v) / count for k, v in running.items()}
            log.append(entry)
            accelerator.print(" ".join(f"{k} {v:.4g}" for k, v in entry.items()), flush=True)
            running, count = {}, 0
        finished = step + 1 == config.steps or time.monotonic() - began > 60 * config.max_minutes
        if (step + 1) % config.save_every == 0 or finished:
            save(step + 1)
        if finished:
            break
    ema.copy_to(trained)
    return model.eval()


def plot_losses(log: list[dict], path: Path) -> None:
    """Loss curves as a PNG, one panel for the loss and one for the other logged numbers."""
    if not log:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    keys = [k for k in log[-1] if k not in ("step", "minutes")]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.5))
    for key in keys:
        axis = axes[0] if key == "loss" else axes[1]
        points = [(e["step"], e[key]) for e in log if key in e]
        axis.plot(*zip(*points, strict=True), label=key)
    for axis in axes:
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=80)
    plt.close(figure)
