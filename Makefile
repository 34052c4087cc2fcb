# Omnisky in commands; each sets up all it needs.
SHELL := /bin/bash
# The first that runs and is new enough; a pyenv shim can be on PATH and still not run.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# A CPU build of torch suffices and spares gigabytes; TORCH_INDEX= (empty) takes the default build with CUDA.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: help setup demo test lint bench bench-reference screenshots clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(VENV)/.ready  ## a .venv with all that is needed (quick when it is there)

$(VENV)/.ready: pyproject.toml constraints.txt tools/setup.sh
	@TORCH_INDEX="$(TORCH_INDEX)" bash tools/setup.sh "$(PYTHON)" "$(VENV)"
	@touch $@

demo: setup  ## the simulated survey in your browser; ARGS="--objects 300 --port 5010 --no-browser" go to `omnisky demo`
	@$(BIN)/omnisky demo $(ARGS)

test: setup  ## a browser if there is none, then all tests; ARGS="tests/io -x" chooses
	@$(BIN)/python tools/browser.py
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: setup  ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/mypy

bench: setup  ## how fast each stage and each interaction is, beside a peer; writes bench.json
	@$(BIN)/python -m tools.bench $(ARGS)

bench-reference: setup  ## beside AION-1's own package: speed, memory, agreement; writes benchmarks/reference.md and .json
	@$(BIN)/python -m tools.bench.reference $(ARGS)

screenshots: setup  ## the pictures in assets/, from the running app
	@$(BIN)/python tools/browser.py
	@$(BIN)/python -m tools.screenshots $(ARGS)

clean:  ## forget the environment (skies stay)
	rm -rf $(VENV)
