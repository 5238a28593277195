# `make film`, `make test` and `make lint` each set everything up by themselves and then do their job.
# The set-up runs once: a stamp in the virtual environment says that it is done, until pyproject.toml or the lock changes.
# It installs exactly what locks/ names, so that a version that came out yesterday changes nothing. `make lock` moves the
# lock on purpose; `make newest-test` shows what would happen if it were moved today.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.anchorshot-ready
PYTHONS := $(PYTHON) python3 python python3.13 python3.12 python3.11
OUT ?= output/film
STORY ?= stories/two_friends.yaml

COMFYUI_PATH ?= $(HOME)/comfy/ComfyUI
export COMFYUI_PATH

.PHONY: help film test test-comfyui kernels workflows lint setup versions lock newest-test clean

help:
	@echo "make film    render $(STORY) into $(OUT), and upscale it; goes on where it was stopped"
	@echo "make test    run the tests"
	@echo "make test-comfyui    run the tests against the ComfyUI checkout at $(COMFYUI_PATH)"
	@echo "make kernels         check the Triton kernels on random shapes, and compile them for five GPUs; needs none"
	@echo "make workflows       draw workflows/ and subgraphs/ anew, with ComfyUI's frontend in a browser"
	@echo "make lint    ruff (lint and format) and mypy"
	@echo "make versions    the versions that are installed"
	@echo "make lock    bring locks/ up to date, on purpose (needs uv)"
	@echo "make newest-test    all tests with the newest versions that install, in an environment of its own"
	@echo "make clean   remove the virtual environments and caches; films stay"

film: $(READY)
	$(BIN)/anchorshot film $(STORY) --out $(OUT) --upscale 2 --resume

# A process for each core, up to four, with one thread each: tests are many small things.
test: $(VENV)/.triton-ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --ignore=tests/in_comfyui

test-comfyui: $(VENV)/.comfyui-ready
	$(BIN)/python -m pytest tests/in_comfyui

kernels: $(VENV)/.triton-ready
	$(BIN)/anchorshot bench kernels

# Edit tests/in_comfyui/shipped; NAMES="pocket_film ..." draws only those.
workflows: $(VENV)/.comfyui-ready
	PYTHONPATH=tests $(BIN)/python -m in_comfyui.shipped $(NAMES)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p $(VENV)/types && ln -sfn "$(CURDIR)" $(VENV)/types/anchorshot
	$(BIN)/mypy

setup: $(READY)

versions: $(READY)
	@$(BIN)/python locks/versions.py

lock:
	bash locks/refresh.sh

clean:
	rm -rf $(VENV) .venv-newest .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A system Python may lack the pip bootstrap; uv does not need it.
$(BIN)/python:
	@for python in $(PYTHONS); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    echo "Creating $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv $(VENV) && exit 0; \
	    rm -rf $(VENV); \
	    if uv --version >/dev/null 2>&1; then "$$python" -m venv --without-pip $(VENV) && exit 0; rm -rf $(VENV); fi; \
	  fi; \
	done; \
	echo "No Python 3.11 or newer that can create a virtual environment was found." >&2; \
	echo "Install one (on Debian or Ubuntu: python3 and python3-venv), or name it: make PYTHON=/path/to/python3.12" >&2; \
	exit 1

$(READY): pyproject.toml locks/headless.txt locks/torch.txt | $(BIN)/python
	@VENV=$(VENV) sh locks/install.sh headless
	@touch $@

# For tests of the kernels on the CPU; without it they are skipped.
$(VENV)/.triton-ready: locks/triton.txt $(READY)
	@VENV=$(VENV) sh locks/install.sh triton
	@touch $@

# ComfyUI's own requirements, for its tests only, and what drives a browser.
$(VENV)/.comfyui-ready: $(COMFYUI_PATH)/requirements.txt locks/comfyui.txt $(READY)
	@VENV=$(VENV) sh locks/install.sh comfyui
	@touch $@

# Reports, and blocks nothing: the lock is what counts.
newest-test:
	@$(MAKE) --no-print-directory VENV=.venv-newest .venv-newest/bin/python
	@VENV=.venv-newest sh locks/install.sh newest
	.venv-newest/bin/python -m pytest --ignore=tests/in_comfyui
	.venv-newest/bin/python -m pytest tests/in_comfyui
