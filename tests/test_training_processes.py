"""Training in two processes takes the steps of one: DDP and FSDP2 over gloo on the CPU, with a tiny model."""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from anchorshot.core.errors import InputError
from anchorshot.training.loop import LoopConfig, train
from anchorshot.training.objectives import (
    FlowDPO,
    FlowInputs,
    FlowMatching,
    PreferenceInputs,
    Ratio,
    flow_error,
    interpolate,
    velocity,
)
from anchorshot.training.processes import Rows, Share, gather_rows, launch, means_over_processes, this_share
from anchorshot.training.recipe import Recipe

STEPS = 20
#: so that two processes have shares of 3 and 2
BATCH = 5


class Block(nn.Module):
    """One hidden layer, a unit of its own under FSDP2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x):
        return x + torch.tanh(self.inner(x))


class Denoiser(nn.Module):
    """Predicts a velocity [N, 6] from x_t and t; 7 rows of its first layer do not divide by two."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(7, 7)
        self.blocks = nn.ModuleList([Block(7), Block(7)])
        self.exit = nn.Linear(7, 6)
        self.never = nn.Parameter(torch.ones(3))  # used by no step

    def velocity(self, x, t):
        """Not `forward`: objectives call what they like."""
        h = self.enter(torch.cat([x, t], 1))
        for block in self.blocks:
            h = block(h)
        return self.exit(h)


class Points:
    """Batches of points whose weights differ from one to the next."""

    def __len__(self):
        return 64

    def draw(self, step):
        g = torch.Generator().manual_seed(step)
        index = torch.randint(64, (BATCH,), generator=g)
        return index, step


class DenoiserRecipe(Recipe):
    name = "points"
    units = ("Block",)
    edges = ("exit",)
    data = Points()
    objective = FlowMatching(lambda model, noisy, inputs: model.velocity(noisy, inputs.t))

    def build(self):
        return Denoiser()

    def inputs(self, batch, step):
        index, seed = batch
        g = torch.Generator().manual_seed(1000 + seed)
        clean = torch.stack([torch.sin(index * (k + 1.0)) for k in range(6)], 1)
        noise, t = torch.randn(clean.shape, generator=g), torch.rand(BATCH, 1, generator=g)
        return FlowInputs(clean, noise, t, 1 + (index % 3)[:, None].float())

    def share(self, inputs, share):
        rows = share.rows(len(inputs.clean), "points")
        return FlowInputs(*(rows.of(x) for x in inputs[:4]))


class Contrast(NamedTuple):
    a: torch.Tensor
    b: torch.Tensor
    rows: Rows


class ContrastObjective:
    """Every row is compared with every other, so processes gather them."""

    def sums(self, model, inputs):
        a, b = (gather_rows(F.normalize(model.velocity(x, x[:, :1]), dim=1), inputs.rows) for x in inputs[:2])
        loss = F.cross_entropy(5 * a @ b.T, torch.arange(len(a)))
        return {"contrast": Ratio(loss, 1.0)}

    def loss(self, means):
        return means["contrast"], {}


class ContrastRecipe(DenoiserRecipe):
    name = "contrast"
    objective = ContrastObjective()

    def inputs(self, batch, step):
        clean, noise, *_ = super().inputs(batch, step)
        return Contrast(clean, clean + 0.1 * noise, Share().rows(BATCH, "points"))

    def share(self, inputs, share):
        rows = share.rows(BATCH, "points")
        return Contrast(rows.of(inputs.a), rows.of(inputs.b), rows)


class LowRank(nn.Linear):
    """A linear layer with an adapter that can be switched off."""

    def __init__(self) -> None:
        super().__init__(7, 6)
        self.requires_grad_(False)
        self.down, self.up = nn.Parameter(0.1 * torch.randn(2, 7)), nn.Parameter(torch.zeros(6, 2))
        self.adapts = True

    def velocity(self, x, t):
        x = torch.cat([x, t], 1)
        return self(x) + (x @ self.down.T @ self.up.T if self.adapts else 0)


@contextlib.contextmanager
def adapters_off(model):
    model.adapts = False
    try:
        yield
    finally:
        model.adapts = True


class PreferenceRecipe(DenoiserRecipe):
    """The loser is the winner mirrored, and has times of its own."""

    name = "preference"
    objective = FlowDPO(lambda model, noisy, inputs: model.velocity(noisy, inputs.t), adapters_off, beta=20.0)

    def build(self):
        return LowRank()

    def inputs(self, batch, step):
        clean, noise, t, weight, _ = super().inputs(batch, step)
        return PreferenceInputs(clean, -clean, noise, t, loser_t=1 - t, weight=weight)

    def share(self, inputs, share):
        rows = share.rows(len(inputs.winner), "points")
        return PreferenceInputs(*(None if x is None else rows.of(x) for x in inputs))


RECIPES = (DenoiserRecipe, ContrastRecipe, PreferenceRecipe)


def config(**changes):
    settings = {"steps": STEPS, "lr": 3e-3, "muon_lr": 3e-3, "warmup": 2, "precision": "no", "ema": 0.9}
    return LoopConfig(**settings | {"save_every": 10, "log_every": 1} | changes)


def train_all(folder, shard=False, resumed=False):
    """Every recipe from nothing; where `resumed`, the first one also on from a checkpoint of another process."""
    torch.set_num_threads(1)
    for recipe in (DenoiserRecipe, ContrastRecipe, PreferenceRecipe):
        saved = []
        train(recipe(), config(shard=shard), folder, lambda model, step: saved.append((step, model)), cpu=True)  # noqa: B023
        assert [step for step, _ in saved] == ([10, 20] if this_share().rank == 0 else []), "the main process exports"
        assert all(type(p.data) is torch.Tensor for _, model in saved for p in model.parameters()), "whole weights"
    if resumed:
        train(DenoiserRecipe(), config(shard=shard), folder / "half", cpu=True)


