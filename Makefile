# `make film`, `make test` and `make lint` each set everything up by themselves and then do their job.
# The set-up runs once: a stamp in the virtual environment says that it is done, until pyproject.toml changes.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.anchorshot-ready
PYTHONS := $(PYTHON) python3 python python3.13 python3.12 python3.11 python3.10
OUT ?= output/film
STORY ?= stories/two_friends.yaml

COMFYUI_PATH ?= $(HOME)/comfy/ComfyUI

.PHONY: help film test test-comfyui workflows lint setup clean

help:
	@echo "make film    render $(STORY) into $(OUT)"
	@echo "make test    run the tests"
	@echo "make test-comfyui    run the tests against the ComfyUI checkout at $(COMFYUI_PATH)"
	@echo "make workflows       draw workflows/ and subgraphs/ anew, with ComfyUI's frontend in a browser"
	@echo "make lint    ruff (lint and format) and mypy"
	@echo "make clean   remove the virtual environment and caches; films stay"

film: $(READY)
	$(BIN)/anchorshot film $(STORY) --out $(OUT)

test: $(READY)
	$(BIN)/python -m pytest --ignore=tests/comfyui

test-comfyui: $(VENV)/.comfyui-ready
	COMFYUI_PATH="$(COMFYUI_PATH)" $(BIN)/python -m pytest tests/comfyui

# Edit tests/comfyui/shipped; NAMES="pocket_film ..." draws only those.
workflows: $(VENV)/.comfyui-ready
	COMFYUI_PATH="$(COMFYUI_PATH)" PYTHONPATH=tests $(BIN)/python -m comfyui.shipped $(NAMES)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p $(VENV)/types && ln -sfn "$(CURDIR)" $(VENV)/types/anchorshot
	$(BIN)/mypy

setup: $(READY)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A system Python may lack the pip bootstrap; uv does not need it.
$(BIN)/python:
	@for python in $(PYTHONS); do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then \
	    echo "Creating $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv $(VENV) && exit 0; \
	    rm -rf $(VENV); \
	    if uv --version >/dev/null 2>&1; then "$$python" -m venv --without-pip $(VENV) && exit 0; rm -rf $(VENV); fi; \
	  fi; \
	done; \
	echo "No Python 3.10 or newer that can create a virtual environment was found." >&2; \
	echo "Install one (on Debian or Ubuntu: python3 and python3-venv), or name it: make PYTHON=/path/to/python3.12" >&2; \
	exit 1

$(READY): pyproject.toml | $(BIN)/python
	@if uv --version >/dev/null 2>&1; then \
	  echo "Installing with uv"; \
	  uv pip install --quiet --python $(BIN)/python -e '.[headless,train,dev]'; \
	else \
	  echo "Installing with pip (this takes some minutes the first time)"; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[headless,train,dev]'; \
	fi
	@touch $@

# ComfyUI's own requirements, for its tests only, and what drives a browser; torchaudio must be of torch's version.
$(VENV)/.comfyui-ready: $(COMFYUI_PATH)/requirements.txt $(READY)
	@if uv --version >/dev/null 2>&1; then \
	  uv pip install --quiet --python $(BIN)/python -r "$(COMFYUI_PATH)/requirements.txt" 'torch==2.11.*' 'torchaudio==2.11.*' 'playwright>=1.49'; \
	else \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    -r "$(COMFYUI_PATH)/requirements.txt" 'torch==2.11.*' 'torchaudio==2.11.*' 'playwright>=1.49'; \
	fi
	@touch $@
