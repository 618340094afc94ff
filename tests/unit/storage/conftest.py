"""Runs the product's own check over every directory that a storage test leaves, and makes two disks."""

import pytest
from support.checked_directories import checked_directories

__all__ = ["checked_directories"]


@pytest.fixture
def disk(tmp_path):
    """An empty data directory."""
    path = tmp_path / "one"
    path.mkdir()
    return path


@pytest.fixture
def other_disk(tmp_path):
    """A second one."""
    path = tmp_path / "two"
    path.mkdir()
    return path
