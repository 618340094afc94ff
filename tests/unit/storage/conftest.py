"""Runs the product's own check over every directory that a storage test leaves; two disks, and a lack of threads."""

import threading

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


@pytest.fixture
def give_threads(monkeypatch):
    """Has the system give so many threads of a name, and then no more. Returns the list of those that it gave."""

    def give(count, name):
        given, start = [], threading.Thread.start

        def starts(thread):
            if thread.name == name:
                if len(given) == count:
                    raise RuntimeError("can't start new thread")
                given.append(thread)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", starts)
        return given

    return give
