"""A thread that the event loop waits for, a while only."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest
from support.waiting import LIMIT_S, wait_until

from native_handlers.runtime import brief_thread
from native_handlers.runtime.brief_thread import FIRST_REST_S, LONGEST_REST_S, BriefThread


@pytest.fixture
def thread():
    with closing(BriefThread("brief")) as made:
        yield made


@pytest.fixture
def now(monkeypatch):
    """The clock, which stands still until it is moved."""
    clock = [100.0]
    monkeypatch.setattr(brief_thread, "monotonic", lambda: clock[0])
    return clock


def test_work_is_done_in_one_thread_and_waited_for(thread):
    threads = []
    for _ in range(3):
        assert thread.is_free
        assert thread.wait(thread.begin(lambda: threads.append(threading.current_thread().name)), LIMIT_S)
    assert threads == ["brief"] * 3


def test_work_that_takes_longer_goes_on_and_is_told_of(thread, now):
    may_end, told = threading.Event(), threading.Event()
    work = thread.begin(lambda: may_end.wait(LIMIT_S))
    assert not thread.wait(work, 0.001)
    work.when_done(told.set)
    now[0] += LONGEST_REST_S
    assert not thread.is_free
    assert not told.is_set()
    may_end.set()
    assert told.wait(LIMIT_S)
    assert thread.is_free


def test_work_that_ended_just_now_is_told_of_at_once(thread):
    told = []
    work = thread.begin(lambda: None)
    wait_until(lambda: work.is_done, "the work is done")
    work.when_done(lambda: told.append(1))
    assert told


def test_a_thread_that_was_slow_rests_for_longer_each_time(thread, now):
    rest_s = FIRST_REST_S
    for _ in range(10):
        may_end = threading.Event()
        work = thread.begin(lambda may_end=may_end: may_end.wait(LIMIT_S))
        assert not thread.wait(work, 0.001)
        may_end.set()
        wait_until(lambda work=work: work.is_done, "the work is done")
        now[0] += rest_s * 0.99
        assert not thread.is_free
        now[0] += rest_s * 0.02
        assert thread.is_free
        rest_s = min(2 * rest_s, LONGEST_REST_S)
    assert thread.wait(thread.begin(lambda: None), LIMIT_S)
    assert thread.is_free


def test_a_bug_ends_no_thread(thread, caplog):
    assert thread.wait(thread.begin(lambda: 1 // 0), LIMIT_S)
    assert "ZeroDivisionError" in caplog.text
    assert thread.wait(thread.begin(lambda: None), LIMIT_S)


def test_a_closed_thread_ends(thread):
    found = []
    assert thread.wait(thread.begin(lambda: found.append(threading.current_thread())), LIMIT_S)
    thread.close()
    found[0].join(LIMIT_S)
    assert not found[0].is_alive()
