"""A range in parts: the order of the bytes, the number of parts at a time, and the end at a failure."""

from __future__ import annotations

import threading
import tracemalloc
from random import Random

import pytest

from native_handlers.remote import parts
from native_handlers.remote.model import RemoteReadFailed
from native_handlers.remote.parts import memory_of, read_in_parts

CONTENT = Random(8).randbytes(10_007)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", 10)


@pytest.fixture
def asked(monkeypatch):
    """The beginnings of all parts that were given to a thread."""
    given = []

    class Threads(parts.ThreadPoolExecutor):
        def submit(self, work, start):
            given.append(start)
            return super().submit(work, start)

    monkeypatch.setattr(parts, "ThreadPoolExecutor", Threads)
    return given


def content(start, length):
    return CONTENT[start : start + length]


@pytest.mark.parametrize(("offset", "size"), [(0, 1), (0, 10), (3, 11), (0, 10_007), (9_996, 11)])
@pytest.mark.parametrize("concurrency", [0, 1, 3, 1000])
def test_the_bytes_are_those_of_the_range(offset, size, concurrency):
    assert read_in_parts(content, offset, size, concurrency) == CONTENT[offset : offset + size]


@pytest.mark.parametrize("concurrency", [1, 5])
def test_a_failure_ends_it_however_long_the_range(asked, concurrency):
    def fails(_start, _length):
        raise RemoteReadFailed("there is no such object")

    with pytest.raises(RemoteReadFailed, match="no such object"):
        read_in_parts(fails, 0, 1 << 20, concurrency)
    assert len(asked) <= 2 * concurrency


def test_a_failure_ends_it_while_an_earlier_part_is_on_its_way(asked):
    is_over = threading.Event()

    def part(start, length):
        if start == 0:
            assert is_over.wait(30)
        elif start == 20:
            is_over.set()
            raise RemoteReadFailed("the third part is broken")
        return content(start, length)

    with pytest.raises(RemoteReadFailed, match="third part"):
        read_in_parts(part, 0, 10_000, 3)
    assert len(asked) <= 2 + 6, "the two parts before it, and as many as may be in work or wait"


def test_a_part_that_is_late_keeps_further_parts_from_being_read(asked):
    others = threading.Semaphore(0)

    def part(start, length):
        if start == 0:
            for _ in range(5):
                assert others.acquire(timeout=30)
            assert asked == [0, 10, 20, 30, 40, 50]
        else:
            others.release()
        return content(start, length)

    assert read_in_parts(part, 0, 1000, 3) == CONTENT[:1000]


def test_a_short_part_is_a_failure():
    with pytest.raises(RemoteReadFailed, match="short read at offset 10000: got 7 bytes, want 10"):
        read_in_parts(content, 0, 10_010, 2)


def test_the_memory_is_that_of_the_range_and_a_few_parts(monkeypatch):
    part_bytes, size_bytes = 1 << 16, 8 << 20
    monkeypatch.setattr(parts, "PART_BYTES", part_bytes)
    tracemalloc.start()
    try:
        data = read_in_parts(lambda _start, length: bytes(length), 0, size_bytes, 2)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(data) == size_bytes
    # The range itself is memory of the system's, which is not traced.
    assert peak_bytes < memory_of(size_bytes, 2) - size_bytes + 12 * part_bytes


def test_no_memory_of_the_whole_range_is_taken_before_a_part_has_come(monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", 1 << 16)
    traced = []

    def fails(_start, _length):
        traced.append(tracemalloc.get_traced_memory()[1])
        raise RemoteReadFailed("there is no such object")

    tracemalloc.start()
    try:
        with pytest.raises(RemoteReadFailed, match="no such object"):
            read_in_parts(fails, 0, 64 << 20, 1)
    finally:
        tracemalloc.stop()
    assert traced[0] < 1 << 20


def test_a_range_for_which_there_is_no_room_is_a_failure():
    with pytest.raises(RemoteReadFailed, match="no room for"):
        read_in_parts(content, 0, 1 << 60)
