# `make arithmetic` and `make test` are enough: the first call of either sets up .venv, later calls start at once.
# Needed: make and Python 3.11 to 3.13 with venv.  Arguments are passed on: make test ARGS="-k replay".
# Another Python beside it: make test PYTHON=python3.12 VENV=.venv-3.12

PYTHON ?= python3
ARGS ?=
VENV ?= .venv
PY := $(VENV)/bin/python
INSTALL := $(PY) -m pip install --disable-pip-version-check -c constraints.txt

# Large arrays on huge pages: training on CPUs takes less time on Linux; elsewhere it does nothing. Tests have small arrays.
arithmetic text bench crash soak: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
# Python keeps what it has compiled, also where it is told not to: all tests are collected in 12 s, not in 21.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help arithmetic text smollm2 test parity stress fuzz crash soak lint bench gpu-check wheels setup clean

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

arithmetic: $(VENV)/.ready  ## train and evaluate SequenceMatch on arithmetic (the main job)
	$(PY) -m sequencematch.main --config=configs/arithmetic.py $(ARGS)

text: $(VENV)/.ready  ## train and evaluate SequenceMatch on running text, the docstrings of Python's library
	$(PY) -m sequencematch.main --config=configs/text.py $(ARGS)

smollm2: $(VENV)/.ready  ## fetch a small language model, SmolLM2-135M, to finetune (93 MB)
	$(PY) -m sequencematch.cli.smollm2 $(ARGS)

test: $(VENV)/.ready-test  ## run the tests
	$(PY) -m pytest -n 2 --dist worksteal $(ARGS)

stress: $(VENV)/.ready-test  ## all that takes hours: tests that `make test` leaves out, fuzz, crash, soak
	$(PY) -m pytest -m stress --ignore=tests/storage/test_growth.py
	$(PY) -m pytest -m stress tests/storage/test_growth.py  # objects are counted in a process of their own
	$(MAKE) fuzz crash
	$(PY) -m tests.dependability.crash_test --devices=4
	$(PY) -m tests.dependability.crash_test --small --kills=20 --signal=TERM
	$(MAKE) soak

parity: $(VENV)/.ready-parity  ## compare networks with transformers (on Python 3.11; installs torch)
	$(PY) -m pytest -n 2 --dist worksteal -m "stress or not stress" tests/parity $(ARGS)

fuzz: $(VENV)/.ready-test  ## try some 27,000 random inputs, others each time
	$(PY) -m pytest -n 2 -m "stress or not stress" tests/properties --hypothesis-profile=fuzz $(ARGS)

crash: $(VENV)/.ready  ## kill the main job 50 times, resume it, compare bit for bit
	$(PY) -m tests.dependability.crash_test $(ARGS)

soak: $(VENV)/.ready  ## train for an hour and look for growth
	$(PY) -m tests.dependability.soak $(ARGS)

lint: $(VENV)/.ready-test  ## check style and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

bench: $(VENV)/.ready  ## measure what a step costs
	$(PY) -m experiments.benchmark $(ARGS)

# A machine without a network has jax with CUDA, and the rest comes along: make gpu-check WHEELS=wheels
ifdef WHEELS
gpu-check:
	$(PYTHON) -m pip install -q --no-index --no-deps --upgrade --target .site $(WHEELS)/*.whl
	PYTHONPATH=.site $(PYTHON) -m experiments.gpu_check $(ARGS)
else
gpu-check: $(VENV)/.ready-gpu  ## try everything on this machine's GPU (installs jax[cuda13])
	$(PY) -m experiments.gpu_check $(ARGS)
endif

wheels:  ## fetch what gpu-check needs where there is no network, for PYTHON (140 MB)
	$(PYTHON) -m pip wheel --disable-pip-version-check -q -c constraints.txt -w wheels . beartype hypothesis pytest pytest-xdist
	rm -f wheels/sequencematch-* $(foreach name,jax jaxlib ml_dtypes numpy opt_einsum scipy,wheels/$(name)-*)  # these are there

setup: $(VENV)/.ready  ## set up .venv and run nothing

clean:  ## remove caches; never runs, never .venv
	rm -rf .pytest_cache .ruff_cache .hypothesis build
	find configs experiments sequencematch tests -name __pycache__ -prune -exec rm -rf {} +

# A stamp is written last, so an interrupted set-up leaves none; $(VENV)/.unfinished tells the next call to start afresh.
$(VENV)/.ready: setup.cfg constraints.txt
	@if [ -e $(VENV)/.unfinished ] || ! $(PY) -m pip --version >/dev/null 2>&1; then \
		$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
			echo "Python 3.11 to 3.13 is needed, and $(PYTHON) is none of them: name one, as in make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }; \
		$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
			echo "$(PYTHON) comes without venv: install it (on Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 2; }; \
		echo "Setting up $(VENV): once, some minutes."; \
		$(PYTHON) -m venv --clear $(VENV); \
	fi
	@touch $(VENV)/.unfinished
	$(INSTALL) -e .
	@rm $(VENV)/.unfinished
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	@touch $(VENV)/.unfinished; rm $(VENV)/.ready
	$(INSTALL) -e '.[test]'
	@rm $(VENV)/.unfinished
	@touch $(VENV)/.ready $@

$(VENV)/.ready-gpu: $(VENV)/.ready-test
	@touch $(VENV)/.unfinished; rm $(VENV)/.ready $(VENV)/.ready-test
	$(INSTALL) -e '.[test,cuda]'
	@rm $(VENV)/.unfinished
	@touch $(VENV)/.ready $(VENV)/.ready-test $@

$(VENV)/.ready-parity: $(VENV)/.ready-test
	@touch $(VENV)/.unfinished; rm $(VENV)/.ready $(VENV)/.ready-test
	$(INSTALL) -e '.[test,parity]'
	@rm $(VENV)/.unfinished
	@touch $(VENV)/.ready $(VENV)/.ready-test $@
