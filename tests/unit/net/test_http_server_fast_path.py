"""Requests that are answered before they are parsed, between others on one connection, under the same deadlines."""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from functools import partial
from itertools import pairwise

import pytest
import trio
from http_harness import SOCKET_BUFFER_BYTES, echo, limits, serving, serving_a_socket
from trio.testing import lockstep_stream_pair

from native_handlers.http.message import HeldAnswer, Listener, Response
from supervisor.net import quick_loop
from supervisor.net.http_connection import Client, HttpConnection
from supervisor.net.pace import Pace
from supervisor.net.quick_loop import QuickLoop, QuickSleeper
from supervisor.net.transport import SocketTransport, StreamTransport

QUICK = b"GET /quick HTTP/1.1\r\nHost: x\r\n\r\n"
OTHER = b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nquick"
HUGE_BYTES = 40 * SOCKET_BUFFER_BYTES
HUGE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % HUGE_BYTES + bytes(HUGE_BYTES)


def quick(listener, data):
    assert listener is Listener.ADMIN
    return ANSWER if data == QUICK else None


def huge(_listener, data):
    return HUGE if data == QUICK else None


@pytest.fixture(params=[serving, serving_a_socket], ids=["stream", "socket"])
def quick_serving(request):
    """Serves what `echo` and `quick` answer, over either kind of connection."""

    def make(answer=quick, **changes):
        return request.param(echo, limits(**changes), quick=answer)

    return make


async def test_both_kinds_take_turns(quick_serving):
    async with quick_serving() as (client, _):
        for raw, body in ((QUICK, b"quick"), (OTHER, b""), (QUICK, b"quick"), (QUICK, b"quick")):
            assert (await client.ask(raw)).body == body


async def test_what_does_not_come_whole_and_alone_is_parsed(quick_serving):
    async with quick_serving() as (client, _):
        await client.send(QUICK[:20])
        await trio.testing.wait_all_tasks_blocked()
        await client.send(QUICK[20:] + QUICK)
        for _ in range(2):
            assert (await client.answer()).headers["x-saw"] == "GET /quick"
        assert (await client.ask(QUICK)).body == b"quick"


async def test_a_client_that_ends_its_side_gets_its_answer(quick_serving, autojump_clock):
    async with quick_serving() as (client, _):
        await client.send(QUICK)
        await client.stream.send_eof()
        assert await client.read_to_end() == ANSWER
    assert trio.current_time() < 1


@pytest.mark.parametrize("asked", [0, 1, 3])
async def test_an_idle_connection_is_closed_after_the_idle_timeout(quick_serving, autojump_clock, asked):
    async with quick_serving(idle_timeout_s=7) as (client, _):
        for _ in range(asked):
            await trio.sleep(5)
            await client.ask(QUICK)
        idle_since = trio.current_time()
        assert await client.is_closed()
        assert trio.current_time() - idle_since == pytest.approx(7)


async def test_a_head_that_begins_must_end_in_time(quick_serving, autojump_clock):
    async with quick_serving(idle_timeout_s=70, head_timeout_s=3) as (client, _):
        await client.ask(QUICK)
        await trio.sleep(50)
        began_at = trio.current_time()
        await client.send(OTHER[:20])
        assert (await client.answer()).status == 408
        assert trio.current_time() - began_at == pytest.approx(3)


async def test_draining_closes_an_idle_connection_at_once(quick_serving, autojump_clock):
    async with quick_serving() as (client, connection):
        await client.ask(QUICK)
        await trio.testing.wait_all_tasks_blocked()
        connection.drain()
        assert await client.is_closed()
    assert trio.current_time() < 1


async def test_draining_while_an_answer_goes_out_takes_no_other_request(quick_serving, autojump_clock):
    def drain(_listener, data):
        connection.drain()
        return quick(_listener, data)

    async with quick_serving(drain) as (client, connection):
        await client.send(QUICK)
        assert await client.read_to_end() == ANSWER
    assert trio.current_time() < 1


async def test_an_answer_that_the_client_takes_slowly(quick_serving):
    async with quick_serving(huge) as (client, _):
        for _ in range(3):
            assert (await client.ask(QUICK)).body == bytes(HUGE_BYTES)
        assert (await client.ask(OTHER)).headers["x-saw"] == "GET /other"


