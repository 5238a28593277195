#!/usr/bin/env bash
# After a run, diffusers' scale_noise adds no noise at all, whatever timestep it is asked for.
#
# Version:     diffusers 0.42.1, torch 2.13.0
# Expectation: scale_noise(sample, timestep, noise) mixes each sample with noise at its own timestep.
# Behaviour:   true until set_begin_index, which the library's pipelines call at the start of every run. From then on
#              the timesteps are not looked at: before the first step each sample gets the first level, in the run
#              that of the current step, after it the last one, which is 0. No warning.
# Consequence: frames at different levels, a memory renoised in the middle of a run, or a training loop that shares its
#              scheduler with the previews need the mix written out, (1 - t) * sample + t * noise, or a second scheduler.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 numpy==2.4.6
"$here/venv/bin/python" - <<'PY'
import diffusers, torch

scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
scheduler.set_timesteps(4)
sample, noise = torch.zeros(2, 1), torch.ones(2, 1)  # so the mix is the noise level itself
asked = scheduler.timesteps[[1, 3]]

def levels():
    return [round(x, 3) for x in scheduler.scale_noise(sample, asked, noise).flatten().tolist()]

print("diffusers", diffusers.__version__, "- asked for levels", [round(t / 1000, 3) for t in asked.tolist()])
seen = {"a new scheduler": levels()}
scheduler.set_begin_index(0)
seen["begin index set"] = levels()
x = sample
for i, t in enumerate(scheduler.timesteps):
    x = scheduler.step(torch.zeros_like(x), t, x, return_dict=False)[0]
    if i == 1:
        seen["after two steps"] = levels()
seen["after the run"] = levels()
for when, found in seen.items():
    print(f"{when:16}", found)
assert seen["a new scheduler"] == [round(t / 1000, 3) for t in asked.tolist()]
assert seen["begin index set"] == [1, 1] and seen["after the run"] == [0, 0], "timesteps are looked at now"
PY
# Output seen:
# diffusers 0.42.1 - asked for levels [0.667, 0.001]
# a new scheduler  [0.667, 0.001]
# begin index set  [1.0, 1.0]
# after two steps  [0.334, 0.334]
# after the run    [0.0, 0.0]
