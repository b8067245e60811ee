# make demo    set up, obtain the default model, answer a question from the handbook
# make test    set up, run the whole test suite
#
# The set-up is done once and again only when pyproject.toml or constraints.txt change.

SHELL := /bin/bash

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The first interpreter that is new enough; PYTHON=... names another.
PYTHON ?= $(shell for name in python3 python3.12 python3.11 python3.13; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$name" && break; done)

DOCUMENT ?= docs/handbook.pdf
QUESTION ?= How many past tokens are folded into one core token?
# Two workers suit two cores as well as four.
PYTEST_ARGS ?= --numprocesses 2

.PHONY: demo test setup lint format format-check types handbook cli-docs clean

demo: setup
	$(BIN)/cca models pull
	$(BIN)/cca ask $(DOCUMENT) "$(QUESTION)"

test: setup
	$(BIN)/python -m pytest $(PYTEST_ARGS)

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; PYTHON=... names one" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev,fast,plot]'
	@touch $@

lint: setup
	$(BIN)/ruff check .

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

format-check: setup
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

handbook: setup
	$(BIN)/python tools/build_handbook.py

cli-docs: setup
	$(BIN)/python -m cca_cli.cli_docs > docs/cli.md.new
	mv docs/cli.md.new docs/cli.md
	$(BIN)/python -m cca_cli.man_page > man/cca.1.new
	mv man/cca.1.new man/cca.1

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
