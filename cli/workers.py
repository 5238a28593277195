"""Who makes a film: this process, several on this machine, or those of a Ray cluster."""

from __future__ import annotations

import argparse
import importlib.util
from typing import TYPE_CHECKING

from ..core.errors import InputError

if TYPE_CHECKING:
    from ..execution.pool import Executor

__all__ = ["check_workers", "open_executor"]


def check_workers(options: argparse.Namespace) -> None:
    """Refuse (InputError) options that contradict each other, before anything heavy is imported.

    The first of `--devices` becomes `--device`, which the driver's own models are on.
    """
    devices = _devices(options)
    if options.ray is not None:
        if not options.ray.strip():
            fix = "leave the address out to start a Ray here"
            raise InputError("--ray", "must be the address of a Ray cluster", options.ray, fix)
        if devices:
            fix = "leave it out; Ray gives each worker its GPU"
            raise InputError("--devices", "does not go with --ray", options.devices, fix)
        if importlib.util.find_spec("ray") is None:
            raise InputError("--ray", "needs Ray", "not installed", "pip install 'anchorshot[ray]'")
    if devices:
        if options.device not in ("auto", devices[0]):
            raise InputError("--devices", "does not go with another --device", options.device, "leave one out")
        if options.workers not in (None, len(devices)):
            fix = "leave --workers out, or name a device for each"
            raise InputError("--workers", "must be as many as --devices", options.workers, fix)
        options.device = devices[0]


def open_executor(options: argparse.Namespace) -> Executor:
    """The executor that the options ask for.

    Raises:
        InputError: no such device here.
    """
    from ..execution.pool import LocalExecutor
    from .console import pick_device

    if options.ray is not None:
        from ..execution.ray import RayExecutor

        return RayExecutor(None if options.ray == "local" else options.ray, options.workers)
    devices: list[str | None] = [pick_device(name, "--devices") for name in _devices(options)]
    if not devices and options.workers is not None:
        devices = [None] * options.workers
    if not devices:
        return LocalExecutor()
    from ..execution.local import WorkerExecutor

    return WorkerExecutor(devices)


def _devices(options: argparse.Namespace) -> list[str]:
    if options.devices is None:
        return []
    names = [name.strip() for name in options.devices.split(",")]
    if not all(names):
        raise InputError("--devices", "must be devices, separated by commas", options.devices, "write cuda:0,cuda:1")
    return names
