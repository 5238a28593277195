#!/usr/bin/env bash
# A part of a schedule given to diffusers' flow scheduler is stretched until it ends at the terminal level.
#
# Version:     diffusers 0.42.1, torch 2.13.0
# Expectation: set_timesteps(sigmas=…) uses the levels it is given: the first and second half of a schedule, in two
#              calls (two models, a pause, a change of guidance), walk through the same levels as the whole.
# Behaviour:   with shift_terminal, as Qwen-Image and LTX set it, every list is stretched so that its last level is
#              the terminal one, also a list that is meant to end half-way. The first half alone then goes down to 0.02,
#              followed by 0, in steps more than twice as long; the second half, which begins lower, is left as it is.
# Consequence: set the whole schedule once and slice `timesteps` (set_begin_index), or do the steps oneself.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --no-compile --disable-pip-version-check torch==2.13.0 diffusers==0.42.1 numpy==2.4.6
"$here/venv/bin/python" - <<'PY'
import diffusers, numpy

def levels(sigmas):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift_terminal=0.02)
    scheduler.set_timesteps(sigmas=list(sigmas))
    return scheduler.sigmas.numpy()

print("diffusers", diffusers.__version__)
whole = levels(numpy.linspace(1, 1 / 8, 8))
first, second = levels(whole[:4]), levels(whole[4:8])
with numpy.printoptions(precision=3, suppress=True):
    print("whole          ", whole)
    print("first half in  ", whole[:4])
    print("first half out ", first)
    print("second half out", second)
assert numpy.allclose(second, whole[4:], atol=1e-4), "a list that already ends there is kept"
assert abs(first[3] - 0.02) < 1e-4 and abs(whole[3] - 0.58) < 1e-2, "the first half is kept now"
PY
# Output seen:
# diffusers 0.42.1
# whole           [1.   0.86 0.72 0.58 0.44 0.3  0.16 0.02 0.  ]
# first half in   [1.   0.86 0.72 0.58]
# first half out  [1.    0.673 0.347 0.02  0.   ]
# second half out [0.44 0.3  0.16 0.02 0.  ]
