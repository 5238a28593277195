"""Training in several processes: shares of a batch, DDP and FSDP2, sharded tensors, and starting the processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from ..core.errors import InputError
from ..execution.processes import process_context, without_interrupts
from .objectives import Ratio

__all__ = [
    "Rows",
    "Share",
    "gather_rows",
    "is_main",
    "launch",
    "local",
    "means_over_processes",
    "shard_like",
    "this_share",
    "whole",
    "whole_like",
    "wrapped",
]

#: a mean over nothing is 0: no sum of weights is as small as this
_NOTHING = 1e-12
#: seconds that processes have to end after Ctrl-C
_GRACE = 5.0


class Rows(NamedTuple):
    """The rows start…stop−1 of a whole batch of `total`."""

    start: int
    stop: int
    total: int

    def times(self, count: int) -> Rows:
        """The same share of a table with `count` rows for each of these."""
        return Rows(self.start * count, self.stop * count, self.total * count)

    def of(self, x: Tensor) -> Tensor:
        """These rows of a tensor [total, …]; x itself if they are all of it."""
        return x if self.stop - self.start == len(x) else x[self.start : self.stop]


class Share(NamedTuple):
    """Which part of a batch a process computes: number `rank` of as many parts as there are processes."""

    rank: int = 0
    processes: int = 1

    def rows(self, total: int, what: str) -> Rows:
        """Its rows of a batch of `total`; parts differ by one at most.

        Args:
            total: size of the batch.
            what: what its samples are, in the plural, for the error.

        Raises:
            InputError: fewer samples than processes.
        """
        n = self.processes
        if total < n:
            raise InputError("--processes", f"must not be more than the {what} of a step, {total}", n, "use fewer")
        return Rows(total * self.rank // n, total * (self.rank + 1) // n, total)


def this_share() -> Share:
    """The share of this process."""
    if not distributed.is_initialized():
        return Share()
    return Share(distributed.get_rank(), distributed.get_world_size())


def is_main() -> bool:
    """Whether this process writes files: the first one, or the only one."""
    return this_share().rank == 0


def wrapped(step: nn.Module, shard: bool, units: Sequence[str] = ()) -> nn.Module:
    """A training step whose gradients are averaged over the processes; with one process the step itself.

    Args:
        step: its forward pass is all that is ever called.
        shard: FSDP2 (every process keeps a part of each parameter) instead of DDP (every process keeps them all).
        units: names of the classes of modules that FSDP2 gathers one at a time.

    Raises:
        InputError: sharding without several processes.
    """
    if this_share().processes == 1:
        if shard:
            raise InputError("--shard", "needs more than one process", 1, "add --processes N, or start with torchrun")
        return step
    if not shard:
        # A step may leave parameters alone (a still image does not reach the VAE's time strides), but all processes
        # take the same kind of step. Buffers are the same everywhere, as the seeds are.
        with warnings.catch_warnings():  # torch 2.14 has another name for it, which 2.11 does not know
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
            return DistributedDataParallel(step, find_unused_parameters=True, broadcast_buffers=False)
    device = next(step.parameters()).device
    mesh = init_device_mesh(device.type, (this_share().processes,))
    for module in [m for m in step.modules() if type(m).__name__ in units]:
        fully_shard(module, mesh=mesh)
    fully_shard(step, mesh=mesh)
    return step


def means_over_processes(sums: Mapping[str, Ratio]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Means of a whole batch, from the sums over this process's share of it.

    Returns:
        For the gradient: this process's part of each mean that carries one (parts add up to the mean), and the others
        whole; and for the log: all whole.
    """
    if this_share().processes == 1:
        means = {name: total / _at_least(weight) for name, (total, weight) in sums.items()}
        return means, means
    device = next(iter(sums.values())).total.device
    both = torch.stack([_scalar(x, device) for pair in sums.values() for x in pair])
    distributed.all_reduce(both)
    totals, weights = both.view(-1, 2).unbind(1)
    weights = weights.clamp_min(_NOTHING)
    full = dict(zip(sums, (totals / weights).float().unbind(), strict=True))
    parts = {
        name: ratio.total / weight if ratio.total.requires_grad else full[name]
        for (name, ratio), weight in zip(sums.items(), weights.float().unbind(), strict=True)
    }
    return parts, full


