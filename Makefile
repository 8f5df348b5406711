# Everything works on a fresh machine with Python 3.11 or newer, make and a package index.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-matrix bench lint docs catalog lock setup clean

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

lint: $(READY)  ## ruff, and the layers: which folder may import which
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo --no-cache

docs: $(READY)  ## the documentation, into site/
	$(BIN)/python -m pip install -q --require-hashes --no-deps -r requirements-docs.lock
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

catalog: $(READY)  ## write again what `medsec list` shows, after a change of attacks, defenses, data sets
	$(BIN)/python -m suite.audit.catalog

lock: $(READY)  ## write the hashes of all dependencies again, after a change of pyproject or constraints
	$(BIN)/python .ci/lock.py

setup: $(READY)  ## only the virtual environment

# Hashed and pinned, each package as it is named; what the CUDA build of PyTorch needs only where that build was installed.
$(READY): pyproject.toml requirements.lock requirements-cuda.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medsec needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip check > /dev/null || $(BIN)/python -m pip install -q --require-hashes --no-deps -r requirements-cuda.lock
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check > /dev/null
	@touch $@

clean:  ## remove the virtual environment, the runs and the built documentation
	rm -rf $(VENV) runs site
