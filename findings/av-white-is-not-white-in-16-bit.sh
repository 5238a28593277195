#!/usr/bin/env bash
# 8-bit white becomes 65283, 65280 or 65535 in PyAV's 16-bit formats, depending on where it comes from.
#
# Version:     av 18.1.0
# Expectation: full-range 255 is the largest value, so in 16 bits it is 65535, as NumPy users write it (× 257); at least it
#              is the same number for RGB, 4:4:4 and 4:2:0.
# Behaviour:   RGB to rgb48le or gbrp16le: 65283. Luma of full-range yuv420p and yuv422p to yuv444p16le: 65280; of
#              yuv444p: 65535.
# Consequence: 16-bit pictures divided by 65535 are 0.4 % too dark from one source and not from another; a tensor of
#              white from RGB does not reach 1.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$here/venv/bin/python" - <<'PY'
import av
import numpy as np

def luma(form):
    """A full-range white frame's luma in 16 bits."""
    frame = av.VideoFrame(16, 16, form)
    for plane, code in zip(frame.planes, (255, 128, 128)):
        plane.update(bytes([code]) * plane.buffer_size)
    frame.color_range = 2
    wide = frame.reformat(format="yuv444p16le", src_color_range=2, dst_color_range=2)
    return int(np.frombuffer(wide.planes[0], np.uint16)[0])

white = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 255, np.uint8), format="rgb24")
seen = {f"rgb24 → {form}": int(white.reformat(format=form).to_ndarray()[8, 8, 0]) for form in ("rgb48le", "gbrp16le")}
seen |= {f"{form} → yuv444p16le": luma(form) for form in ("yuv420p", "yuv422p", "yuv444p")}
print("av", av.__version__)
for name, value in seen.items():
    print(f"{name:22} {value}")
assert set(seen.values()) == {65283, 65280, 65535}
PY
# Output seen:
# av 18.1.0
# rgb24 → rgb48le        65283
# rgb24 → gbrp16le       65283
# yuv420p → yuv444p16le  65280
# yuv422p → yuv444p16le  65280
# yuv444p → yuv444p16le  65535
