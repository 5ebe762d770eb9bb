# `make arithmetic` and `make test` are enough: the first call of either sets up .venv, later calls start at once.
# Needed: make and Python 3.11 to 3.13 with venv.  Arguments are passed on: make test ARGS="-k replay".

PYTHON ?= python3
ARGS ?=
PY := .venv/bin/python
INSTALL := $(PY) -m pip install --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help arithmetic test stress lint bench setup clean

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

arithmetic: .venv/.ready  ## train and evaluate SequenceMatch on arithmetic (the main job)
	$(PY) -m sequencematch.main --config=configs/arithmetic.py $(ARGS)

test: .venv/.ready-test  ## run the tests
	$(PY) -m pytest -n 2 $(ARGS)

stress: .venv/.ready-test  ## run the long tests, which `make test` leaves out
	$(PY) -m pytest -m stress $(ARGS)

lint: .venv/.ready-test  ## check style and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

bench: .venv/.ready  ## measure what a step costs
	$(PY) -m experiments.benchmark $(ARGS)

setup: .venv/.ready  ## set up .venv and run nothing

clean:  ## remove caches; never runs, never .venv
	rm -rf .pytest_cache .ruff_cache .hypothesis build
	find configs experiments launch sequencematch tests -name __pycache__ -prune -exec rm -rf {} +

# A stamp is written last, so an interrupted set-up leaves none; .venv/.unfinished tells the next call to start afresh.
.venv/.ready: setup.cfg constraints.txt
	@if [ -e .venv/.unfinished ] || ! $(PY) -m pip --version >/dev/null 2>&1; then \
		$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
			echo "Python 3.11 to 3.13 is needed, and $(PYTHON) is none of them: name one, as in make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }; \
		$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
			echo "$(PYTHON) comes without venv: install it (on Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 2; }; \
		echo "Setting up .venv: once, some minutes."; \
		$(PYTHON) -m venv --clear .venv; \
	fi
	@touch .venv/.unfinished
	$(INSTALL) -e .
	@rm .venv/.unfinished
	@touch $@

.venv/.ready-test: .venv/.ready
	@touch .venv/.unfinished; rm .venv/.ready
	$(INSTALL) -e '.[test]'
	@rm .venv/.unfinished
	@touch .venv/.ready $@
