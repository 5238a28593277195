"""Processes of ours start in an instant where nothing forbids it, and then have loaded nothing of the driver's."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import pytest
import torch

from anchorshot.execution import processes
from anchorshot.execution.processes import process_context, without_interrupts


def report(answers: Any) -> None:
    """What a new process finds, before it does anything."""
    loaded = [name for name in ("anchorshot.models.studio", "diffusers.models.transformers") if name in sys.modules]
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    answers.put((loaded, len(os.listdir("/proc/self/task")), torch.cuda.is_initialized(), signal.SIGINT in blocked))


@pytest.mark.skipif(sys.platform != "linux" or torch.accelerator.is_available(), reason="such machines have no server")
def test_a_process_is_forked_off_a_server_that_has_the_modules_and_one_thread() -> None:
    context = process_context()
    answers = context.SimpleQueue()
    with without_interrupts():
        process = context.Process(target=report, args=(answers,))
        process.start()
    loaded, threads, cuda, blocked = answers.get()
    process.join()
    assert process.exitcode == 0
    assert len(loaded) == 2 and threads == 1 and not cuda and blocked


@pytest.mark.parametrize(("platform", "gpu"), [("win32", False), ("darwin", False), ("linux", True)])
def test_elsewhere_a_process_starts_on_its_own(platform: str, gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes.sys, "platform", platform)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpu)
    assert process_context().get_start_method() == "spawn"
