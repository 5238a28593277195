#!/usr/bin/env bash
# In-place changes of comfy-kitchen's quantised weights do nothing, and say nothing.
#
# Version:     comfy-kitchen 0.2.31 (its PyTorch backend, on the CPU), torch 2.14.1
# Expectation: a QuantizedTensor is a torch.Tensor in which a model's weights live; weight.add_(delta), as a LoRA is
#              merged, changes it, or raises as copy_ from an ordinary tensor does.
# Behaviour:   what the class does not know it runs on a dequantised copy, in-place operations too, and returns the
#              tensor itself, unchanged. add_, +=, mul_, zero_, an assignment to rows and torch.nn.init are lost in all
#              layouts: the merged model is the base model.
# Consequence: quantise again (`weight.requantize_from_float(weight.dequantize() + delta)`) and put the result in place.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --no-compile --disable-pip-version-check torch==2.14.1 comfy-kitchen==0.2.31 packaging==26.4 numpy==2.4.6
"$here/venv/bin/python" -W error - <<'PY'
import importlib.metadata, operator, torch
from comfy_kitchen.tensor import QuantizedTensor

print("comfy-kitchen", importlib.metadata.version("comfy-kitchen"))
delta = torch.ones(64, 64)
changes = {
    "add_": lambda w: w.add_(delta),
    "+=": lambda w: operator.iadd(w, delta),
    "mul_": lambda w: w.mul_(2),
    "zero_": lambda w: w.zero_(),
    "w[0] = 1": lambda w: operator.setitem(w, 0, 1.0),
    "init.normal_": lambda w: torch.nn.init.normal_(w),
}
torch.manual_seed(0)
moved = {}
for layout in ("none", "TensorCoreFP8Layout", "TensorWiseINT8Layout", "TensorCoreNVFP4Layout", "TensorCoreMXFP8Layout"):
    for name, change in changes.items():
        weight = torch.randn(64, 64)
        if layout != "none":
            weight = QuantizedTensor.from_float(weight, layout)
        layer = torch.nn.Linear(64, 64, bias=False)
        layer.weight = torch.nn.Parameter(weight, requires_grad=False)
        x = torch.randn(4, 64)
        before = layer(x)
        change(layer.weight)
        moved[layout, name] = not torch.equal(layer(x), before)
    print(f"{layout:22}", *[f"{name}: {'changed' if moved[layout, name] else 'nothing'}" for name in changes], sep="  ")
assert all(done == (layout == "none") for (layout, _), done in moved.items()), "changes are kept or refused now"
try:
    layer.weight.copy_(delta)
except TypeError as error:
    print("copy_:", error)
PY
# Output seen:
# comfy-kitchen 0.2.31
# none                    add_: changed  +=: changed  mul_: changed  zero_: changed  w[0] = 1: changed  init.normal_: changed
# TensorCoreFP8Layout     add_: nothing  +=: nothing  mul_: nothing  zero_: nothing  w[0] = 1: nothing  init.normal_: nothing
# TensorWiseINT8Layout    add_: nothing  +=: nothing  mul_: nothing  zero_: nothing  w[0] = 1: nothing  init.normal_: nothing
# TensorCoreNVFP4Layout   add_: nothing  +=: nothing  mul_: nothing  zero_: nothing  w[0] = 1: nothing  init.normal_: nothing
# TensorCoreMXFP8Layout   add_: nothing  +=: nothing  mul_: nothing  zero_: nothing  w[0] = 1: nothing  init.normal_: nothing
# copy_: Cannot copy Tensor to QuantizedTensor
