#!/usr/bin/env bash
# PyAV's exact scaler flags give wrong colours in 16-bit RGB, from ordinary H.264.
#
# Version:     av 18.1.0
# Expectation: reformat(format="rgb48le") with BILINEAR | ACCURATE_RND | FULL_CHR_H_INT, the flags that make rgb24 exact,
#              gives the colours that rgb24 gives with them, in more bits.
# Behaviour:   rgb24 is right, the planar gbrp16le is right, rgb48le without ACCURATE_RND is right. rgb48le with all three
#              flags is off by tens of codes in the middles of flat patches. Only where chroma lies between two lines, as
#              H.264 has it by default; with chroma on a line (location 2) it is right. No warning.
# Consequence: 10-bit video read as rgb48le, to keep its bits, must not be read with these flags; gbrp16le may.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$here/venv/bin/python" - "$here" <<'PY'
import sys
import av
import numpy as np
from av.video.reformatter import Interpolation as I

PLAIN, EXACT = I.BILINEAR | I.FULL_CHR_H_INT, I.BILINEAR | I.ACCURATE_RND | I.FULL_CHR_H_INT
PATCHES = np.random.default_rng(0).integers(40, 216, (4, 6, 3))
FIRST = np.kron(PATCHES, np.ones((16, 16, 1))).astype(np.uint8)

def decoded(*parameters):
    with av.open(f"{sys.argv[1]}/x.mp4", "w") as out:
        stream = out.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        stream.options = {"qp": "2", "x264-params": ":".join(parameters)}
        rgb = av.VideoFrame.from_ndarray(FIRST, format="rgb24")
        frame = rgb.reformat(format="yuv420p", dst_colorspace=1, src_color_range=2, dst_color_range=1)
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with av.open(f"{sys.argv[1]}/x.mp4") as file:
        return next(file.decode(video=0))

def error(frame, form, flags):
    picture = frame.reformat(format=form, interpolation=flags, dst_color_range=2).to_ndarray()
    return float(np.abs(picture[8::16, 8::16] * (1 if form == "rgb24" else 255 / 65535) - PATCHES).mean())

print("av", av.__version__)
ordinary, on_lines = decoded(), decoded("chromaloc=2")
seen = {}
for name, frame in (("ordinary H.264", ordinary), ("chroma on a line", on_lines)):
    for form in ("rgb24", "gbrp16le", "rgb48le"):
        seen[name, form] = error(frame, form, PLAIN), error(frame, form, EXACT)
        print(f"{name:16} {form:8} mean error {seen[name, form][0]:4.1f}, with ACCURATE_RND {seen[name, form][1]:4.1f} of 255")
wrong = seen.pop(("ordinary H.264", "rgb48le"))
assert max(max(pair) for pair in seen.values()) < 3 and wrong[0] < 3, "the others are right"
assert wrong[1] > 20, "it is right now"
PY
# Output seen:
# av 18.1.0
# ordinary H.264   rgb24    mean error  1.5, with ACCURATE_RND  0.5 of 255
# ordinary H.264   gbrp16le mean error  0.8, with ACCURATE_RND  0.8 of 255
# ordinary H.264   rgb48le  mean error  2.2, with ACCURATE_RND 65.4 of 255
# chroma on a line rgb24    mean error  1.5, with ACCURATE_RND  0.5 of 255
# chroma on a line gbrp16le mean error  0.8, with ACCURATE_RND  0.8 of 255
# chroma on a line rgb48le  mean error  2.2, with ACCURATE_RND  0.8 of 255
