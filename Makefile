# What CI runs and what you need: every target sets up what it uses.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One thread a process: on few cores two workers with one thread each beat one with two.
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo test test-slow check format bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt $(wildcard qprobe/native/*.c qprobe/native/*.h)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/python docs/demo.py

test: setup
	$(BIN)/python -m pytest -n 2 -m "not slow and not gpu"

test-slow: setup
	$(BIN)/python -m pytest -m "slow or gpu"

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python benchmarks/quantize.py

clean:
	rm -rf $(VENV) build dist *.egg-info
