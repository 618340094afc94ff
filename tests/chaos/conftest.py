"""The chaos suite's fixtures, which are the contract suite's; see tests/contract/harness/fixtures.py."""

from harness.fixtures import *  # noqa: F403  pytest looks for fixtures and hooks here
