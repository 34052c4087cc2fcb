# Omnisky in commands: `make demo` to look at it, `make test` to trust it. Both set up all they need.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.13 || command -v python3.12 || command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# A CPU build of torch suffices and spares gigabytes; TORCH_INDEX= (empty) takes the default build with CUDA.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: help setup browser demo test lint bench screenshots clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready  ## a .venv with all that is needed (quick when it is there)

$(VENV)/.ready: pyproject.toml constraints.txt tools/setup.sh
	@TORCH_INDEX="$(TORCH_INDEX)" bash tools/setup.sh "$(PYTHON)" "$(VENV)"
	@touch $@

browser: setup  ## a Chromium for the browser tests, if none is there
	@$(BIN)/python tools/browser.py

demo: setup  ## the demo sky in your browser; ARGS="--no-browser --port 5010 --objects 300" are passed on
	@$(BIN)/omnisky demo $(ARGS)

test: setup browser  ## all tests; ARGS="tests/io -x" chooses
	@$(BIN)/python -m pytest $(ARGS)

lint: setup  ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/mypy

bench: setup browser  ## objects a second, milliseconds an interaction, ratios to named peers -> bench.json
	@$(BIN)/python -m bench $(ARGS)

screenshots: setup browser  ## README pictures, taken from the running app
	@$(BIN)/python tools/screenshots.py

clean:  ## forget the environment (skies stay)
	rm -rf $(VENV)
