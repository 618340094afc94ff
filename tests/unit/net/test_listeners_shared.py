"""Accepting from a socket from which other processes accept too."""

import os
import socket

import pytest
import trio

from supervisor.net.listeners import BoundListener, SharedAccept, accept, open_listener


@pytest.fixture
def listener():
    opened = open_listener("127.0.0.1", 0)
    yield opened
    opened.sock.close()


@pytest.fixture
def other(listener):
    """The same socket, as another process has it."""
    opened = BoundListener(socket.socket(fileno=os.dup(listener.sock.fileno())))
    yield opened
    opened.sock.close()


def one():
    """How many newcomers may be accepted in a row."""
    return 1


def connect(listener):
    return socket.create_connection(("127.0.0.1", listener.port))


async def test_one_with_a_pause_leaves_newcomers_to_the_others(autojump_clock, listener, other):
    accepted = []

    async def accept_as(name, by, shared):
        with await accept(by, shared=shared) as sock:
            accepted.append((name, sock.getpeername()[1], trio.current_time()))

    began_s = trio.current_time()
    with connect(listener) as first, connect(listener) as second:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_as, "later", listener, SharedAccept(lambda: 3.0, one))
            nursery.start_soon(accept_as, "at once", other, SharedAccept(lambda: 0.0, one))
        ports = [first.getsockname()[1], second.getsockname()[1]]
    assert accepted == [("at once", ports[0], began_s), ("later", ports[1], pytest.approx(began_s + 3.0))]


async def test_one_with_a_pause_accepts_where_no_other_does(autojump_clock, listener):
    with connect(listener):
        began_s = trio.current_time()
        (await accept(listener, shared=SharedAccept(lambda: 0.5, one))).close()
        assert trio.current_time() - began_s == pytest.approx(0.5)


async def test_one_whose_newcomer_was_taken_waits_for_the_next(autojump_clock, listener, other):
    pauses = iter([1.0, 0.0, 0.0])

    async def take_first():
        await trio.sleep(0.5)
        (await accept(other)).close()
        with connect(listener):
            await done.wait()

    done = trio.Event()
    with connect(listener):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_first)
            (await accept(listener, shared=SharedAccept(lambda: next(pauses), one))).close()
            done.set()
