#!/bin/sh
# Installs into the virtual environment $VENV, with uv where there is one and pip otherwise, and without a resolver: the
# lock files name everything.   locks/install.sh headless | comfyui | triton | newest
#
# Quiet: only errors are shown, and those name the package.
set -eu
python=$VENV/bin/python

if uv --version >/dev/null 2>&1; then
  tool=uv
  install() { uv pip install --quiet --python "$python" "$@"; }
else
  tool=pip
  # --no-compile: of some 20,000 modules a film imports a tenth; Python compiles those when it first needs them.
  install() { "$python" -m pip install -qq --no-input --disable-pip-version-check --no-warn-script-location --no-compile "$@"; }
fi

failed() {
  echo "The set-up stopped at $1; see the error above, which names the package. \`make setup\` goes on from there." >&2
  exit 1
}

case $1 in
headless)
  echo "Installing with $tool: the libraries"
  install --no-deps --require-hashes -r locks/headless.txt || failed "locks/headless.txt"
  echo "Installing with $tool: PyTorch, the largest part (up to 3 GB; a CPU build is a tenth of that)"
  install -r locks/torch.txt || failed "locks/torch.txt"
  install --no-deps --no-build-isolation -e . || failed "anchorshot itself"
  ;;
comfyui)
  echo "Installing with $tool: what ComfyUI needs"
  install --no-deps --require-hashes -r locks/comfyui.txt || failed "locks/comfyui.txt"
  # Nothing to do for the release that was locked; a newer checkout may want more. What is there stays.
  install -r "$COMFYUI_PATH/requirements.txt" -r locks/torch.txt || failed "ComfyUI's requirements.txt"
  ;;
triton)
  "$python" -c 'import triton' >/dev/null 2>&1 || {
    echo "Installing with $tool: Triton, for tests of the kernels"
    install --no-deps -r locks/triton.txt || echo "Triton cannot be installed here; tests of the kernels are skipped" >&2
  }
  ;;
newest)
  echo "Installing with $tool: the newest versions that pyproject.toml allows, and ComfyUI's newest frontend and templates"
  install --upgrade -e '.[headless,train,dev]' torchaudio 'playwright>=1.49' || failed "pyproject.toml"
  grep -vE '^(comfyui-frontend-package|comfyui-workflow-templates|comfyui-embedded-docs|torch|torchvision|torchaudio)\b' \
    "$COMFYUI_PATH/requirements.txt" >"$VENV/comfyui.in"
  install -r "$VENV/comfyui.in" || failed "ComfyUI's requirements.txt"
  install --upgrade comfyui-frontend-package comfyui-workflow-templates comfyui-embedded-docs || failed "ComfyUI's frontend"
  "$python" locks/versions.py
  ;;
*)
  echo "usage: VENV=.venv locks/install.sh headless|comfyui|triton|newest" >&2
  exit 2
  ;;
esac
