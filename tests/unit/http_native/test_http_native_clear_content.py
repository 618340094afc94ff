"""Gzip content for clients that do not accept gzip: any range of the content, with bounded memory."""

from __future__ import annotations

import gzip
import os
import tracemalloc
from contextlib import AsyncExitStack, ExitStack, aclosing
from functools import partial

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from native_handlers.content.gzip_data import BadGzip, TooMuchData
from native_handlers.format.needle import Needle
from native_handlers.http import clear_content
from native_handlers.http.clear_content import KEPT_BYTES, ClearContent, ClearContents, measure
from native_handlers.http_model.message import FileSlice
from native_handlers.http_model.ranges import ByteRange
from native_handlers.runtime import content_threads
from native_handlers.runtime.content_threads import MAX_PIECE_BYTES, ContentThreads

LIMIT = 1 << 30


async def read_all(content, pieces):
    opened = await content.open(pieces)
    async with aclosing(opened.body.chunks) as chunks:
        body = b"".join([some async for some in chunks])
    assert opened.head == body[:512][: len(opened.head)]
    assert opened.body.length_bytes == len(body)
    return body


class Source:
    """A file in memory. `is_cached` is the answer to the question whether a range is in the page cache."""

    def __init__(self, data, *, is_cached):
        self._data = data
        self._is_cached = is_cached

    def read_cached_into(self, buffer, offset_bytes):
        if self._is_cached:
            buffer[:] = self._data[offset_bytes : offset_bytes + len(buffer)]
        return self._is_cached

    async def read(self, length_bytes, offset_bytes):
        return self._data[offset_bytes : offset_bytes + length_bytes]


def in_file(data, *, is_cached=True):
    """`data` as a slice of a file that has other bytes around the slice."""
    return FileSlice(Source(b"12345" + data + b"67", is_cached=is_cached), 5, len(data))


def crowded(count):
    """Threads of which `count` other readers hold a piece."""
    threads = ContentThreads()
    stack = ExitStack()
    for _ in range(count):
        stack.enter_context(threads.holding())
    return threads


async def open_clear(threads, packed, limit_bytes):
    facts = await measure(threads, packed, limit_bytes)
    return ClearContent(threads, packed, facts.size_bytes, facts.data)


