# Two commands do everything: `make demo` and `make test`. Both make the environment first, once.
# Where the environment says that no bytecode be kept, each of the tests' processes would compile PyTorch's 900 modules again.
export PYTHONDONTWRITEBYTECODE =
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Installs in a third of the time of pip, which stands in where it is not to be had.
UV := $(BIN)/python -m pip install --quiet --disable-pip-version-check uv && $(BIN)/uv

# LOCKED=1 installs exactly what requirements.lock names, by hash; otherwise whatever pyproject.toml allows.
LOCKED ?=

.PHONY: demo test test-all test-lowest fuzz mutants lint docs lock audit clean

demo: $(READY)
	$(BIN)/pipeline demo --out demo

# A worker a core; a worker that has no tests left takes over some of another's.
PYTEST := -m pytest --numprocesses auto --dist worksteal --durations 15

test: $(READY)
	$(BIN)/python $(PYTEST)

# Every test, and the types and shapes of every call checked, which doubles the time of each.
test-all: $(READY)
	$(BIN)/python $(PYTEST) -m "" --jaxtyping-packages=pipeline,beartype.beartype

# Minutes of a search for false certificates, of random graphs, of hostile files, and of such as reach new code (with the
# extra `[fuzz]`; what was found is kept in .fuzz), from another seed each time; FUZZ_SECONDS=3600 for an hour in all.
FUZZ_SECONDS ?= 600

fuzz: $(READY)
	$(BIN)/python -m tests.fuzz falsehoods --seconds $$(($(FUZZ_SECONDS) / 4))
	$(BIN)/python -m tests.fuzz graphs --seconds $$(($(FUZZ_SECONDS) / 4))
	$(BIN)/python -m tests.fuzz bytes --seconds $$(($(FUZZ_SECONDS) / 4))
	$(BIN)/python -m tests.fuzz coverage --seconds $$(($(FUZZ_SECONDS) / 4))

mutants: $(READY)
	$(BIN)/python scripts/mutants.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages of docs/ as a site, in build/site; a link that leads nowhere fails it (but not with --quiet, which counts no warnings).
# Its tools import nothing of the program, and have an environment of their own, where PyTorch need not be.
docs: export NO_MKDOCS_2_WARNING = 1
docs:
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
		> .venv-docs/requirements.txt
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --requirement .venv-docs/requirements.txt
	.venv-docs/bin/mkdocs build --strict

# The oldest versions that pyproject.toml allows, in an environment of their own.
test-lowest: $(READY)
	$(UV) venv --quiet --allow-existing .venv-lowest
	$(UV) pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --editable '.[dev]'
	.venv-lowest/bin/python $(PYTEST)

# For every platform and every Python from 3.11; no index is named in it.
lock: $(READY)
	$(UV) pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --upgrade \
		--no-header --no-emit-index-url --quiet --output-file requirements.lock

audit: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/pip-audit --requirement requirements.lock --require-hashes --disable-pip

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "pipeline needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@if [ -n "$(LOCKED)" ]; then set -e; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .; \
	else $(UV) pip install --quiet --python $(BIN)/python --editable '.[dev]' || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'; fi
	@touch $@

clean:
	rm -rf $(VENV) .venv-lowest .venv-docs demo build dist .fuzz *.egg-info
