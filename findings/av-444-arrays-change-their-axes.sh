#!/usr/bin/env bash
# PyAV's to_ndarray puts the planes of yuv444p first, and those of yuv444p16le last.
#
# Version:     av 18.1.0
# Expectation: one layout for one kind of format: 4:4:4 in 8 bits and in 16 bits differ in dtype only.
# Behaviour:   yuv444p gives (3, height, width), yuv444p16le (height, width, 3). A square frame gives no error at all, only
#              another picture. The depths between (10, 12 bits) raise ValueError.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$here/venv/bin/python" - <<'PY'
import av
import numpy as np

print("av", av.__version__)
shapes = {}
for form in ("yuv444p", "yuv444p10le", "yuv444p12le", "yuv444p16le"):
    try:
        shapes[form] = av.VideoFrame(64, 32, form).to_ndarray().shape
    except ValueError:
        shapes[form] = "ValueError"
    print(f"{form:12} {shapes[form]}")
assert shapes["yuv444p"] == (3, 32, 64) and shapes["yuv444p16le"] == (32, 64, 3)
assert shapes["yuv444p10le"] == shapes["yuv444p12le"] == "ValueError"
PY
# Output seen:
# av 18.1.0
# yuv444p      (3, 32, 64)
# yuv444p10le  ValueError
# yuv444p12le  ValueError
# yuv444p16le  (32, 64, 3)
