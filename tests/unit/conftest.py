"""Shared by the tests of the command line and of configurations: an empty machine for loading them."""

import pytest
from support.command_line import Machine


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)
