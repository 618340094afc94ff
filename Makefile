# make run | test | check | bench : the targets work in any environment that has the package installed with [dev].
PYTHON ?= python3

.PHONY: run test check bench proto

run:
	$(PYTHON) -m supervisor.cli.main quickstart

test:
	$(PYTHON) -m pytest

check:
	ruff check .
	ruff format --check .
	mypy
	$(PYTHON) -m pytest

bench:
	$(PYTHON) -m tests.bench

proto:
	$(PYTHON) proto/generate.py
