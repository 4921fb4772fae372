# make quickstart   set up everything and run recipes/quickstart.yaml to the end
# make test         set up everything and run the tests
# make test-full    run what is too heavy for make test, and write tests/full-results.json
# make gpu-evidence on a machine with a GPU: what the plan counts beside what the GPU takes (docs/evidence.md)
# make check        lint and types
# Nothing is written outside this folder, the cache folder and Ollama's own model folder.
PYTHON ?= python3
RECIPE ?= recipes/quickstart.yaml
TESTS ?= tests/unit tests/integration tests/e2e
# Two workers, in the order of collection: the chain comes last, when no other test uses Ollama.
PYTEST_ARGS ?= -n 2 --dist loadscope --no-loadscope-reorder

empty :=
CACHE_HOME := $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)
export SPARK_RECIPES_CACHE := $(if $(SPARK_RECIPES_CACHE),$(SPARK_RECIPES_CACHE),$(CACHE_HOME)/spark-recipes)
export PIP_CACHE_DIR := $(SPARK_RECIPES_CACHE)/pip
# pip asks `rustc` for its version, and a rustup in front of it would write into the home folder.
export RUSTUP_HOME := $(SPARK_RECIPES_CACHE)/rustup
export UV_CACHE_DIR := $(SPARK_RECIPES_CACHE)/uv
export UV_PYTHON_DOWNLOADS := never
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PIP := .venv/bin/python -m pip install --quiet --no-input

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-full gpu-evidence test-container check format lock setup clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

quickstart: .venv/ready
	@.venv/bin/recipe run $(RECIPE)

test: .venv/test-ready
	.venv/bin/pytest $(TESTS) $(PYTEST_ARGS)

test-full: .venv/test-ready
	.venv/bin/python -m tests.full_run $(TESTS) $(PYTEST_ARGS)

# Without a network there may be no .venv: any Python that has torch then does it all.
gpu-evidence:
	@$(MAKE) --no-print-directory .venv/test-ready >&2 || \
	  echo "the locked environments cannot be made here: measured with what is installed" >&2
	@python=$(PYTHON); [ ! -e .venv/ready ] || python=.venv/bin/python; \
	  "$$python" -m benchmarks.gpu $(EVIDENCE_ARGS)

# Needs root on Debian or Ubuntu when no Docker engine is running: it then brings its own.
test-container: .venv/test-ready
	.venv/bin/pytest tests/container

check: .venv/test-ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: .venv/test-ready
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

setup: .venv/ready

.venv/ready: pyproject.toml environments/runner.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed; try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 4; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "error: Python's venv is missing; on Debian or Ubuntu: sudo apt-get install python3-venv" >&2; exit 4; }
	@echo "Setting up .venv (once)"
	@$(PYTHON) -m venv .venv
	@$(PIP) --require-hashes -r environments/runner.txt || \
	  { echo "error: the packages of the runner could not be installed; is the network up? Then: make $(MAKECMDGOALS)" >&2; exit 4; }
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/test-ready: .venv/ready environments/test.txt
	@$(PIP) --require-hashes -r environments/test.txt
	@touch $@

# Locks carry versions and hashes, never an address, so they work with any mirror. A file NAME.overrides
# says what of NAME.in's needs is left out, and why.
LOCKS := $(patsubst %.in,%.txt,$(wildcard environments/*.in))
lock: .venv/ready
	@for lock in $(LOCKS); do \
	  name=$$(basename $${lock%.txt}); \
	  (cd environments && ../.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header $$(ls $$name.overrides 2>/dev/null | sed 's/^/--overrides /') \
	    $$name.in -o $$name.txt) || exit 1; \
	done

clean:
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache
