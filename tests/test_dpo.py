"""Flow DPO: where it starts, what it counts, and that it learns a preference."""

import contextlib
import math

import pytest
import torch
from torch import nn

from anchorshot.training.objectives import FlowDPO, PreferenceInputs
from anchorshot.training.processes import means_over_processes

LN2 = math.log(2)


class Adapted(nn.Module):
    """A frozen linear velocity of x_t [N, 4], t and a condition [N, 2], and a low-rank adapter that starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(7, 4).requires_grad_(False)
        self.down, self.up = nn.Parameter(0.3 * torch.randn(3, 7)), nn.Parameter(torch.zeros(4, 3))
        self.adapts, self.encoded = True, 0

    def forward(self, x):
        return self.base(x) + (x @ self.down.T @ self.up.T if self.adapts else 0)


@contextlib.contextmanager
def off(model):
    model.adapts = False
    try:
        yield
    finally:
        model.adapts = True


def predict(model, noisy, inputs):
    return model(torch.cat([noisy, inputs.t, inputs.conditions], 1))


def encode(model, conditions):
    model.encoded += 1
    return conditions.tanh()


def pairs(seed, n=16, **changes):
    g = torch.Generator().manual_seed(seed)
    kind = torch.randn(n, 2, generator=g)
    winner = torch.cat([kind, kind.flip(1)], 1) + 0.1 * torch.randn(n, 4, generator=g)
    loser = winner.roll(1, 1) + 0.1 * torch.randn(n, 4, generator=g)
    noise, t = torch.randn(n, 4, generator=g), torch.rand(n, 1, generator=g)
    return PreferenceInputs(winner, loser, noise, t, kind)._replace(**changes)


def take(objective, model, inputs):
    means, _ = means_over_processes(objective.sums(model, inputs))
    return objective.loss(means)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Adapted()


def test_it_starts_at_ln_2_and_gives_gradients_to_the_adapter_alone(model):
    loss, numbers = take(FlowDPO(predict, off), model, pairs(0))
    assert float(loss.detach()) == pytest.approx(LN2, abs=1e-7)
    assert float(numbers["accuracy"]) == 0.5, "every pair is a tie"
    assert all(float(numbers[k]) == 0 for k in ("margin", "drift", "winner", "loser"))
    loss.backward()
    assert float(model.up.grad.abs().max()) > 0
    assert model.base.weight.grad is None


def test_under_autocast_the_adapter_still_gets_its_gradient(model):
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = take(FlowDPO(predict, off), model, pairs(0))
    loss.backward()
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(LN2, abs=1e-7)
    assert float(model.up.grad.abs().max()) > 0


def test_the_loss_is_equation_6(model):
    """Written out pair by pair, with times and noise of the loser's own, in the paper's direction of time."""
    inputs = pairs(1)
    inputs = inputs._replace(loser_noise=pairs(2).noise, loser_t=pairs(3).t)
    nn.init.normal_(model.up, std=0.1)
    beta, expected, margins = 30.0, [], []
    for n in range(len(inputs.winner)):
        errors = {}
        for name, data, noise, t in (
            ("w", inputs.winner[n], inputs.noise[n], inputs.t[n]),
            ("l", inputs.loser[n], inputs.loser_noise[n], inputs.loser_t[n]),
        ):
            s = 1 - t  # 0 noise … 1 data
            x = torch.cat([s * data + (1 - s) * noise, t, inputs.conditions[n]])
            adapted = model.base(x) + model.up @ (model.down @ x)
            errors[name] = [float(((-v) - (data - noise)).square().mean().detach()) for v in (adapted, model.base(x))]
        margins.append(beta * ((errors["l"][0] - errors["w"][0]) - (errors["l"][1] - errors["w"][1])))
        expected.append(math.log1p(math.exp(-margins[-1])))
    loss, numbers = take(FlowDPO(predict, off, beta), model, inputs)
    assert float(loss.detach()) == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    assert float(numbers["margin"]) == pytest.approx(sum(margins) / len(margins), rel=1e-3, abs=1e-4)
    assert float(numbers["accuracy"]) == pytest.approx(sum(m > 0 for m in margins) / len(margins))
    assert float(numbers["drift"]) > 0


def test_it_learns_what_is_preferred_and_encodes_once_for_policy_and_reference(model):
    objective = FlowDPO(predict, off, beta=5.0, encode=encode)
    optimizer = torch.optim.Adam([model.down, model.up], lr=0.02)
    for step in range(150):
        loss, _ = take(objective, model, pairs(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model.encoded == 300
    model.encoded = 0
    loss, numbers = take(objective, model, pairs(1000, 256))
    assert float(loss.detach()) < 0.75 * LN2
    assert float(numbers["accuracy"]) > 0.75
    assert float(numbers["loser"]) > float(numbers["winner"])


def test_elements_that_weigh_nothing_do_not_count(model):
    nn.init.normal_(model.up, std=0.1)
    weight = torch.ones(16, 4)
    weight[:, 2:] = 0
    other = pairs(1)
    loser = torch.cat([other.loser[:, :2], 9 * other.loser[:, 2:]], 1)
    objective = FlowDPO(lambda m, x, i: predict(m, x * i.weight, i), off, 10.0)
    here, there = (take(objective, model, other._replace(weight=weight, loser=x))[0] for x in (other.loser, loser))
    assert float(here.detach()) == pytest.approx(float(there.detach()), rel=1e-5)
    assert float(here.detach()) != pytest.approx(
        float(take(objective, model, other._replace(weight=weight[:, :1]))[0].detach())
    )


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_beta_must_be_positive(beta):
    with pytest.raises(ValueError, match="beta must be positive"):
        FlowDPO(predict, off, beta)
