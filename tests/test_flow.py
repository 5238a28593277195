"""The flow schedule and the Euler solver."""

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorshot.core.errors import InputError
from anchorshot.sampling.flow import (
    SOLVERS,
    Step,
    check_sigmas,
    dpmpp_2m,
    dynamic_shift,
    euler,
    flow_sigmas,
    guided,
    heun,
)


@given(steps=st.integers(1, 200), shift=st.floats(0.05, 20))
@settings(max_examples=60, deadline=None)
def test_sigmas_fall_from_one_to_zero(steps: int, shift: float) -> None:
    sigmas = flow_sigmas(steps, shift)
    assert sigmas.shape == (steps + 1,) and sigmas.dtype == torch.float32
    assert sigmas[0] == 1 and sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


def test_shift_one_is_even_and_larger_shift_stays_noisier() -> None:
    assert torch.allclose(flow_sigmas(8), torch.linspace(1, 0, 9))
    assert (flow_sigmas(8, 5.0)[1:-1] > flow_sigmas(8, 1.0)[1:-1]).all()


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_sigmas_and_steps_equal_the_stock_scheduler(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    even = torch.linspace(1, 0, 7)[:-1].tolist()
    scheduler.set_timesteps(sigmas=even)
    sigmas = flow_sigmas(6, shift)
    assert torch.allclose(scheduler.sigmas, sigmas, atol=1e-6)
    x = want = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        want = scheduler.step(want.sin() * (t / 1000), t, want, return_dict=False)[0]
    got = euler(lambda x, t: x.sin() * t, x, sigmas)
    assert torch.allclose(got, want, atol=1e-5)


def test_dynamic_shift_is_flux_s() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 0, 6)[:-1].tolist(), mu=math.log(dynamic_shift(1000)))
    assert torch.allclose(scheduler.sigmas, flow_sigmas(5, dynamic_shift(1000)), atol=1e-6)
    assert math.isclose(math.log(dynamic_shift(256)), 0.5) and math.isclose(math.log(dynamic_shift(4096)), 1.15)


@given(steps=st.integers(1, 30), shift=st.floats(0.5, 10), seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_true_velocity_leads_to_the_data(steps: int, shift: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    data, noise = torch.randn(2, 5, generator=g), torch.randn(2, 5, generator=g)
    assert torch.allclose(euler(lambda x, t: noise - data, noise, flow_sigmas(steps, shift)), data, atol=1e-5)


@pytest.mark.parametrize("name", SOLVERS)
@given(steps=st.integers(1, 20), shift=st.floats(0.5, 10), seed=st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_every_solver_follows_a_straight_path(name: str, steps: int, shift: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    data, noise = torch.randn(2, 5, generator=g), torch.randn(2, 5, generator=g)
    seen: list[Step] = []
    x = SOLVERS[name](lambda x, t: noise - data, noise, flow_sigmas(steps, shift), seen.append)
    assert torch.allclose(x, data, atol=1e-5)  # a dozen fp32 roundings
    assert [(step.index, step.steps) for step in seen] == [(i, steps) for i in range(steps)]
    assert all(torch.allclose(step.x0, data, atol=1e-4) for step in seen) and torch.equal(seen[-1].x, x)


def gaussian(x: torch.Tensor, t: float) -> torch.Tensor:
    """The exact velocity of data ~ N(0, 0.25): E[noise − data | x]."""
    return x * (t - 0.25 * (1 - t)) / (0.25 * (1 - t) ** 2 + t**2)


def test_second_order_solvers_are_nearer_to_the_exact_path() -> None:
    """For Gaussian data the path is known: x keeps its quantile, so it ends at half of its noise."""
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64)

    def error(solver, steps: int) -> float:
        return float((solver(gaussian, noise, flow_sigmas(steps), None) - noise / 2).abs().max())

    for solver in (heun, dpmpp_2m):
        assert error(solver, 24) < 0.35 * error(euler, 24)
        assert error(solver, 48) < 0.4 * error(solver, 24)  # second order: a quarter
    assert 0.4 < error(euler, 48) / error(euler, 24) < 0.6


def test_guidance_leads_away_and_one_never_asks() -> None:
    def never(x: torch.Tensor, t: float) -> torch.Tensor:
        raise AssertionError("guidance 1 asked for the negative")

    plain = lambda x, t: x * t  # noqa: E731
    assert guided(plain, never, 1) is plain
    x = torch.ones(3)
    assert torch.allclose(guided(plain, lambda x, t: 0.5 * x, 3.0)(x, 0.8), torch.full((3,), 0.5 + 3 * 0.3))


WRONG = [
    [],
    [1],
    [1, 0.5],
    [0.9, 0],
    [1, 0.5, 0.5, 0],
    [1, 0.2, 0.4, 0],
    [1, float("nan"), 0],
    [1, "0.5", 0],
    [True, 0],
]


@pytest.mark.parametrize("wrong", WRONG)
def test_schedules_of_ones_own_fall_from_one_to_zero(wrong: list) -> None:
    assert check_sigmas((1, 0.7, 0)).tolist() == pytest.approx([1, 0.7, 0])
    with pytest.raises(InputError, match="sigmas: must fall from 1 to 0"):
        check_sigmas(wrong)


def test_zero_velocity_keeps_every_bit() -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    pinned = torch.tensor([True, False, True, False])
    out = euler(lambda x, t: torch.sin(x * 3).masked_fill(pinned[:, None], 0), x, flow_sigmas(9, 3.0))
    assert torch.equal(out[pinned], x[pinned])
    assert not torch.equal(out[~pinned], x[~pinned])


def test_callback_sees_every_step_and_the_foreseen_data() -> None:
    g = torch.Generator().manual_seed(2)
    data, noise = torch.randn(3, generator=g), torch.randn(3, generator=g)
    seen: list[Step] = []
    out = euler(lambda x, t: noise - data, noise, flow_sigmas(4, 2.0), seen.append)
    assert [s.index for s in seen] == [0, 1, 2, 3] and {s.steps for s in seen} == {4}
    assert [s.t for s in seen] == flow_sigmas(4, 2.0)[:-1].tolist()
    assert all(torch.allclose(s.x0, data, atol=1e-6) for s in seen)
    assert torch.equal(seen[-1].x, out)


def test_raising_in_the_callback_stops_the_solver() -> None:
    asked: list[float] = []

    def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
        asked.append(t)
        return x

    def stop(step: Step) -> None:
        if step.index == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        euler(velocity, torch.ones(2), flow_sigmas(10), stop)
    assert len(asked) == 2


@pytest.mark.parametrize("steps", [0, -3, 2.5, True])
def test_bad_steps(steps: object) -> None:
    with pytest.raises(InputError, match="steps: must be a whole number"):
        flow_sigmas(steps)  # type: ignore[arg-type]


@pytest.mark.parametrize("shift", [0.0, -1.0, math.nan, math.inf])
def test_bad_shift(shift: float) -> None:
    with pytest.raises(InputError, match="shift: must be a positive number"):
        flow_sigmas(4, shift)
