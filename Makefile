# One command per action; CI runs install, test, lint and wheel. Needs Python 3.11+, make and a package index, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Each has a broker of its own where tests want one.
WORKERS ?= 2
JOBS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo test faults lint format bench docs wheel clean attacks
help:            ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP)  ## create the virtual environment with everything for development
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[all]' --group dev
	touch $@

demo: $(STAMP)   ## record, materialize and read a small fleet (KAFKA=host:port: through a broker)
	$(BIN)/skillaudit demo $(if $(KAFKA),--kafka $(KAFKA))

test: $(STAMP)   ## the whole test suite in two processes (WORKERS=0: in one; ARGS=... for pytest)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope $(ARGS)

faults: $(STAMP) ## inject the faults of the delivery contract, a share (FULL=1: the published counts; ROWS=..., JOBS=rows at a time)
	$(BIN)/python -m tests.faults $(if $(FULL),--full,--share) --jobs $(JOBS) $(ROWS)

attacks: $(STAMP) ## everything an attacker may do to the record, and what verify must say (FLIPS=5000)
	SKILLAUDIT_ATTACKS=all $(BIN)/python -m pytest tests/attacks $(ARGS)
	$(BIN)/python -m tests.attacks.fuzz --flips $(or $(FLIPS),5000)

lint: $(STAMP)   ## linters and type checkers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright

format: $(STAMP) ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## measure; writes benchmarks/results.json
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(STAMP)   ## generate the reference pages under docs/
	$(BIN)/python -m docs $(ARGS)

wheel: $(STAMP)  ## build the wheel and the sdist into dist/
	$(BIN)/python -m build --outdir dist .

clean:           ## remove what the commands above made
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
