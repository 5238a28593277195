#!/usr/bin/env bash
# A DoRA adapter at strength 0 is not off: the trained magnitudes stay, without the directions they belong to.
#
# Version:     diffusers 0.42.1, peft 0.21.2, torch 2.13.0
# Expectation: set_adapters(name, 0.0) gives the base model, as it does for a LoRA, and strengths lie between the two.
# Behaviour:   the strength scales the low-rank part alone. A DoRA layer replaces the norm of each row of W + sBA by a
#              trained magnitude, which the strength does not touch, so at 0 the rows of W keep their directions and
#              get foreign lengths: neither the base model nor the trained one. disable_lora() does switch it off.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
  torch==2.13.0 diffusers==0.42.1 peft==0.21.2 transformers==5.24.0 accelerate==1.15.0 numpy==2.4.6
HF_HUB_OFFLINE=1 "$here/venv/bin/python" - <<'PY'
import diffusers, peft, torch
from diffusers import QwenImageTransformer2DModel

def effect(dora):
    """How far a trained adapter's output is from the base model's, by strength, as a share of the base's rms."""
    torch.manual_seed(0)
    model = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 6, 6),
    )
    inputs = dict(
        hidden_states=torch.randn(1, 16, 16), encoder_hidden_states=torch.randn(1, 5, 16),
        timestep=torch.tensor([0.5]), img_shapes=[[(1, 4, 4)]], return_dict=False,
    )
    base = model(**inputs)[0].detach()
    model.add_adapter(peft.LoraConfig(r=4, target_modules=["img_in", "proj_out"], use_dora=dora), "style")
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.01)
    for _ in range(60):  # a look that is twice as strong
        loss = (model(**inputs)[0] - 2 * base).square().mean()
        optimizer.zero_grad(); loss.backward(); optimizer.step()
    model.eval()
    found = {}
    for strength in (1.0, 0.5, 0.0, None):
        if strength is None:
            model.disable_lora()
        else:
            model.set_adapters("style", strength)
        with torch.no_grad():
            found[strength] = ((model(**inputs)[0] - base).square().mean() / base.square().mean()).sqrt().item()
    return found

print("diffusers", diffusers.__version__, "peft", peft.__version__)
seen = {name: effect(dora) for name, dora in (("LoRA", False), ("DoRA", True))}
for name, found in seen.items():
    print(name, *[f"{'disabled' if s is None else s}: {value:.3f}" for s, value in found.items()], sep="  ")
assert seen["LoRA"][0.0] == 0 == seen["DoRA"][None]
assert seen["DoRA"][0.0] > 0.05, "strength 0 is off now"
PY
# Output seen:
# diffusers 0.42.1 peft 0.21.2
# LoRA  1.0: 0.915  0.5: 0.542  0.0: 0.000  disabled: 0.000
# DoRA  1.0: 0.971  0.5: 0.942  0.0: 0.652  disabled: 0.000
