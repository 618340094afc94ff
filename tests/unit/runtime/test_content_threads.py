"""Threads for work on contents: every client gets turns, jobs end, and memory is shared."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
import trio
from support.waiting import until
from trio.testing import assert_no_checkpoints

from native_handlers.runtime import content_threads
from native_handlers.runtime.content_threads import (
    CLEAR_BYTES,
    CLIENT,
    MAX_PIECE_BYTES,
    MIN_PIECE_BYTES,
    ContentThreads,
    finish_within,
)

LIMIT_S = 60


def count_to(number):
    for _ in range(number):
        yield
    return number


def endless(ended):
    try:
        while True:
            yield
    finally:
        ended.append(True)


def failing():
    yield
    raise LookupError("gone")


async def test_what_a_job_returns_or_raises():
    threads = ContentThreads()
    assert await threads.run(count_to(0)) == 0
    assert await threads.run(count_to(100_000)) == 100_000
    with pytest.raises(LookupError, match="gone"):
        await threads.run(failing())


def test_a_job_of_more_steps_than_allowed_is_given_up():
    assert finish_within(count_to(2), 3) == 2
    assert finish_within(count_to(3), 3) is None
    ended = []
    assert finish_within(endless(ended), 3) is None
    assert ended
    with pytest.raises(LookupError, match="gone"):
        finish_within(failing(), 2)


async def test_a_short_job_does_not_change_threads(monkeypatch):
    monkeypatch.setattr(content_threads, "INLINE_S", LIMIT_S)
    with assert_no_checkpoints():
        assert await ContentThreads().run(count_to(3)) == 3


@pytest.mark.slow
async def test_a_job_is_done_however_many_others_never_end_and_those_end_when_nobody_wants_them():
    """Slow: thousands of steps beside forty jobs."""
    threads, ended = ContentThreads(threads=2), []
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(threads.run, endless(ended))
            for _ in range(3):
                assert await threads.run(count_to(20_000)) == 20_000
            assert not ended
            nursery.cancel_scope.cancel()
    assert len(ended) == 40


@pytest.fixture
def turns_of_one_step(monkeypatch):
    monkeypatch.setattr(content_threads, "TURN_S", 0)


@pytest.mark.usefixtures("turns_of_one_step")
@pytest.mark.slow
async def test_who_had_fewer_turns_goes_first_and_the_oldest_now_and_then():
    """One thread. Counts the turns that one job gets beside many jobs that never end. Slow: hundreds of turns of a
    thread.
    """
    threads, begun, turns = ContentThreads(threads=1), set(), []

    def endless_one(number):
        while True:
            turns.append(number)
            begun.add(number)
            yield

    def of_three_turns():
        for _ in range(3):
            turns.append("short")
            yield

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(partial(threads.run, endless_one(number), is_long=True))
            await until(lambda: len(turns) >= 600)
            before = len(turns)
            await threads.run(of_three_turns(), is_long=True)
            meanwhile = len(turns) - before - 3
            nursery.cancel_scope.cancel()
    assert len(begun) == 30
    assert meanwhile < 30


@pytest.mark.usefixtures("turns_of_one_step")
@pytest.mark.slow
async def test_a_client_with_many_jobs_holds_up_its_own():
    """The job of another client gets about as many turns as all jobs of the first client together. Slow: 1200 turns of
    threads.
    """
    threads, turns = ContentThreads(threads=1), Counter()

    def endless_one(client):
        while True:
            turns[client] += 1
            yield

    async def work_for(client):
        CLIENT.set(client)
        await threads.run(endless_one(client), is_long=True)

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(work_for, "greedy")
            nursery.start_soon(work_for, "modest")
            await until(lambda: turns.total() >= 1200)
            nursery.cancel_scope.cancel()
    # Half of three turns in four, and every fourth turn, which goes to the job that waits longest.
    assert turns["modest"] > turns["greedy"] / 4


@pytest.mark.usefixtures("turns_of_one_step")
async def test_a_long_job_ends_however_many_short_ones_come():
    threads, done = ContentThreads(threads=1), trio.Event()

    def short():
        yield
        yield

    def long():
        for _ in range(10):
            yield

    async def more_and_more():
        while not done.is_set():
            await threads.run(short(), is_long=True)

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(more_and_more)
            await threads.run(long(), is_long=True)
            done.set()


@pytest.mark.slow
async def test_turns_are_not_lost_with_those_that_are_given_up():
    """Slow: hundreds of turns."""
    threads, ended = ContentThreads(threads=2), []
    for _ in range(20):
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(threads.run, endless(ended))
                await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
    with trio.fail_after(LIMIT_S):
        assert await threads.run(count_to(100_000), is_long=True) == 100_000


def test_the_more_hold_a_piece_the_shorter_it_is():
    threads = ContentThreads()
    assert threads.piece_bytes == MAX_PIECE_BYTES
    held = []
    for count in (1, 100, 10_000, 16_384):
        while len(held) < count:
            held.append(threads.holding())
            held[-1].__enter__()
        assert 2 * count * threads.piece_bytes <= CLEAR_BYTES
    assert threads.piece_bytes == MIN_PIECE_BYTES
    for one in held:
        one.__exit__(None, None, None)
    assert threads.piece_bytes == MAX_PIECE_BYTES
