# make run | test | test-fast | check | bench : the targets work in any environment that has the package installed with [dev].
PYTHON ?= python3
# pytest loads its plugins before tests/conftest.py can have modules compiled where PYTHONDONTWRITEBYTECODE is set.
COMPILING = $(if $(PYTHONDONTWRITEBYTECODE),env -u PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX=$(CURDIR)/.pytest_cache/compiled)

.PHONY: run test test-fast check bench proto

run:
	$(PYTHON) -m supervisor.cli.main quickstart

test:
	$(PYTHON) -m pytest

# The unit and property tests that take under a fifth of a second each, with few examples and one case of each.
test-fast:
	HYPOTHESIS_PROFILE=quick $(COMPILING) $(PYTHON) -m pytest tests/unit tests/property -m "not slow"

check:
	ruff check .
	ruff format --check .
	mypy
	$(PYTHON) -m pytest

bench:
	$(PYTHON) -m tests.bench

proto:
	$(PYTHON) proto/generate.py
