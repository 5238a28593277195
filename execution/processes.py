"""How new processes start: forked off a server that has loaded the modules once, or on their own where there is none.

A process of ours needs torch, diffusers and transformers, whose import takes about ten seconds of a CPU. The server is
a process that has imported them and done nothing else, so it may be forked; its children start at once and share that
memory. Windows has no such server, macOS's libraries do not survive a fork, and where there is a GPU some library may
ask for it while it is imported, after which CUDA refuses to work in a fork.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

__all__ = ["process_context", "without_interrupts"]

_ROOT = __package__.rpartition(".")[0]
_HEAVY = (
    f"{_ROOT}.models.studio",
    f"{_ROOT}.models.encoders.clip",
    "diffusers.models.autoencoders",
    "diffusers.models.transformers",
    "accelerate",
)
"""What nearly all of our processes load."""


def process_context() -> ForkServerContext | SpawnContext:
    """What starts processes here; never a fork of this one, which may have threads and a GPU.

    The server starts with the first process, in the environment of then, and ends with this one.
    """
    import torch

    if sys.platform != "linux" or torch.accelerator.is_available():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_HEAVY))
    return context


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach: it goes to all of a terminal's, but the driver ends its workers."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # or its start would let interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
