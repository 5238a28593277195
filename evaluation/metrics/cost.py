"""Fair comparison of two calls in one run: interleaved time, and the exact peak of allocated memory."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["Call", "clock", "peak_bytes", "seconds", "unit"]

Call = Callable[[], object]


def unit(device: torch.device | str) -> str:
    """Return what `seconds` measures on a device: seconds on CUDA, CPU seconds elsewhere."""
    return "seconds" if torch.device(device).type == "cuda" else "CPU seconds"


def seconds(
    calls: Mapping[str, Call], repeats: int = 5, warmup: int = 1, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Return the median seconds of each call: wall-clock on CUDA, of processor time elsewhere.

    Processor time counts our own work on top of the network's just as the clock does, and leaves out what other
    programs take from the machine meanwhile. The calls take turns, and every second round runs backwards, so that a
    slow phase of the machine or a warm cache meets all of them alike.
    """
    for _ in range(warmup):
        for call in calls.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats):
        for name in list(calls)[:: 1 if turn % 2 == 0 else -1]:
            start = clock(device)
            calls[name]()
            times[name].append(clock(device) - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def peak_bytes(call: Call, device: torch.device | str = "cpu") -> int:
    """Return the peak of tensor memory that `call` allocates on top of what was there before, in bytes.

    On CUDA from the allocator's own statistics, on the CPU from the profiler's record of every allocation: exact and
    repeatable, where the resident size of a process is neither.
    """
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        call()
    results = profiler.profiler.kineto_results if profiler.profiler is not None else None
    events = [] if results is None else [event for event in results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in events), initial=0))


def clock(device: torch.device | str) -> float:
    """Return wall-clock seconds on CUDA once its work is done, of processor time elsewhere."""
    if torch.device(device).type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
