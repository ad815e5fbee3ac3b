# make demo, make test and make check set up .venv themselves; nothing is installed by hand.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all check setup clean

demo: setup
	$(BIN)/python recipes/quickstart.py

test: setup
	$(BIN)/python -m pytest -q -m "not slow"

test-all: setup
	$(BIN)/python -m pytest -q

check: setup
	./scripts/check

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt scripts/setup
	PYTHON=$(PYTHON) ./scripts/setup

clean:
	rm -rf .venv build dist *.egg-info
