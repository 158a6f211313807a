# What CI runs and what you need: every target sets up what it uses.
#   make test ARGS='-k nvfp4'        more words for pytest (or for the demo)
#   make setup PYTHON=python3.12     another interpreter
PYTHON ?= python3
WORKERS ?= 2
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MEASURED := runs/cases/nvfp4_recipes/results
# One thread a process: on few cores two workers with one thread each beat one with two.
export OMP_NUM_THREADS ?= 1

OLD_PYTHON = qprobe needs Python 3.11 or newer, $(PYTHON) is %d.%d; name one, as in: make setup PYTHON=python3.12

.PHONY: bench cases cases-run check chromium clean dashboard demo docs format setup test test-slow

setup: $(STAMP)

# The kernels are compiled here: a change of their source installs again.
$(STAMP): pyproject.toml constraints.txt $(wildcard qprobe/native/*.c qprobe/native/*.h)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit("$(OLD_PYTHON)" % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/python docs/demo.py $(ARGS)

dashboard: setup
	$(BIN)/qprobe dashboard runs $(ARGS)

# The browser tests use the chromium that is there, or Debian's where it can be installed; without
# one they skip and say so.
chromium:
	@command -v chromium > /dev/null || [ -n "$$QPROBE_CHROMIUM" ] || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && \
	    { apt-get install -qq -y chromium || { apt-get -qq update && apt-get install -qq -y chromium; }; } > /dev/null 2>&1; } || \
	  echo "no chromium: the tests of the dashboard in a browser are skipped"

test: setup chromium
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not gpu" $(ARGS)

$(STAMP)-zoo: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,zoo]'
	@touch $@

test-slow: $(STAMP)-zoo chromium
	$(BIN)/python -m pytest -m "slow or gpu" $(ARGS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest -q tests/test_house.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: demo chromium
	$(BIN)/python docs/recipes_picture.py
	$(BIN)/qprobe analyze runs/demo/best.pt --recipe int4-tensor --layers all --verify --overwrite
	$(BIN)/python docs/analyze_picture.py
	$(BIN)/python docs/dashboard_picture.py

# What the case studies found, from their stored results; and all of it measured anew, which goes
# on where it was stopped.
cases: setup
	$(BIN)/python case_studies/nvfp4_recipes/render.py

cases-run: setup
	$(BIN)/python case_studies/nvfp4_recipes/run.py --workers $(WORKERS) --results $(MEASURED) $(ARGS)
	cp -r $(MEASURED)/. case_studies/nvfp4_recipes/results
	$(BIN)/python case_studies/nvfp4_recipes/render.py

bench: setup
	$(BIN)/python benchmarks/quantize.py
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/summary.py
	$(BIN)/python benchmarks/diagnosis.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/sensitivity.py
	$(BIN)/python benchmarks/weight_report.py
	$(BIN)/python benchmarks/dashboard.py

clean:
	rm -rf $(VENV) build dist *.egg-info qprobe/native/_kernels.*
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
