#!/usr/bin/env bash
# PyAV's most exact scaler flags move colours to the left with every writing and reading of H.264 in 4:2:0.
#
# Version:     av 18.1.0
# Expectation: reformat(interpolation=BILINEAR | ACCURATE_RND | FULL_CHR_H_INT) from RGB to yuv420p and back keeps
#              colours where they are, since one library does both ways.
# Behaviour:   to yuv420p a colour lies between its two pixels; the file says nothing, so reading takes it for the left
#              one. Every round moves all colours by about half a pixel. A file that says so (x264's chromaloc=1) is
#              read back in place.
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

EXACT = I.BILINEAR | I.ACCURATE_RND | I.FULL_CHR_H_INT
FIRST = np.kron(np.random.default_rng(0).integers(16, 240, (20, 20, 3)), np.ones((16, 16, 1))).astype(np.uint8)

def moved(options, rounds=10):
    frame = FIRST
    for _ in range(rounds):
        with av.open(f"{sys.argv[1]}/x.mp4", "w") as out:
            stream = out.add_stream("libx264", rate=8)
            stream.width, stream.height, stream.pix_fmt = 320, 320, "yuv420p"
            stream.options = {"crf": "0", **options}
            rgb = av.VideoFrame.from_ndarray(frame, format="rgb24")
            out.mux(stream.encode(rgb.reformat(format="yuv420p", interpolation=EXACT)))
            out.mux(stream.encode(None))
        with av.open(f"{sys.argv[1]}/x.mp4") as file:
            read = next(file.decode(video=0)).reformat(format="rgb24", interpolation=EXACT)
            frame = read.to_ndarray()
    colour = [x[..., 0].astype(float) - x[..., 2] for x in (frame, FIRST)]
    return max(range(-12, 13), key=lambda by: (np.roll(colour[0], by, 1) * colour[1]).sum())

silent, told = moved({}), moved({"x264-params": "chromaloc=1"})
print("av", av.__version__)
print(f"pixels to the left after ten rounds: {silent} where the file is silent, {told} with chromaloc=1")
assert silent >= 4 and told == 0
PY
# Output seen:
# av 18.1.0
# pixels to the left after ten rounds: 5 where the file is silent, 0 with chromaloc=1
