#!/usr/bin/env bash
# Pillow does not say that a PNG's numbers are Display P3 or HDR where the file says so by cICP.
#
# Version:     pillow 13.0.0
# Expectation: PNG's third edition (2025) has the chunk cICP, which browsers rank above an ICC profile. A reader that
#              reports `icc_profile`, `gamma`, `chromaticity` and `srgb` in `Image.info` will report this one, too, or
#              at least warn; a picture in P3 (12, 13, 0, 1) or PQ (9, 16, 0, 1) can be told from one in sRGB.
# Behaviour:   info and pixels are those of the same file without the chunk; no warning, no attribute. A tool that
#              honours ICC profiles still takes such a file for sRGB.
# Consequence: who cares about colour has to walk the chunks before IDAT.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check pillow==13.0.0
"$here/venv/bin/python" -W error - <<'PY'
import io, struct, zlib
import PIL
from PIL import Image

def with_chunk(raw, name, data):
    chunk = struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return raw[:33] + chunk + raw[33:]  # right behind IHDR, where the specification wants it

file = io.BytesIO()
Image.new("RGB", (16, 16), (200, 60, 50)).save(file, "PNG")
plain = file.getvalue()
variants = {
    "plain": plain,
    "gAMA": with_chunk(plain, b"gAMA", struct.pack(">I", 45455)),
    "cICP Display P3": with_chunk(plain, b"cICP", bytes([12, 13, 0, 1])),
    "cICP BT.2020 PQ": with_chunk(plain, b"cICP", bytes([9, 16, 0, 1])),
}
print("pillow", PIL.__version__)
seen = {}
for name, raw in variants.items():
    with Image.open(io.BytesIO(raw)) as picture:
        picture.load()
        seen[name] = (dict(picture.info), picture.getpixel((0, 0)))
    print(f"{name:16} info {seen[name][0]} pixel {seen[name][1]}")
assert "gamma" in seen["gAMA"][0], "other colour chunks are reported"
assert seen["cICP Display P3"] == seen["cICP BT.2020 PQ"] == seen["plain"], "cICP is reported now"
PY
# Output seen:
# pillow 13.0.0
# plain            info {} pixel (200, 60, 50)
# gAMA             info {'gamma': 0.45455} pixel (200, 60, 50)
# cICP Display P3  info {} pixel (200, 60, 50)
# cICP BT.2020 PQ  info {} pixel (200, 60, 50)
