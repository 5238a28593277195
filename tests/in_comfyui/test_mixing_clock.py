"""How far a run is: DIPW's steps and progress with every sampler and schedule, whole or shared by two samplers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingSD3
from in_comfyui.mixing_runs import latent, levels_of, looking, mixed, patched, plain, run, spied, steps_of, weights_of
from in_comfyui.tiny_wan import headless, native

from anchorshot.core.errors import InputError
from anchorshot.sampling.text2story.prompt_mixing import DIPW


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {"wan": native(headless())}


@pytest.fixture(scope="module")
def pair(studio: dict[str, Any]) -> dict[str, Any]:
    return looking(studio)


@pytest.mark.parametrize(
    "sampler", ["heun", "heunpp2", "dpm_2", "dpmpp_2m", "uni_pc", "euler_ancestral", "euler_cfg_pp"]
)
def test_samplers_count_steps_right(models: dict[str, Any], sampler: str, pair: dict[str, Any]) -> None:
    """One decision for each step, however often the model is called in it; the text belongs to the level."""
    calls: list[tuple[float, bytes]] = []
    see: Callable[[dict[str, Any]], None] = lambda c: calls.append((c["t"], c["tokens"][-1].numpy().tobytes()))  # noqa: E731
    guider = mixed(spied(models["wan"], see), **pair)
    guider.set_cfg(1.0)
    run(guider, latent("wan"), steps=4, sampler=sampler)
    steps = steps_of(guider)
    assert [step.step for step in steps] == [1, 2, 3, 4]
    assert [step.prior for step in steps] == [(1 - i / 4, i / 4) for i in (1, 2, 3, 4)]
    assert len({text for _, text in calls}) == 4 and len(calls) >= 4
    levels: dict[float, set[bytes]] = {}
    for t, text in calls:
        levels.setdefault(t, set()).add(text)
    assert all(len(texts) == 1 for texts in levels.values())


def test_the_action_can_take_over_sooner(models: dict[str, Any], pair: dict[str, Any]) -> None:
    early = mixed(models["wan"], **pair, progress_shift=3.0)
    patch = patched(models["wan"], **pair, progress_shift=3.0)
    assert torch.equal(run(early, latent("wan")), run(plain(patch), latent("wan")))
    assert [step.prior for step in steps_of(early)] == [DIPW(prior_shift=3.0).prior(i / 4) for i in (1, 2, 3, 4)]
    usual = mixed(models["wan"], **pair)
    run(usual, latent("wan"))
    assert (weights_of(early)[:-1, 1] > weights_of(usual)[:-1, 1]).all()


@pytest.mark.parametrize("shift", [1.0, 8.0])
@pytest.mark.parametrize("scheduler", ["simple", "beta"])
def test_the_clock_goes_on_in_the_second_of_two_samplers(models: dict[str, Any], shift: float, scheduler: str) -> None:
    """As with two experts, each with its patch; and in a run that begins at a lower level."""
    (model,) = ModelSamplingSD3().patch(models["wan"], shift)
    told = []
    for part in (slice(0, 5), slice(4, None)):
        guider = mixed(model)
        run(guider, latent("wan"), steps=10, part=part, scheduler=scheduler)
        told.append([step.prior[1] for step in steps_of(guider)])
    assert [len(priors) for priors in told] == [4, 6]
    expected = [i / 10 for i in range(1, 11)]
    if scheduler == "simple":
        assert [*told[0], *told[1]] == pytest.approx(expected, abs=1 / 1024)
    else:  # inside a part steps are counted, its ends stand at their share of time
        assert [*told[0], *told[1]] == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("scheduler", comfy.samplers.SCHEDULER_NAMES)
def test_progress_counts_steps_in_every_schedule(models: dict[str, Any], scheduler: str) -> None:
    """In one run, and in two that are told the whole schedule."""
    (model,) = ModelSamplingSD3().patch(models["wan"], 8.0)
    whole = levels_of(model, 10, scheduler)
    told = []
    for part, schedule in ((slice(None), None), (slice(0, 5), whole), (slice(4, None), whole)):
        guider = mixed(model, schedule=schedule)
        run(guider, latent("wan"), steps=10, part=part, scheduler=scheduler)
        told.append([step.prior[1] for step in steps_of(guider)])
    steps = len(whole) - 1
    assert told[0] == told[1] + told[2] == pytest.approx([i / steps for i in range(1, steps + 1)], abs=1e-12)


def test_a_schedule_must_be_the_samplers(models: dict[str, Any]) -> None:
    whole = levels_of(models["wan"], 10)
    for wrong in (whole[2:], whole[:-2], whole[:0]):
        with pytest.raises(InputError, match="schedule: must (contain the sampler's noise levels|hold at least two)"):
            run(mixed(models["wan"], schedule=wrong), latent("wan"), steps=10)


def test_half_a_schedule_without_steps_does_nothing(models: dict[str, Any]) -> None:
    """SplitSigmas at an end gives one level; core then returns the latents."""
    expected = run(plain(models["wan"]), latent("wan"), part=slice(0, 1))
    assert torch.equal(run(mixed(models["wan"]), latent("wan"), part=slice(0, 1)), expected)
