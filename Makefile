# Two commands do everything: `make demo` and `make test`. Both make the environment first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-all fuzz mutants lint clean

demo: $(READY)
	$(BIN)/pipeline demo --out demo

test: $(READY)
	$(BIN)/python -m pytest

test-all: $(READY)
	$(BIN)/python -m pytest -m ""

# Minutes of random graphs and of hostile files, from another seed each time; FUZZ_SECONDS=3600 for an hour of both.
FUZZ_SECONDS ?= 600

fuzz: $(READY)
	$(BIN)/python -m tests.fuzz graphs --seconds $$(($(FUZZ_SECONDS) / 2))
	$(BIN)/python -m tests.fuzz bytes --seconds $$(($(FUZZ_SECONDS) / 2))

mutants: $(READY)
	$(BIN)/python scripts/mutants.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "pipeline needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info
