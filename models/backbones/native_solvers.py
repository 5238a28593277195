"""Which of ComfyUI's samplers follow an ODE, as video through keyframes is defined for, and which add noise."""

from __future__ import annotations

from typing import Any

import comfy.samplers

from ...core.errors import InputError

__all__ = ["adds_noise", "ode_solver", "solver_name"]

_NOISY = ("ancestral", "sde", "ddpm", "lcm", "seeds_", "sa_solver")


def adds_noise(sampler: Any) -> bool:
    """Whether a SAMPLER adds noise while it runs (ancestral, SDE, LCM, churn), which no ODE solver does."""
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
    options = getattr(sampler, "extra_options", {})
    if options.get("s_churn", 0) > 0:
        return True
    return any(part in name for part in _NOISY) and options.get("eta", 1) != 0 and options.get("s_noise", 1) != 0


def solver_name(sampler: Any) -> str:
    """What a SAMPLER is called in ComfyUI's list."""
    return str(sampler.sampler_function.__name__.removeprefix("sample_"))


def ode_solver(sampler: Any) -> Any:
    """The SAMPLER of a name, or the one given.

    Raises:
        InputError: an unknown name, or one that adds noise.
    """
    if isinstance(sampler, str):
        if sampler not in comfy.samplers.SAMPLER_NAMES:
            raise InputError("sampler", "must be one of ComfyUI's samplers", sampler, "use euler")
        sampler = comfy.samplers.sampler_object(sampler)
    if adds_noise(sampler):
        fix = "use euler, heun, dpmpp_2m or uni_pc, or KSampler with the patched model"
        raise InputError("sampler", "must be deterministic, one that follows an ODE", solver_name(sampler), fix)
    return sampler
