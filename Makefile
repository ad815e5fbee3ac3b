# make demo, make test and make check set up .venv themselves; nothing is installed by hand.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all check docs setup clean

demo: setup
	$(BIN)/python recipes/quickstart.py

# Two tests at a time, one thread each: twice as fast on two cores as one test on two threads.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

test: setup
	$(PYTEST) -m "not slow"

test-all: setup
	$(PYTEST)

check: setup
	./scripts/check

# The site in build/site; it needs nothing of the library, so it has a .venv-docs of its own.
docs: .venv-docs/ready
	.venv-docs/bin/mkdocs build --strict

.venv-docs/ready: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet "mkdocs-material>=9"
	touch $@

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt scripts/setup $(wildcard requirements.lock)
	PYTHON=$(PYTHON) ./scripts/setup

clean:
	rm -rf .venv .venv-docs build dist *.egg-info
