#!/usr/bin/env bash
# Writes the lock files anew from the ranges in pyproject.toml and the pins in torch.txt: `make lock`. Needs uv, and a
# ComfyUI checkout for comfyui.txt.
#   headless.txt   all that the command, its training and its tests need, with hashes
#   comfyui.txt    what ComfyUI's own tests need beyond that
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-uv}
comfy=${COMFYUI_PATH:-$HOME/comfy/ComfyUI}

compile() { # compile OUTPUT INPUT...: one resolution for Linux, macOS and Windows, Python 3.11 and newer
  local output=$1
  shift
  "$uv" pip compile --quiet --upgrade --universal --python-version 3.11 --fork-strategy fewest --no-annotate \
    --no-emit-index-url --custom-compile-command "make lock" --constraint locks/torch.txt --output-file "$output" "$@"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
headless=(pyproject.toml --extra headless --extra train --extra dev)
build='setuptools>=77'
echo "$build" >"$work/build.in"

# What torch brings along differs by platform and build, and torch pins it itself.
compile "$work/all.txt" "${headless[@]}" "$work/build.in" locks/torch.txt
own=(--no-emit-package torch --no-emit-package torchvision --no-emit-package torchaudio --no-emit-package triton)
for name in $(grep -oE '^(nvidia|cuda)-[a-z0-9-]+' "$work/all.txt" | sort -u); do own+=(--no-emit-package "$name"); done

compile locks/headless.txt --generate-hashes "${own[@]}" "${headless[@]}" "$work/build.in"

if [ -f "$comfy/requirements.txt" ]; then
  for name in $(grep -oE '^[a-z0-9_.-]+==' locks/headless.txt | tr -d =); do own+=(--no-emit-package "$name"); done
  cp locks/headless.txt "$work/headless.txt"
  sed -i -E '/^ +--hash/d; s/ \\$//' "$work/headless.txt"
  printf '%s\n' 'playwright>=1.49' >"$work/browser.in"
  compile locks/comfyui.txt --generate-hashes "${own[@]}" --constraint "$work/headless.txt" "$comfy/requirements.txt" "$work/browser.in"
else
  echo "locks/comfyui.txt stays as it is: no ComfyUI checkout at $comfy" >&2
fi
