#!/usr/bin/env bash
# comfy-kitchen's fp8 keeps only the signs of a small fp16 weight, and makes NaN of its zeros.
#
# Version:     comfy-kitchen 0.2.31 (its PyTorch backend, on the CPU), torch 2.14.1
# Expectation: a scale for the whole tensor is there so that fp8's range does not matter: the relative error is about
#              3 % at every size, and the same for float32, bfloat16 and float16, whose values are all exact.
# Behaviour:   the tensor is multiplied by 1 / scale in its own type. In fp16 that is infinite as soon as the largest
#              weight is below 448 / 65504 = 0.007, as in many a LoRA: every weight becomes plus or minus the
#              largest, every zero NaN. No error, no warning.
# Consequence: give it float32 or bfloat16.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --no-compile --disable-pip-version-check torch==2.14.1 comfy-kitchen==0.2.31 packaging==26.4 numpy==2.4.6
"$here/venv/bin/python" - <<'PY'
import importlib.metadata, torch
from comfy_kitchen.tensor import QuantizedTensor

print("comfy-kitchen", importlib.metadata.version("comfy-kitchen"))
torch.manual_seed(0)
pattern = torch.rand(64, 64) * 2 - 1
pattern[0] = 0
seen = {}
for largest in (0.02, 0.01, 0.006, 0.001):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        weight = (pattern * largest).to(dtype)
        back = QuantizedTensor.from_float(weight, "TensorCoreFP8Layout").dequantize().float()
        error = (back[1:] - weight.float()[1:]).norm() / weight.float().norm()
        seen[largest, dtype] = error.item(), int(back.isnan().sum()), len(back[1:].abs().unique())
        error, nans, sizes = seen[largest, dtype]
        print(f"up to {largest:5} {str(dtype):14} error {error:4.0%}, {nans:2} NaN, {sizes:3} sizes")
half = [seen.pop((largest, torch.float16)) for largest in (0.006, 0.001)]
assert all(error < 0.04 and nans == 0 for error, nans, _ in seen.values()), "the others are right"
assert all(error > 0.5 and nans == 64 and sizes == 1 for error, nans, sizes in half), "fp16 is right now"
PY
# Output seen:
# comfy-kitchen 0.2.31
# up to  0.02 torch.float32  error   3%,  0 NaN,  78 sizes
# up to  0.02 torch.bfloat16 error   3%,  0 NaN,  77 sizes
# up to  0.02 torch.float16  error   3%,  0 NaN,  78 sizes
# up to  0.01 torch.float32  error   3%,  0 NaN,  78 sizes
# up to  0.01 torch.bfloat16 error   3%,  0 NaN,  77 sizes
# up to  0.01 torch.float16  error   3%,  0 NaN,  78 sizes
# up to 0.006 torch.float32  error   3%,  0 NaN,  78 sizes
# up to 0.006 torch.bfloat16 error   3%,  0 NaN,  78 sizes
# up to 0.006 torch.float16  error 101%, 64 NaN,   1 sizes
# up to 0.001 torch.float32  error   3%,  0 NaN,  78 sizes
# up to 0.001 torch.bfloat16 error   3%,  0 NaN,  77 sizes
# up to 0.001 torch.float16  error  99%, 64 NaN,   1 sizes