@given(
    members=st.lists(st.binary(max_size=2000), min_size=1, max_size=4),
    times=st.integers(1, 40),
    wanted=st.lists(st.one_of(st.binary(max_size=5), st.tuples(st.floats(0, 1), st.floats(0, 1))), max_size=4),
    others=st.sampled_from([0, 16_000]),
    place=st.sampled_from([bytes, in_file, partial(in_file, is_cached=False)]),
)
@pytest.mark.slow
def test_any_pieces_of_any_content(members, times, wanted, others, place):
    """Slow: compresses each example, and has up to 16,000 other readers at once."""
    data = b"".join(members) * times
    packed = b"".join(gzip.compress(member) for member in members * times)
    pieces, expected = [], b""
    for one in wanted:
        if isinstance(one, bytes):
            pieces.append(one)
            expected += one
        else:
            start = int(one[0] * len(data))
            pieces.append(ByteRange(start, int(one[1] * (len(data) - start))))
            expected += data[start : start + pieces[-1].length]

    async def check():
        content = await open_clear(crowded(others), place(packed), LIMIT)
        assert content.size_bytes == len(data)
        assert content.kept in {None, data}
        assert await read_all(content, pieces) == expected
        some = ByteRange(len(data) // 3, len(data))
        async with aclosing(content.read_range(some)) as chunks:
            assert b"".join([some async for some in chunks]) == data[len(data) // 3 :]

    trio.run(check)


@pytest.mark.parametrize(("size", "is_kept"), [(0, True), (KEPT_BYTES, True), (KEPT_BYTES + 1, False)])
async def test_short_content_is_kept(size, is_kept):
    data = os.urandom(size)
    content = await open_clear(ContentThreads(), gzip.compress(data), LIMIT)
    assert content.kept == (data if is_kept else None)


async def test_ranges_in_any_order_cost_one_way_through_the_data(monkeypatch):
    begun = []

    class Counting(clear_content.PackedReader):
        def __init__(self, threads, packed):
            begun.append(1)
            super().__init__(threads, packed)

    data = os.urandom(1 << 20) * 2
    content = await open_clear(ContentThreads(), gzip.compress(data), LIMIT)
    monkeypatch.setattr(clear_content, "PackedReader", Counting)
    ranges = [ByteRange(start, 700) for start in range(len(data) - 700, 0, -2100)] + [
        ByteRange(5, 3000),
        ByteRange(7, 10),
    ]
    body = await read_all(content, [b"head", *ranges, b"tail"])
    assert body == b"head" + b"".join(data[one.start : one.start + one.length] for one in ranges) + b"tail"
    assert len(begun) == 1


async def test_long_ranges_are_not_gathered(monkeypatch):
    monkeypatch.setattr(content_threads, "MAX_GATHERED_BYTES", 1000)
    data = os.urandom(1 << 17)
    content = await open_clear(ContentThreads(), gzip.compress(data), LIMIT)
    ranges = [
        ByteRange(90_000, 5000),
        ByteRange(100, 400),
        ByteRange(50, 400),
        ByteRange(50, 60_000),
        ByteRange(0, 900),
    ]
    body = await read_all(content, ranges)
    assert body == b"".join(data[one.start : one.start + one.length] for one in ranges)


@pytest.mark.slow
async def test_what_readers_gather_is_bounded_for_all_of_them(monkeypatch):
    """Each has got the first range of many in the wrong order, and takes no more. Slow: each allocation is traced."""
    monkeypatch.setattr(content_threads, "GATHER_BYTES", 4 << 20)
    threads, data = ContentThreads(), bytes(8 << 20)
    packed = gzip.compress(data)
    ranges = [ByteRange(start, 1 << 14) for start in range(len(data) - (1 << 14), 0, -(1 << 15))]
    async with AsyncExitStack() as readers:
        tracemalloc.start()
        readers.callback(tracemalloc.stop)
        waiting = []
        for _ in range(40):
            content = await open_clear(threads, packed, LIMIT)
            opened = await content.open(ranges)
            waiting.append(await readers.enter_async_context(aclosing(opened.body.chunks)))
            assert await anext(waiting[-1]) == bytes(1 << 14)
        now_bytes, _ = tracemalloc.get_traced_memory()
        assert now_bytes < (4 << 20) + 40 * (200 << 10)  # and each its decompressor, and a piece
        rest = [some async for some in waiting[-1]]
        assert sum(map(len, rest)) == (len(ranges) - 1) << 14
    assert threads.gathered_bytes == 1 << 20


@pytest.mark.parametrize("place", [bytes, in_file])
@pytest.mark.parametrize("data", [bytes(64 << 20), os.urandom(8 << 20)], ids=["a bomb", "incompressible"])
@pytest.mark.slow
async def test_the_memory_of_a_reader_does_not_grow_with_the_content(data, place):
    """Slow: contents of many megabytes, with each allocation traced."""
    packed, threads = place(gzip.compress(data)), ContentThreads()
    tracemalloc.start()
    try:
        content = await open_clear(threads, packed, LIMIT)
        opened = await content.open([ByteRange(0, content.size_bytes)])
        seen = 0
        async with aclosing(opened.body.chunks) as chunks:
            async for some in chunks:
                assert len(some) <= threads.piece_bytes
                seen += len(some)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen == len(data)
    assert peak < 4 << 20


@pytest.mark.slow
async def test_pieces_get_shorter_when_many_readers_are_slow():
    """Slow: three hundred readers."""
    threads, packed = ContentThreads(), gzip.compress(bytes(1 << 20))
    slow = []
    for _ in range(300):
        content = await open_clear(threads, packed, LIMIT)
        slow.append((await content.open([ByteRange(0, content.size_bytes)])).body.chunks)
    assert len(await anext(slow[0])) + len(await anext(slow[0])) < 2 * 256 * 1024
    for chunks in slow:
        await chunks.aclose()
    assert threads.piece_bytes == 256 * 1024


@pytest.mark.parametrize("place", [bytes, in_file])
async def test_what_is_no_sound_gzip_or_too_much_is_refused_before_anything_is_sent(place):
    packed = gzip.compress(os.urandom(1 << 20))
    with pytest.raises(TooMuchData):
        await open_clear(ContentThreads(), place(packed), (1 << 20) - 1)
    for damaged in (packed[:-1], packed + b"z", packed[: len(packed) // 2], packed[:3], b"\x1f\x8b" + packed):
        with pytest.raises(BadGzip):
            await open_clear(ContentThreads(), place(damaged), LIMIT)


async def test_others_have_their_turn_while_a_file_in_memory_is_measured():
    turns = 0

    async def count_turns():
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    packed = in_file(gzip.compress(os.urandom(8 << 20), 0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        await open_clear(ContentThreads(), packed, LIMIT)
        nursery.cancel_scope.cancel()
    assert turns >= packed.length_bytes // MAX_PIECE_BYTES


async def test_a_stream_that_nobody_began_to_read_is_closed():
    threads = ContentThreads()
    content = await open_clear(threads, gzip.compress(os.urandom(1 << 20)), LIMIT)
    opened = await content.open([ByteRange(0, content.size_bytes)])
    held = threads.holders
    await opened.body.chunks.aclose()
    assert (held, threads.holders) == (1, 0)


# ---- stored needles


@pytest.fixture
def measured(monkeypatch):
    seen, measure = [], clear_content.measure

    def counted(threads, packed, limit_bytes):
        seen.append(len(packed))
        return measure(threads, packed, limit_bytes)

    monkeypatch.setattr(clear_content, "measure", counted)
    return seen


def packed_needle(data, needle_id=1):
    return Needle(needle_id=needle_id, cookie=5, data=data, checksum=len(data), append_at_ns=1)


async def test_the_length_of_a_needle_is_measured_once(measured):
    contents, threads, needle = ClearContents(), ContentThreads(), packed_needle(gzip.compress(bytes(8 << 20), 1))
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(contents.open, threads, 3, needle, LIMIT)
    assert len(measured) == 1
    content = await contents.open(threads, 3, needle, LIMIT)
    assert (content.size_bytes, content.kept) == (8 << 20, None)
    assert await read_all(content, [ByteRange(8 << 19, 10)]) == bytes(10)
    assert len(measured) == 1
    await contents.open(threads, 4, needle, LIMIT)
    assert len(measured) == 2


@pytest.mark.parametrize(
    ("data", "failure"),
    [(gzip.compress(bytes(8 << 20), 1), TooMuchData), (gzip.compress(os.urandom(1000))[:-1], BadGzip)],
)
async def test_that_it_cannot_be_unpacked_is_found_out_once(measured, data, failure):
    contents = ClearContents()
    for _ in range(3):
        with pytest.raises(failure):
            await contents.open(ContentThreads(), 3, packed_needle(data), 1 << 20)
    assert len(measured) == 1


@pytest.mark.slow
async def test_a_request_that_is_given_up_leaves_the_measuring_to_the_next(measured):
    """Slow: unpacks 64 MiB, twice."""
    contents, threads, needle = ClearContents(), ContentThreads(), packed_needle(gzip.compress(bytes(64 << 20), 1))
    sizes = []

    async def measure_it(scope):
        with scope:
            sizes.append((await contents.open(threads, 3, needle, LIMIT)).size_bytes)

    async with trio.open_nursery() as nursery:
        given_up = trio.CancelScope()
        nursery.start_soon(measure_it, given_up)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(measure_it, trio.CancelScope())
        await trio.testing.wait_all_tasks_blocked()
        given_up.cancel()
    assert sizes == [64 << 20]
    assert len(measured) == 2


async def test_short_content_is_unpacked_each_time(measured):
    contents, needle = ClearContents(), packed_needle(gzip.compress(b"short"))
    for _ in range(2):
        assert (await contents.open(ContentThreads(), 3, needle, LIMIT)).kept == b"short"
    assert len(measured) == 2