class Held:
    """Answers with a body in memory on loan, and counts what is not given back."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.lent = 0

    def __call__(self, _listener, data):
        if data != QUICK:
            return None
        self.lent += 1
        memory = bytearray(self.body)
        return HeldAnswer(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(memory),
            memoryview(memory),
            partial(self.end, memory),
        )

    def end(self, memory):
        self.lent -= 1
        memory[:] = bytes(len(memory))


@pytest.mark.parametrize("size", [10, HUGE_BYTES])
async def test_an_answer_in_memory_on_loan(quick_serving, size):
    held = Held(os.urandom(size))
    async with quick_serving(held) as (client, _):
        for _ in range(3):
            assert (await client.ask(QUICK)).body == held.body
            assert (await client.ask(OTHER)).headers["x-saw"] == "GET /other"
            assert held.lent == 0


async def test_a_loan_ends_with_its_connection():
    held = Held(bytes(HUGE_BYTES))
    async with serving_a_socket(echo, quick=held) as (client, _):
        await client.send(QUICK)
        await trio.testing.wait_all_tasks_blocked()
        assert held.lent == 1
        await client.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert held.lent == 0


async def test_a_loan_ends_with_its_server():
    held = Held(bytes(HUGE_BYTES))
    async with serving_a_socket(echo, quick=held) as (client, _):
        await client.send(QUICK)
        await trio.testing.wait_all_tasks_blocked()
        assert held.lent == 1
    assert held.lent == 0


async def test_a_loan_of_an_answer_that_ends_its_own_sleep():
    held = Held(bytes(HUGE_BYTES))
    with closing(QuickLoop()) as loop:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        theirs.send(QUICK)
        with trio.CancelScope() as scope:

            def answer(data):
                scope.cancel()
                return held(Listener.ADMIN, data)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(loop.run)
                await QuickSleeper(loop, ours, answer).sleep()
        assert scope.cancelled_caught
        assert held.lent == 0
        ours.close()
        theirs.close()


@asynccontextmanager
async def ready_connections(count, answer, prepare=lambda _ours: None):
    """(ours, theirs) of connections that sleep, each with a request waiting, as the loop begins to run.

    `answer(number, data)` answers connection `number`; `prepare(ours)` sees each before it sleeps.
    """
    with closing(QuickLoop()) as loop, ExitStack() as open_sockets:
        pairs = [socket.socketpair() for _ in range(count)]
        async with trio.open_nursery() as nursery:
            for number, (ours, theirs) in enumerate(pairs):
                open_sockets.enter_context(ours)
                open_sockets.enter_context(theirs)
                ours.setblocking(False)
                prepare(ours)
                theirs.send(b"request")
                nursery.start_soon(QuickSleeper(loop, ours, partial(answer, number)).sleep)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(loop.run)
            yield pairs
            nursery.cancel_scope.cancel()


async def counts_seen(answered, count):
    """How many of `count` were `answered` at each turn of another task, up to all of them."""
    seen = []
    while len(answered) < count:
        seen.append(len(answered))
        await trio.lowlevel.checkpoint()
    return [*seen, len(answered)]


async def test_large_answers_in_a_row_leave_the_others_their_turn(monkeypatch):
    monkeypatch.setattr(quick_loop, "_BYTES_IN_A_ROW", 1000)
    answered = []

    def answer(_number, data):
        answered.append(data)
        return HeldAnswer(b"head", memoryview(bytes(1000)), list)

    async with ready_connections(8, answer) as pairs:
        seen = await counts_seen(answered, len(pairs))
        # One at a time; a task may get its turn early in one round and late in the next.
        assert max(after - before for before, after in pairwise(seen)) <= 2
        for _, theirs in pairs:
            assert len(theirs.recv(2000)) == 1004


async def test_no_connection_is_answered_more_often_than_the_others(monkeypatch):
    """All of them always have a request waiting, and more is answered than fits one turn."""
    monkeypatch.setattr(quick_loop, "_BYTES_IN_A_ROW", 2500)
    counts = [0] * 8
    enough = trio.Event()

    def answer(number, _data):
        counts[number] += 1
        _, theirs = pairs[number]
        if counts[number] > 1:
            theirs.recv(4000)
        theirs.send(b"request")
        if sum(counts) > 400:
            enough.set()
        return HeldAnswer(b"head", memoryview(bytes(1000)), list)

    async with ready_connections(len(counts), answer) as pairs:
        await enough.wait()
    assert max(counts) - min(counts) <= 1


async def test_what_slow_clients_leave_counts_as_answered(monkeypatch):
    """Reading a large needle costs its time, however little of it is sent."""
    monkeypatch.setattr(quick_loop, "_BYTES_IN_A_ROW", 1000)
    answered = []

    def answer(_number, data):
        answered.append(data)
        return HeldAnswer(b"head", memoryview(bytes(HUGE_BYTES)), list)

    def fill(ours):
        with suppress(BlockingIOError):
            while True:
                ours.send(bytes(64))

    async with ready_connections(8, answer, fill) as pairs:
        seen = await counts_seen(answered, len(pairs))
        assert max(after - before for before, after in pairwise(seen)) <= 2


async def test_a_bug_in_an_answer_ends_the_connection_and_is_seen(quick_serving):
    def broken(_listener, _data):
        raise ZeroDivisionError

    with pytest.RaisesGroup(pytest.RaisesExc(ZeroDivisionError), flatten_subgroups=True):
        async with quick_serving(broken) as (client, _):
            await client.send(QUICK)
            await client.read_to_end()


async def test_a_stream_whose_client_does_not_take_its_answer_is_cut(autojump_clock):
    ours, theirs = lockstep_stream_pair()
    pace = Pace(limits(idle_timeout_s=7).pace)
    connection = HttpConnection(
        StreamTransport(ours, pace), Client("10.0.0.1", 1, Listener.ADMIN), echo, limits(), quick
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, QUICK)
        await connection.serve()
    assert trio.current_time() == pytest.approx(7)


async def test_a_socket_whose_client_does_not_take_its_answer_is_cut(autojump_clock):
    async with serving_a_socket(echo, limits(idle_timeout_s=7), quick=huge) as (client, _):
        await client.send(QUICK)
        await trio.sleep(8)
        received = b""
        with suppress(trio.BrokenResourceError):
            received = await client.read_to_end()
        assert len(received) < len(HUGE)


@pytest.mark.parametrize("kind", ["quick", "parsed"])
async def test_a_client_that_does_not_take_its_answer_sees_a_reset(autojump_clock, kind):
    """Not the polite end that an idle connection gets, whichever way the answer was made."""

    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    ours, _ = listener.accept()
    ours.setblocking(False)
    for end in (ours, client):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
    body = bytes(64 * HUGE_BYTES)

    def more(_listener, data):
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body if kind == "quick" else None

    async def parsed(_request):
        return Response(200, body=body)

    with closing(listener), closing(client), closing(QuickLoop()) as loop:
        transport = SocketTransport(ours, Pace(limits(idle_timeout_s=7).pace), loop)
        connection = HttpConnection(transport, Client("10.0.0.1", 1, Listener.ADMIN), parsed, limits(), more)
        client.send(QUICK)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.run)
            await connection.serve()
            nursery.cancel_scope.cancel()
        client.settimeout(5)
        with pytest.raises(ConnectionResetError):
            list(iter(partial(client.recv, 1 << 20), b""))


async def test_a_reset_ends_the_connection_without_a_word(caplog):
    async with trio.open_nursery() as nursery:
        listener = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        ours.setblocking(False)
        with closing(listener), closing(QuickLoop()) as loop, caplog.at_level(logging.INFO):
            nursery.start_soon(loop.run)
            sleeper = QuickSleeper(loop, ours, lambda _: None)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            with pytest.raises(ConnectionResetError) as raised:
                await sleeper.sleep()
            assert raised.value.errno == errno.ECONNRESET
            nursery.cancel_scope.cancel()
        ours.close()
    assert not caplog.records


async def test_one_answer_may_end_the_sleep_of_others():
    """As when a request makes the server drain: all of them are ready, none is touched twice."""
    with closing(QuickLoop()) as loop:
        scopes, answered, pairs = [], [], [socket.socketpair() for _ in range(5)]

        def answer(data):
            answered.append(data)
            for scope in scopes:
                scope.cancel()
            return b"answer"

        async def sleep(sock):
            with trio.CancelScope() as scope:
                scopes.append(scope)
                await QuickSleeper(loop, sock, answer).sleep()

        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as sleepers:
                for ours, _ in pairs:
                    ours.setblocking(False)
                    sleepers.start_soon(sleep, ours)
                await trio.testing.wait_all_tasks_blocked()
                for _, theirs in pairs:
                    theirs.send(b"request")
                outer.start_soon(loop.run)
            outer.cancel_scope.cancel()
        assert answered == [b"request"]
        for ours, theirs in pairs:
            ours.close()
            theirs.close()


async def test_many_ready_connections_leave_the_others_their_turn():
    answered = []

    def answer(_number, data):
        answered.append(data)
        return b"answer"

    async with ready_connections(200, answer) as pairs:
        seen = await counts_seen(answered, len(pairs))
        steps = [after - before for before, after in pairwise(seen)]
        assert len(pairs) // 2 > max(steps) > 0
        for _, theirs in pairs:
            assert theirs.recv(99) == b"answer"


async def test_what_is_cancelled_leaves_nothing_behind():
    with closing(QuickLoop()) as loop:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        before = os.listdir("/proc/self/fd")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(loop.run)
            sleeper = QuickSleeper(loop, ours, lambda data: data.upper() if data.islower() else None)
            for _ in range(3):
                with trio.move_on_after(0):
                    await sleeper.sleep()
            theirs.send(b"UNKNOWN")
            assert (await sleeper.sleep()).data == b"UNKNOWN"
            nursery.cancel_scope.cancel()
        assert not loop._sleepers
        assert os.listdir("/proc/self/fd") == before
        ours.close()
        theirs.close()