def losses(folder, name="points"):
    return torch.tensor([e["loss"] for e in json.loads((folder / f"{name}.log.json").read_text())])


def killed_half_way(folder):
    """A run in one process that ended after ten steps of twenty."""

    class Killed(Exception):
        pass

    def kill(_model, _step):
        raise Killed

    with pytest.raises(Killed):
        train(DenoiserRecipe(), config(), folder, kill, cpu=True)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The training in one process."""
    folder = tmp_path_factory.mktemp("one")
    train_all(folder)
    return folder


@pytest.mark.parametrize("shard", [False, True], ids=["ddp", "fsdp2"])
def test_two_processes_take_the_steps_of_one(one, tmp_path, shard):
    """The same losses and checkpoints, from nothing and from another process's checkpoint; and back in one process."""
    killed_half_way(tmp_path / "half")
    launch(train_all, (tmp_path, shard, True), 2)
    for name in ("points", "contrast", "preference"):
        assert len(losses(tmp_path, name)) == STEPS
        assert float(losses(one, name).std()) > 1e-3, "something is learned"
        assert torch.allclose(losses(tmp_path, name), losses(one, name), rtol=0, atol=1e-4)
        mine, whole = (load_file(folder / f"{name}.safetensors") for folder in (tmp_path, one))
        assert mine.keys() == whole.keys()
        assert all(torch.allclose(mine[k].float(), whole[k].float(), atol=1e-3) for k in whole), "weights and moments"
    assert torch.allclose(losses(tmp_path / "half"), losses(one), rtol=0, atol=1e-4)
    for folder in (tmp_path, one):
        resumed = folder / f"resumed_{shard}"
        resumed.mkdir()
        for file in folder.glob("points.*"):
            shutil.copy(file, resumed)
        train(DenoiserRecipe(), config(steps=STEPS + 3), resumed, cpu=True)
    here, there = (losses(folder / f"resumed_{shard}") for folder in (tmp_path, one))
    assert len(here) == STEPS + 3
    assert torch.allclose(here, there, rtol=0, atol=1e-4)


def full_disk():
    """The second process fails, and the first one waits for it."""
    torch.distributed.init_process_group("gloo")
    if this_share().rank == 1:
        raise OSError(28, "No space left on device", "x.safetensors")
    torch.distributed.barrier()


def test_a_full_disk_in_a_process_is_told_as_one():
    with pytest.raises(OSError, match="No space left on device"):
        launch(full_disk, (), 2)
    assert not multiprocessing.active_children()


def endless(folder: Path):
    (folder / os.environ["RANK"]).touch()
    time.sleep(600)


def test_processes_end_with_the_one_that_started_them(tmp_path):
    """Also where a signal reaches that one alone, as `kill` and a batch system send it."""

    def interrupt():
        while not all((tmp_path / rank).exists() for rank in "01"):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        launch(endless, (tmp_path,), 2)
    assert not multiprocessing.active_children()


@given(st.integers(1, 40), st.integers(1, 8))
def test_shares_are_all_of_a_batch(total, processes):
    if processes > total:
        with pytest.raises(InputError, match="--processes"):
            Share(0, processes).rows(total, "clips")
        return
    x = torch.arange(total)
    parts = [Share(rank, processes).rows(total, "clips").of(x) for rank in range(processes)]
    assert torch.equal(torch.cat(parts), x)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    targets = [
        Share(rank, processes).rows(total, "clips").times(3).of(torch.arange(3 * total)) for rank in range(processes)
    ]
    assert torch.equal(torch.cat(targets), torch.arange(3 * total))


def test_sharding_one_process_is_refused(tmp_path):
    with pytest.raises(InputError, match="--shard"):
        train(DenoiserRecipe(), config(shard=True), tmp_path, cpu=True)


def test_models_in_turn_may_differ_in_precision(tmp_path):
    """As those of `anchorshot train pocket` do."""
    for precision in ("no", "bf16", "no"):
        train(DenoiserRecipe(), config(steps=1, precision=precision), tmp_path / precision, cpu=True)
    assert torch.isfinite(losses(tmp_path / "bf16")).all()


def test_a_mean_over_nothing_is_zero():
    sums = {"none": Ratio(torch.zeros(()), torch.tensor(0)), "no number": Ratio(torch.zeros(()), 0.0)}
    means, _ = means_over_processes(sums)
    assert [float(mean) for mean in means.values()] == [0, 0]


def test_a_perfect_velocity_has_no_error_and_weights_count():
    """Straight lines from data to noise: moving along the velocity from any t ends at the noise."""
    g = torch.Generator().manual_seed(0)
    clean, noise, t = torch.randn(4, 3, generator=g), torch.randn(4, 3, generator=g), torch.rand(4, 1, generator=g)
    x = interpolate(clean, noise, t)
    assert torch.allclose(x + (1 - t) * velocity(clean, noise), noise, atol=1e-6)
    weight = torch.tensor([[0.0], [1.0], [1.0], [2.0]])
    error, mean = flow_error(velocity(clean, noise) + torch.tensor([[9.0], [1.0], [0.0], [1.0]]), noise - clean, weight)
    assert error.shape == clean.shape
    assert float(mean.total / mean.weight) == pytest.approx(3 / 4, abs=1e-5)
