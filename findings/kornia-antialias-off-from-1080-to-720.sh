#!/usr/bin/env bash
# kornia's resize(antialias=True) leaves antialiasing out when a picture shrinks to two thirds.
#
# Version:     kornia 0.9.0, torch 2.13.0
# Expectation: antialias=True removes what the smaller picture cannot hold, at every factor: stripes finer than its
#              pixels become grey, as with torch's own interpolate(antialias=True).
# Behaviour:   the blur before it has sigma (factor - 1) / 2 and a window of three pixels: at a factor of 1.2 not one
#              number differs from antialias=False, at 1.5 (1080 to 720 lines) hardly one, and fine stripes come back
#              as coarse ones at their whole contrast.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --no-compile --disable-pip-version-check torch==2.13.0 kornia==0.9.0 numpy==2.4.6
"$here/venv/bin/python" - <<'PY'
import kornia, torch
from kornia.geometry.transform import resize

rows = torch.arange(1080.0)
stripes = (0.5 + 0.5 * torch.sin(0.9 * torch.pi * rows)).view(1, 1, 1080, 1).repeat(1, 1, 1, 1080)
print("kornia", kornia.__version__, "- contrast (standard deviation) of stripes of 2.2 pixels, 1080 lines:")
contrast = {}
for lines in (900, 720, 540, 360):
    size = (lines, lines)
    pictures = {
        "kornia": resize(stripes, size),
        "kornia antialias": resize(stripes, size, antialias=True),
        "torch antialias": torch.nn.functional.interpolate(stripes, size, mode="bilinear", antialias=True),
    }
    contrast[lines] = [p[..., 20:-20, 20:-20].std().item() for p in pictures.values()]
    change = (pictures["kornia antialias"] - pictures["kornia"]).abs().max().item()
    print(f"{lines} lines", *[f"{k} {v:.3f}" for k, v in zip(pictures, contrast[lines])], f"changed by {change:.4f}", sep="  ")
assert contrast[900][1] == contrast[900][0], "at 1.2 it does something now"
assert contrast[720][1] > 0.9 * contrast[720][0] > 3 * contrast[720][2], "1080 to 720 is smoothed now"
PY
# Output seen:
# kornia 0.9.0 - contrast (standard deviation) of stripes of 2.2 pixels, 1080 lines:
# 900 lines  kornia 0.205  kornia antialias 0.205  torch antialias 0.132  changed by 0.0000
# 720 lines  kornia 0.183  kornia antialias 0.183  torch antialias 0.053  changed by 0.0003
# 540 lines  kornia 0.055  kornia antialias 0.032  torch antialias 0.001  changed by 0.0321
# 360 lines  kornia 0.354  kornia antialias 0.009  torch antialias 0.032  changed by 0.4869
