"""The contract suite's fixtures; see harness/fixtures.py."""

from harness.fixtures import *  # noqa: F403  pytest looks for fixtures and hooks here
