# `make demo` runs real prompts through the whole system; `make test` proves it.
# Each makes its own virtual environment, .venv, and needs nothing but Python 3.11+ with pip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --prefer-binary -c constraints.txt
RUN_READY := $(VENV)/.ready-to-run
DEV_READY := $(VENV)/.ready-to-develop

.DEFAULT_GOAL := help
.PHONY: help demo test check bench protocol format lock clean

help:
	@echo 'make demo      run real prompts through CORTEX, GENOME, ENGRAM and a NEURON worker'
	@echo 'make test      run every test'
	@echo 'make check     ruff, mypy --strict, import-linter, buf, generated-code drift'
	@echo 'make bench     run the benchmarks'
	@echo 'make protocol  generate src/mnemos/protocol from proto/'
	@echo 'make format    let ruff format and mend the code'
	@echo 'make lock      write constraints.txt from the newest allowed versions'

demo: $(RUN_READY)
	$(BIN)/mnemos demo

test: $(DEV_READY)
	$(BIN)/python -m pytest $(ARGS)

check: $(DEV_READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/buf lint
	$(BIN)/python scripts/generate_protocol.py --check

bench: $(DEV_READY)
	PYTHONPATH=tests/support $(BIN)/python -m bench $(ARGS)

protocol: $(DEV_READY)
	$(BIN)/python scripts/generate_protocol.py

format: $(DEV_READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock:
	$(PYTHON) -m venv --clear $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --disable-pip-version-check 'torch==2.13.0' '.[transformers,dev]'
	( echo '# The versions that the tests ran with. Written by `make lock`; pyproject.toml holds the ranges.'; \
	  $(VENV)-lock/bin/python -m pip freeze | grep -v '^mnemos' | sed 's/+cpu//' ) > constraints.txt
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) $(VENV)-lock dist

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'MNEMOS NEURON needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUN_READY): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[transformers]'
	@touch $@

$(DEV_READY): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[transformers,dev]'
	@touch $@ $(RUN_READY)
