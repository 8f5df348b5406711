# Everything works on a fresh machine with Python 3.11 or newer, make and a package index.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-matrix bench lint setup clean

demo: $(READY)  ## set up, audit the diabetes table, print where the report is
	$(BIN)/medsec audit tabular --out runs/demo

test: $(READY)  ## all tests
	$(BIN)/python -m pytest -n $(JOBS)

test-matrix: $(READY)  ## all tests, or TESTS="PATH ...", under other instruction sets, two threads and load: a line for each
	$(BIN)/python tests/matrix.py -n $(JOBS) $(TESTS)

bench: $(READY)  ## side-by-side benchmarks; peers that are not dependencies come from tests/benchmarks/requirements*.txt
	$(BIN)/python -m pip install -q -c constraints.txt -r tests/benchmarks/requirements.txt
	$(BIN)/python -m pip install -q --no-deps -r tests/benchmarks/requirements-nodeps.txt
	set -e; for script in tests/benchmarks/bench_*.py; do $(BIN)/python $$script; done

lint: $(READY)  ## ruff
	$(BIN)/ruff check .

setup: $(READY)  ## only the virtual environment

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medsec needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

clean:  ## remove the virtual environment and the runs
	rm -rf $(VENV) runs