def _at_least(weight: Tensor | float) -> Tensor | float:
    return weight.clamp_min(_NOTHING) if isinstance(weight, Tensor) else max(weight, _NOTHING)


def _scalar(x: Tensor | float, device: torch.device) -> Tensor:
    return torch.as_tensor(x, device=device).detach().double()


def gather_rows(x: Tensor, rows: Rows) -> Tensor:
    """All processes' rows [total, …] of a batch, of which this one has computed `x`; gradients find their way back."""
    return x if len(x) == rows.total else _GatherRows.apply(x, rows)


class _GatherRows(torch.autograd.Function):
    """Every process adds its rows to zeros: so shares may differ in size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        every = x.new_zeros(rows.total, *x.shape[1:])
        every[rows.start : rows.stop] = x
        distributed.all_reduce(every)
        return every

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        return ctx.rows.of(gradient), None


def local(x: Tensor) -> Tensor:
    """The part of a tensor that this process keeps, in the same memory; a tensor that is not sharded is all here."""
    return x.to_local() if isinstance(x, DTensor) else x


def whole(x: Tensor) -> Tensor:
    """All of a tensor, gathered if it is sharded: every process must call this, in the same order."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def whole_like(part: Tensor, like: Tensor) -> Tensor:
    """All of a tensor that is cut as `like` is, from the part that this process keeps."""
    if not isinstance(like, DTensor):
        return part
    mesh, placements = like.device_mesh, like.placements
    return DTensor.from_local(
        part, mesh, placements, run_check=False, shape=like.shape, stride=like.stride()
    ).full_tensor()


def shard_like(x: Tensor, like: Tensor) -> Tensor:
    """A tensor that all processes have whole, cut as `like` is."""
    if not isinstance(like, DTensor):
        return x
    return distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None)


def launch(run: Callable[..., None], arguments: tuple, processes: int, device: str = "cpu") -> None:
    """Call ``run(*arguments)`` in so many new processes of this machine, which find each other as torchrun's do.

    Args:
        run: a function at the top of its module.
        arguments: that can be pickled.
        processes: how many.
        device: ``cpu`` for all, or ``cuda``: one GPU each.

    Raises:
        InputError, OSError, MemoryError: another device, too few GPUs, or what one of them raised.
        torch.multiprocessing.ProcessRaisedException: any other error in one of them; the others are ended.
    """
    if device == "cuda" and torch.cuda.device_count() < processes:
        found = torch.cuda.device_count()
        raise InputError("--processes", f"must not be more than the GPUs here, {found}", processes, "use fewer")
    if device not in ("cpu", "cuda"):
        raise InputError("--device", "must be cpu or cuda where there are several processes", device, "use one of them")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    how = process_context().get_start_method()
    refusals = torch.multiprocessing.get_context(how).SimpleQueue()
    with without_interrupts():  # as long as they load modules, where Ctrl-C would be a traceback
        context = torch.multiprocessing.start_processes(
            _join, (run, arguments, processes, port, refusals), processes, join=False, start_method=how
        )
    try:
        while not context.join():
            pass
    except (torch.multiprocessing.ProcessExitedException, torch.multiprocessing.ProcessRaisedException):
        if refusals.empty():  # one that lost its neighbour may be heard before the one that failed
            raise
        raise refusals.get() from None
    finally:
        _end(context.processes)


def _end(processes: Sequence[Any]) -> None:
    """End processes that still run: whoever stops this one alone, as `kill` does, means all of them."""
    for process in processes:
        if process.is_alive():
            with contextlib.suppress(OSError, ValueError):  # by Ctrl-C first, which removes half-written files
                os.kill(process.pid, signal.SIGINT)
    end = time.monotonic() + _GRACE
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _join(rank: int, run: Callable[..., None], arguments: tuple, processes: int, port: int, refusals: Any) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        run(*arguments)
    except (InputError, OSError, MemoryError, torch.OutOfMemoryError, SafetensorError) as error:
        # An error of the input or of the machine is told in one line, not as a traceback.
        refusals.put(error)
        raise SystemExit(2) from None
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
