# make demo   pretrain, and ask whether it helps a detector, on the built-in demo data, ending in a page
# make test   all tests that need no GPU
# make check  the checks for every commit: ruff, types, spelling, fast tests
# make test-oldest  contract tests, one training step of everything and both programs, with the lowest releases allowed
# make bench  benchmarks against reference implementations
# Each creates .venv first if it does not exist.

SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 2
export PYTHONUNBUFFERED = 1

OLD := .venv-oldest/bin
NEW_ENOUGH = @$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "chordate needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }

.PHONY: demo test test-oldest check bench format clean

.venv/.demo: pyproject.toml
	$(NEW_ENOUGH)
	@test -x $(BIN)/python || { echo "== making .venv"; $(PYTHON) -m venv .venv; }
	@echo "== installing what the demo needs (PyTorch is large: a few minutes the first time)"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -e '.[demo]'
	@touch $@

.venv/.dev: pyproject.toml .venv/.demo
	@echo "== installing what the tests need"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -e '.[dev]'
	@touch $@

# the pins come from the lower bounds in pyproject.toml; packages that those need in turn are the newest that fit
.venv-oldest/.made: pyproject.toml tests/oldest.py
	$(NEW_ENOUGH)
	@echo "== making .venv-oldest with the lowest release of every dependency"
	@$(PYTHON) -m venv --clear .venv-oldest
	@pins=$$($(OLD)/python tests/oldest.py demo fast test) && $(OLD)/python -m pip install --disable-pip-version-check --progress-bar on $$pins
	@$(OLD)/python -m pip install --disable-pip-version-check --no-deps -e .
	@touch $@

demo: .venv/.demo
	@bash recipes/workflows/demo.sh

test: .venv/.dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-oldest: .venv-oldest/.made
	@$(OLD)/pretrain --version
	@OMP_NUM_THREADS=1 $(OLD)/python -m pytest -n 2 --dist worksteal tests/contract tests/backbones/test_timm_maps.py tests/shared/test_versions.py
	@out=$$(mktemp -d) && trap "rm -rf $$out" EXIT && places="--output-dir $$out --weights-dir $$out/weights --epochs 1 --device cpu" && set -x && \
	  $(OLD)/pretrain train --model test_resnet --tag oldest --name pretrain --limit 512 $$places && \
	  $(OLD)/detect train --network fcos --width 64 --depth 1 --backbone test_resnet --backbone-tag oldest --name detect --limit 32 $$places

check: .venv/.dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check -q . && $(BIN)/pyright -p . && $(BIN)/codespell -q 3 $$(git ls-files)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

bench: .venv/.dev
	@bash tests/bench/run.sh

format: .venv/.dev
	@$(BIN)/ruff check --fix -q . ; $(BIN)/ruff format .

clean:
	rm -rf .venv .venv-oldest build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
