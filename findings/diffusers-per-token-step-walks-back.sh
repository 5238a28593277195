#!/usr/bin/env bash
# diffusers' Euler step goes the other way as soon as every token's time is given.
#
# Version:     diffusers 0.42.1, torch 2.13.0
# Expectation: FlowMatchEulerDiscreteScheduler.step(v, t, x, per_token_timesteps=…) with the same time for every token
#              is the step without that argument; the docstring calls it "the timesteps for each token in the sample".
# Behaviour:   it adds (sigma - sigma_next) * v where the ordinary step adds (sigma_next - sigma) * v: the sample walks
#              back into the noise. Its few callers in the library pass the negated velocity. The result is also left
#              in float32 where the ordinary step returns the model's type.
# Consequence: diffusion forcing, where each frame has its own time, samples noise unless the sign is turned.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 numpy==2.4.6
"$here/venv/bin/python" - <<'PY'
import diffusers, torch

def stepped(levels, each, negated=False, dtype=torch.float32):
    """A whole run towards `data` with the exact velocity of a straight path."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(levels)
    data, noise = torch.tensor([[[2.0]], [[-1.0]]]).to(dtype)
    x = noise[None]
    for t in scheduler.timesteps:
        velocity = (noise - data)[None]
        every = {"per_token_timesteps": t.expand(1, 1)} if each else {}
        x = scheduler.step(-velocity if negated else velocity, t, x, return_dict=False, **every)[0]
    return x.item(), x.dtype

print("diffusers", diffusers.__version__, "- from noise -1 to data 2:")
one, each, turned = stepped(8, False), stepped(8, True), stepped(8, True, negated=True)
print(f"one time for all     {one[0]:6.3f}")
print(f"the same per token   {each[0]:6.3f}")
print(f"negated velocity     {turned[0]:6.3f}")
types = [stepped(8, each, dtype=torch.bfloat16)[1] for each in (False, True)]
print("a bfloat16 velocity gives", *types)
assert abs(one[0] - 2) < 1e-4 and abs(turned[0] - 2) < 1e-4
assert abs(each[0] + 4) < 1e-4, "both ways step alike now"
assert types == [torch.bfloat16, torch.float32], "types are alike now"
PY
# Output seen:
# diffusers 0.42.1 - from noise -1 to data 2:
# one time for all      2.000
# the same per token   -4.000
# negated velocity      2.000
# a bfloat16 velocity gives torch.bfloat16 torch.float32
