# Targets that need the environment make it first; all are safe to run again.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
TORCH  ?= torch==2.13.0
STATE  ?= .state
ARGS   ?=

# What is imported is compiled once, by its first import: pip need not compile everything, and every later process is spared.
unexport PYTHONDONTWRITEBYTECODE
PIP    := $(BIN)/pip install --disable-pip-version-check --no-compile

.DEFAULT_GOAL := help
.PHONY: help install up test test-heavy compatibility pair lint types imports unit cluster-tests demo-model eval-demo bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first and alone: a pinned version keeps pip from choosing another build for a dependency's sake
$(VENV)/.installed: pyproject.toml $(wildcard cluster/engine/native/*.[ch]) | $(BIN)/python
	$(PIP) --progress-bar on "$(TORCH)"
	$(PIP) --progress-bar on -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -q -e ".[dev]"
	@touch $@

install: $(VENV)/.installed ## make .venv and install the package

up: install ## start a cluster here; Ctrl-C stops it (ARGS="--replicas 1 …")
	@exec $(BIN)/chatglm-cluster up --state-dir $(STATE) $(ARGS)

lint: $(VENV)/.installed-dev ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev ## mypy, strict
	$(BIN)/mypy

imports: $(VENV)/.installed-dev ## the arrows between packages
	$(BIN)/lint-imports --no-logo

# one thread of torch for each of two workers: small models lose more to waiting than they gain from a second thread
unit: $(VENV)/.installed-dev ## everything without Ray
	OMP_NUM_THREADS=1 $(NICE) $(BIN)/pytest -q -n 2 $(TESTS) -m "not cluster and not heavy"

cluster-tests: $(VENV)/.installed-dev ## real Ray processes
	$(BIN)/pytest -q -m "cluster and not heavy" -p no:randomly

# side by side, as clusters mostly wait; the rest makes way for them, but not so far that its stores seem to be away
test: lint types imports ## everything a change must pass (at most 10 minutes on 2 cores)
	@$(MAKE) -j2 NICE="nice -n 5" unit cluster-tests

test-heavy: $(VENV)/.installed-dev ## the long runs (at most 60 minutes)
	$(BIN)/pytest -q -m heavy -p no:randomly

# an environment of its own for each pair: make compatibility TORCH=torch==2.11.0 TRANSFORMERS=transformers==5.17.0
TRANSFORMERS ?= transformers==5.23.0
PAIR := .venv-$(subst ==,-,$(TORCH)-$(TRANSFORMERS))
compatibility: ## engine and library on other releases (TORCH=torch==… TRANSFORMERS=transformers==…)
	@$(MAKE) VENV=$(PAIR) pair
	@$(MAKE) VENV=$(PAIR) TESTS="tests/cluster tests/parity" unit

pair: $(VENV)/.installed-dev
	$(PIP) -q "$(TORCH)" "$(TRANSFORMERS)"

demo-model: $(VENV)/.installed-dev ## make the demo model anew: an hour on 2 cores, or on a GPU where there is one
	$(BIN)/chatglm-cluster model train-demo

eval-demo: $(VENV)/.installed-dev ## measure the demo model on what it was never taught
	$(BIN)/chatglm-cluster model eval-demo

bench: $(VENV)/.installed-dev ## benchmarks that need no peer; results are committed to docs/benchmarks/
	@for name in scheduler runner turns journal window queue dispatcher pinning front store store_size store_loss; do echo "== $$name"; $(BIN)/python -m tests.benchmarks.bench_$$name || exit 1; done

clean: ## remove the environment and the state folder
	rm -rf $(VENV) $(STATE)
