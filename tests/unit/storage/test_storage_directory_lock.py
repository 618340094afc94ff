"""The lock of a directory, and processes that inherited the lock."""

import os
import subprocess
import sys
import threading
import time

import pytest
from support.files import UNSYNCED_FILES
from support.waiting import LIMIT_S

from native_handlers.storage.disk import directory_lock
from native_handlers.storage.disk.directory_lock import lock_directory
from native_handlers.storage.model.errors import DirectoryLocked


@pytest.fixture
def worker(tmp_path):
    """A process that has inherited the lock of a holder that has ended. It ends with its standard input."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    lock = lock_directory(UNSYNCED_FILES, tmp_path, f"pid {ended.pid}, a server that was killed")
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=[lock.descriptor]
    )
    lock.release()
    yield process
    process.kill()
    process.communicate()


def test_what_a_killed_holder_has_started_is_waited_for(tmp_path, worker):
    taken = []
    taking = threading.Thread(target=lambda: taken.append(lock_directory(UNSYNCED_FILES, tmp_path, "pid 1, another")))
    taking.start()
    assert not taken
    worker.kill()
    taking.join(LIMIT_S)
    taken[0].release()


def test_it_is_not_waited_for_without_end(tmp_path, worker, monkeypatch):
    monkeypatch.setattr(directory_lock, "LEFT_BEHIND_S", 0.05)
    with pytest.raises(DirectoryLocked, match="a server that was killed"):
        lock_directory(UNSYNCED_FILES, tmp_path, "pid 1, another")


def test_a_holder_that_runs_is_not_waited_for(tmp_path):
    lock = lock_directory(UNSYNCED_FILES, tmp_path, f"pid {os.getpid()}, this one")
    began_s = time.monotonic()
    with pytest.raises(DirectoryLocked, match="this one"):
        lock_directory(UNSYNCED_FILES, tmp_path, "pid 1, another")
    assert time.monotonic() - began_s < directory_lock.LEFT_BEHIND_S
    lock.release()
