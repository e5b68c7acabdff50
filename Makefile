# make demo   pretrain and fine-tune on the built-in demo data, ending in a report
# make test   all tests that need no GPU
# make check  the checks for every commit: ruff, types, spelling, fast tests
# make bench  benchmarks against reference implementations
# Each creates .venv first if it does not exist.

SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 2
export PYTHONUNBUFFERED = 1

.PHONY: demo test check bench format clean

.venv/.demo: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "chordate needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || { echo "== making .venv"; $(PYTHON) -m venv .venv; }
	@echo "== installing what the demo needs (PyTorch is large: a few minutes the first time)"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -e '.[demo]'
	@touch $@

.venv/.dev: pyproject.toml .venv/.demo
	@echo "== installing what the tests need"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -e '.[dev]'
	@touch $@

demo: .venv/.demo
	@bash recipes/workflows/demo.sh

test: .venv/.dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

check: .venv/.dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check -q . && $(BIN)/pyright -p . && $(BIN)/codespell -q 3 $$(git ls-files)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

bench: .venv/.dev
	@bash tests/bench/run.sh

format: .venv/.dev
	@$(BIN)/ruff check --fix -q . ; $(BIN)/ruff format .

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
