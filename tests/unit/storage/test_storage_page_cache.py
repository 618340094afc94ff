"""Which parts of a file are in the page cache, and sending them without a read."""

from __future__ import annotations

import os
import socket
from contextlib import closing

import pytest

from native_handlers.storage.system import files as system_files
from native_handlers.storage.system.files import NotCached, OsFiles, is_in_page_cache

SIZE = (1 << 20) + 123
DATA = os.urandom(SIZE)


@pytest.fixture
def fd(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DATA)
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    yield fd
    os.close(fd)


def evict(fd):
    """Drops the file from the page cache. Skips the test where the file system keeps it."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        os.preadv(fd, [bytearray(1)], SIZE // 2, os.RWF_NOWAIT)
    except OSError:
        return
    pytest.skip("this file system forgets nothing, or cannot tell")


@pytest.mark.parametrize(("offset", "length"), [(0, SIZE), (4097, 1 << 19), (SIZE - 1, 1), (1, 1)])
def test_what_was_just_written_or_read_is_in_memory(fd, offset, length):
    assert os.pread(fd, length, offset) == DATA[offset : offset + length]
    assert is_in_page_cache(fd, offset, length)


def test_what_was_forgotten_is_not_even_where_its_ends_are_there(fd):
    evict(fd)
    assert not is_in_page_cache(fd, 0, SIZE)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    for at in (0, SIZE - 1):
        os.pread(fd, 1, at)
    assert not is_in_page_cache(fd, 0, SIZE)
    assert os.pread(fd, SIZE, 0) == DATA
    assert is_in_page_cache(fd, 0, SIZE)


@pytest.mark.parametrize(("offset", "length"), [(SIZE - 1, 2), (SIZE + 5000, 1), (0, 0), (0, SIZE + 100_000)])
def test_what_is_not_there_is_not_in_memory(fd, offset, length):
    os.pread(fd, SIZE, 0)
    assert not is_in_page_cache(fd, offset, length)


def test_a_system_that_cannot_tell(fd, monkeypatch):
    monkeypatch.setattr(system_files, "load_mincore", lambda: None)
    assert not is_in_page_cache(fd, 0, 1)


def test_it_is_sent_or_nothing_is(fd):
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        os.pread(fd, SIZE, 0)
        assert OsFiles().send_cached(ours.fileno(), fd, 1000, 5000) == 1000
        assert theirs.recv(2000) == DATA[5000:6000]
        with pytest.raises(NotCached):
            OsFiles().send_cached(ours.fileno(), fd, 1000, SIZE - 999)
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
