"""One training loop for every recipe: EMA, atomic checkpoints with exact resume, loss curve, in one process or several.

A recipe draws each batch from (seed, step) alone, so resuming needs no data-loader state: a run that was killed and
resumed takes exactly the steps an unbroken run takes. With several processes a step's batch is the one that a single
process draws: each takes its share of it, and losses are normalised over the whole.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import distributed
from torch.utils.data import DataLoader, Dataset

from ..core.files import atomic_path
from .attention import cpu_attention, fuse_norms
from .checkpoint import average, load_state, load_weights, save_checkpoint
from .ema import Average
from .graphs import GraphedSteps, map_tensors
from .muon import MuonAdamW
from .objectives.objective import TrainingStep
from .processes import local, means_over_processes, this_share, wrapped
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
        graphs: replay each kind of step as one CUDA graph (a single process only).
        shard: FSDP2 instead of DDP where there are several processes: each keeps a part of every parameter.
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
    shard: bool = False


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


class _Batches(Dataset):
    """A recipe's batches by step."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __getitem__(self, step: int) -> tuple[int, Any]:
        return step, self.recipe.data.draw(step)


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

    Start it in several processes (torchrun, or `processes.launch`) and they take the steps of one.

    Args:
        recipe: what to train and on what.
        config: how.
        out: folder for the checkpoint, its log and the loss curve.
        on_save: called in the main process with the EMA model and the step at each checkpoint (for exports).
        cpu: stay on the CPU even where there is a GPU.

    Returns:
        The module with its EMA weights, whole in every process; where `shard` meets a recipe without `keeps_frozen`,
        the sharded module.

    Raises:
        InputError: more processes than samples in a batch, or `shard` with one process.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    run = _Run(recipe, config, out / f"{recipe.name}.safetensors", PartialState(cpu=cpu))
    return run.steps(on_save)


class _Run:
    """A model in training: what `train` sets up once and every step uses."""

    def __init__(self, recipe: Recipe, config: LoopConfig, checkpoint: Path, processes: PartialState) -> None:
        self.recipe, self.config, self.checkpoint, self.processes = recipe, config, checkpoint, processes
        self.device, self.share = processes.device, this_share()
        self.on_cpu = self.device.type == "cpu"
        self.model = recipe.build().train()
        self.model.to(self.device)
        resumes = checkpoint.exists()
        if resumes:
            load_weights(checkpoint, self.model, recipe.keeps_frozen)
        self.step = wrapped(TrainingStep(self.model, recipe.objective), config.shard, recipe.units)
        self.optimizer = _optimizer(self.model, config, recipe.edges)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.ema = Average(self._local(), config.ema)
        self.start, self.log = load_state(checkpoint, self.model, self.ema, self.optimizer) if resumes else (0, [])
        recipe.prepare(self.device)
        fuse_norms(self.model)
        graphs = config.graphs and not self.on_cpu and self.share.processes == 1
        self.gradients = GraphedSteps(self._gradients, self.parameters) if graphs else None

    def _local(self) -> list[torch.Tensor]:
        """The trained parameters, or the parts of them that this process keeps."""
        return [local(p) for p in self.parameters]

    def _gradients(self, inputs: Any) -> dict[str, torch.Tensor]:
        """Forward and backward pass of this process's share of a batch; the numbers of the whole batch to log."""
        objective, count = self.recipe.objective, self.share.processes
        bf16 = self.config.precision == "bf16"
        # a CUDA graph must not find casts in the cache that were made outside of it
        autocast = torch.autocast(self.device.type, torch.bfloat16, bf16, cache_enabled=self.on_cpu)
        with cpu_attention(self.on_cpu):  # also the way back: checkpointed blocks run a second time there
            with autocast:
                parts, means = means_over_processes(self.step(inputs))
                loss, numbers = objective.loss(parts)
            (count * loss).backward()  # gradients are averaged over the processes, losses add up
        if count > 1:
            loss, numbers = objective.loss(means)
        return {"loss": loss.detach(), **{k: v.detach() for k, v in numbers.items()}}

    def _take(self, step: int, batch: Any) -> dict[str, torch.Tensor]:
        """One optimizer step; the numbers to log."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step) * group["lr_scale"]
        inputs = self.recipe.inputs(map_tensors(lambda x: x.to(self.device, non_blocking=True), batch), step)
        if self.share.processes > 1:
            inputs = self.recipe.share(inputs, self.share)
        numbers = self._gradients(inputs) if self.gradients is None else self.gradients(inputs)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self.optimizer.step()
        if self.gradients is None:
            self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self._local())
        return numbers

    def steps(self, on_save: Callable[[torch.nn.Module, int], None] | None) -> torch.nn.Module:
        """All steps that are left."""
        config = self.config
        began = time.monotonic()
        running: dict[str, torch.Tensor] = {}
        count = 0
        for step, batch in _batches(self.recipe, self.start, config.steps, 0 if self.on_cpu else config.workers):
            for key, value in self._take(step, batch).items():
                running[key] = running.get(key, 0) + value
            count += 1
            if (step + 1) % config.log_every == 0:
                entry = {"step": step + 1, "minutes": (time.monotonic() - began) / 60}
                entry |= {k: float(v) / count for k, v in running.items()}
                self.log.append(entry)
                self.processes.print(" ".join(f"{k} {v:.4g}" for k, v in entry.items()), flush=True)
                running, count = {}, 0
            finished = step + 1 == config.steps or self._agreed(time.monotonic() - began > 60 * config.max_minutes)
            if (step + 1) % config.save_every == 0 or finished:
                self._save(step + 1, on_save)
            if finished:
                break
        self.processes.wait_for_everyone()  # the main process may still write what the others go on to read
        if config.shard:
            # A model that is frozen but for its adapters is too large to be there a second time.
            return (self._whole() if self.recipe.keeps_frozen else self.model).eval()
        self.ema.copy_to(self.parameters)
        return self.model.eval()

    def _agreed(self, over: bool) -> bool:
        """Whether the main process's time is over: clocks differ, and nobody may step alone."""
        if self.share.processes == 1 or self.config.max_minutes == math.inf:
            return over
        flag = torch.tensor(float(over), device=self.device)
        distributed.broadcast(flag, 0)
        return bool(flag)

    def _save(self, step: int, on_save: Callable[[torch.nn.Module, int], None] | None) -> None:
        frozen = self.recipe.keeps_frozen
        save_checkpoint(self.checkpoint, step, self.model, self.ema, self.optimizer, self.log, frozen)
        if self.processes.is_main_process:
            plot_losses(self.log, self.checkpoint.with_suffix(".png"))
            self.recipe.saved(self.checkpoint, step)
        if on_save is None:
            return
        if self.config.shard:
            model = self._whole()
            if self.processes.is_main_process:
                on_save(model, step)
        elif self.processes.is_main_process:
            with self.ema.applied(self.parameters):
                on_save(self.model, step)

    def _whole(self) -> torch.nn.Module:
        """A module that is not sharded, with the averaged weights."""
        state = average(self.model, self.ema)
        with torch.random.fork_rng(devices=[]):  # initialising it must not change what training draws next
            model = self.recipe.build()
        model.load_state_dict(state)
        return model.to(self.device)


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
