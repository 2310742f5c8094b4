# `make demo` and `make test` do all set-up on a machine with Python >= 3.11 (with venv) and make.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete
JOBS ?= 2
OUT ?= runs/demo

.PHONY: help setup demo test test-all lint docs clean

help:
	@echo "make demo      train, fold, export, measure and report on real images (minutes)"
	@echo "make test      lint, types, import layers and the tests"
	@echo "make test-all  the slow tests too"
	@echo "make lint      lint, types and import layers"
	@echo "make docs      the documentation, into site/"
	@echo "make setup     the environment in $(VENV), which all of these make first"
	@echo "make clean     remove the environment and everything that was built"

setup: $(STAMP)

# The first Python >= 3.11 that runs; PYTHON=... chooses another. An environment that works is brought up to date.
$(STAMP): pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 && exit; \
	python="$(PYTHON)"; \
	for candidate in python3 python3.13 python3.12 python3.11; do \
		test -n "$$python" && break; \
		$$candidate -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && python=$$candidate; \
	done; \
	if test -z "$$python"; then \
		echo "no Python >= 3.11 with venv found; install one (Debian: apt-get install python3 python3-venv), or give PYTHON=..."; \
		exit 1; \
	fi; \
	echo "setting up $(VENV) with $$python (torch makes it a few GB, the first time takes minutes)"; \
	rm -rf $(VENV) && $$python -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[quantize,executorch,coreml,dev,docs]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/leanformer demo --out $(OUT)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell leanformer benchmarks docs tools *.md
	$(BIN)/lint-imports --no-cache
	$(BIN)/basedpyright

# Runtimes of others run in processes of their own: behind thousands of other tests they ended theirs without a word.
PYTEST := OMP_NUM_THREADS=1 LEANFORMER_REQUIRE_EXTRAS=1 $(BIN)/pytest -n $(JOBS)

test: lint
	$(PYTEST) -m "not slow and not gpu and not runtimes"
	$(PYTEST) -m "not slow and not gpu and runtimes"

test-all: lint
	$(PYTEST) -m "not gpu and not runtimes"
	$(PYTEST) -m "not gpu and runtimes"

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
