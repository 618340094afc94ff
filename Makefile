# make run | test | test-fast | check | bench : the targets work in any environment that has the package installed with [dev].
PYTHON ?= python3

.PHONY: run test test-fast check bench proto

run:
	$(PYTHON) -m supervisor.cli.main quickstart

test:
	$(PYTHON) -m pytest

# The unit and property tests that take under a quarter of a second each, with few examples for each property.
test-fast:
	HYPOTHESIS_PROFILE=quick $(PYTHON) -m pytest tests/unit tests/property -m "not slow"

check:
	ruff check .
	ruff format --check .
	mypy
	$(PYTHON) -m pytest

bench:
	$(PYTHON) -m tests.bench

proto:
	$(PYTHON) proto/generate.py
