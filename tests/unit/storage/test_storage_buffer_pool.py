"""Memory for large payloads: bounded, reused, never lent twice at a time."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from native_handlers.storage.system.buffer_pool import (
    KEPT_BYTES,
    LARGEST_BYTES,
    TOTAL_BYTES,
    ZEROED_AT_ONCE_BYTES,
    BufferPool,
    fresh_memory,
)

MIB = 1 << 20


@pytest.mark.parametrize("length", [0, 1, 70_000, MIB, 4 * MIB + 40, LARGEST_BYTES, LARGEST_BYTES + 64 * 1024])
def test_a_buffer_is_as_long_as_asked_for(length):
    buffer = BufferPool().acquire(length)
    assert len(buffer.view) == length
    buffer.view[:] = b"x" * length


@pytest.mark.parametrize("length", [0, 1, ZEROED_AT_ONCE_BYTES, ZEROED_AT_ONCE_BYTES + 1])
def test_fresh_memory_is_zeroed_and_can_be_written(length):
    view = fresh_memory(length)
    assert view == bytes(length)
    view[:] = b"x" * length
    assert view == b"x" * length


def test_long_fresh_memory_is_not_zeroed_at_once():
    tracemalloc.start()
    try:
        short, long = fresh_memory(1000), fresh_memory(64 * MIB)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()
    assert (len(short), len(long)) == (1000, 64 * MIB)


def test_the_record_of_a_payload_takes_no_more_room_than_the_payload():
    buffers = BufferPool()
    buffers.acquire(4 * MIB)
    alone = buffers.lent_bytes
    buffers.acquire(4 * MIB + 40)
    assert buffers.lent_bytes == 2 * alone < 9 * MIB


def test_what_is_too_much():
    buffers = BufferPool()
    assert buffers.acquire(LARGEST_BYTES + 64 * 1024 + 1) is None
    lent = []
    while (buffer := buffers.acquire(4 * MIB)) is not None:
        lent.append(buffer)
    assert TOTAL_BYTES - 5 * MIB < buffers.lent_bytes <= TOTAL_BYTES
    lent.pop().release()
    assert buffers.acquire(4 * MIB) is not None


def test_memory_is_used_again():
    buffers = BufferPool()
    first = buffers.acquire(4 * MIB)
    memory = first.view.obj
    first.release()
    first.release()
    assert (buffers.lent_bytes, buffers.idle_bytes) == (0, len(memory))
    assert buffers.acquire(3 * MIB).view.obj is memory


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("acquire"), st.integers(0, 10 * MIB)), st.tuples(st.just("release"), st.integers(0, 50))
        )
    )
)
def test_bounds_hold_and_no_memory_is_lent_twice(steps):
    buffers, lent = BufferPool(), []
    for what, number in steps:
        if what == "acquire":
            buffer = buffers.acquire(number)
            if buffer is not None:
                lent.append(buffer)
        elif lent:
            lent.pop(number % len(lent)).release()
        assert buffers.idle_bytes <= KEPT_BYTES
        assert buffers.lent_bytes + buffers.idle_bytes <= TOTAL_BYTES
        memories = [id(one.view.obj) for one in lent]
        assert len(set(memories)) == len(memories)
        assert buffers.lent_bytes == sum(len(one.view.obj) for one in lent)
