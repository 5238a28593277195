#!/usr/bin/env bash
# One diffusers call with the LoRA scale 0 leaves the LoRA at full strength, whatever strength was set.
#
# Version:     diffusers 0.42.1, peft 0.21.2, torch 2.13.0
# Expectation: attention_kwargs={"scale": s} holds for one call; after it the strength is what set_adapters chose.
# Behaviour:   true for every s but 0. The factor is taken back by a division, and for 0 by setting the strength to 1.0:
#              a film whose LoRA runs at 0.3 looks different from the next call on, after one picture without it.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --no-compile --disable-pip-version-check \
  torch==2.13.0 diffusers==0.42.1 peft==0.21.2 transformers==5.24.0 accelerate==1.15.0 numpy==2.4.6
HF_HUB_OFFLINE=1 "$here/venv/bin/python" - <<'PY'
import diffusers, peft, torch
from diffusers import QwenImageTransformer2DModel

torch.manual_seed(0)
model = QwenImageTransformer2DModel(
    in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
    joint_attention_dim=16, axes_dims_rope=(4, 6, 6),
).eval()
model.add_adapter(peft.LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False), "style")
inputs = dict(
    hidden_states=torch.randn(1, 16, 16), encoder_hidden_states=torch.randn(1, 5, 16), timestep=torch.tensor([0.5]),
    img_shapes=[[(1, 4, 4)]], return_dict=False,
)

@torch.no_grad()
def run(**kwargs):
    return model(**inputs, **kwargs)[0]

def strength(wanted, then=None):
    """The output at a strength, after a call at another scale."""
    model.set_adapters("style", wanted)
    if then is not None:
        run(attention_kwargs={"scale": then})
    return run()

print("diffusers", diffusers.__version__, "peft", peft.__version__)
weak, full = strength(0.3), strength(1.0)
away = {scale: [(strength(0.3, scale) - x).abs().max().item() for x in (weak, full)] for scale in (0.5, 0.0)}
for scale, (from_weak, from_full) in away.items():
    print(f"set to 0.3, one call at scale {scale}: then {from_weak:.4f} off strength 0.3, {from_full:.4f} off 1.0")
assert away[0.5][0] < 1e-5, "other factors are taken back"
assert away[0.0][0] > 1e-3 and away[0.0][1] < 1e-5, "the strength survives now"
PY
# Output seen:
# diffusers 0.42.1 peft 0.21.2
# set to 0.3, one call at scale 0.5: then 0.0000 off strength 0.3, 0.0566 off 1.0
# set to 0.3, one call at scale 0.0: then 0.0566 off strength 0.3, 0.0000 off 1.0
