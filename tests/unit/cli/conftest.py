"""Shared by the tests of the command line: an empty machine for loading configurations."""

import pytest
from support.command_line import Machine


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)
