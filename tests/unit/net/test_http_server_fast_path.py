"""Requests that the fast path answers, between others on one connection, under the same deadlines."""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from contextlib import ExitStack, asynccontextmanager, closing, nullcontext, suppress
from functools import partial
from itertools import pairwise

import pytest
import trio
from support.descriptors import open_descriptors
from support.http_serving import SOCKET_BUFFER_BYTES, echo, limits, serving, serving_a_socket
from support.waiting import LIMIT_S
from trio.testing import lockstep_stream_pair

from native_handlers.http_model.message import HeldAnswer, Listener, Response, StreamBody
from supervisor.net import idle_poller
from supervisor.net.http_connection import Client, HttpConnection
from supervisor.net.idle_poller import FAST_PATH_BYTES, IdleConnection, IdlePoller, LongRequests, receive_request
from supervisor.net.timeouts import ConnectionTimeouts
from supervisor.net.transport import SocketTransport, StreamTransport

KNOWN = b"GET /known HTTP/1.1\r\nHost: x\r\n\r\n"
OTHER = b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nknown"
HUGE_BYTES = 40 * SOCKET_BUFFER_BYTES
HUGE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % HUGE_BYTES + bytes(HUGE_BYTES)


def fast_path(client, data):
    assert (client.host, client.listener) == ("10.0.0.1", Listener.ADMIN)
    return ANSWER if data == KNOWN else None


def huge(_client, data):
    return HUGE if data == KNOWN else None


@pytest.fixture(params=[serving, serving_a_socket], ids=["stream", "socket"])
def serving_known(request):
    """Serves the answers of `echo` and `fast_path` over either kind of connection."""

    def make(answer=fast_path, **changes):
        return request.param(echo, limits(**changes), fast_path=answer)

    return make


async def test_both_kinds_take_turns(serving_known):
    async with serving_known() as (client, _):
        for raw, body in ((KNOWN, b"known"), (OTHER, b""), (KNOWN, b"known"), (KNOWN, b"known")):
            assert (await client.ask(raw)).body == body


async def test_what_does_not_come_whole_and_alone_is_parsed(serving_known):
    async with serving_known() as (client, _):
        await client.send(KNOWN[:20])
        await trio.testing.wait_all_tasks_blocked()
        await client.send(KNOWN[20:] + KNOWN)
        for _ in range(2):
            assert (await client.answer()).headers["x-saw"] == "GET /known"
        assert (await client.ask(KNOWN)).body == b"known"


async def test_a_client_that_ends_its_side_gets_its_answer(serving_known, autojump_clock):
    async with serving_known() as (client, _):
        await client.send(KNOWN)
        await client.stream.send_eof()
        assert await client.read_to_end() == ANSWER
    assert trio.current_time() < 1


@pytest.mark.parametrize("asked", [0, 1, 3])
async def test_an_idle_connection_is_closed_after_the_idle_timeout(serving_known, autojump_clock, asked):
    async with serving_known(idle_timeout_s=7) as (client, _):
        for _ in range(asked):
            await trio.sleep(5)
            await client.ask(KNOWN)
        idle_since = trio.current_time()
        assert await client.is_closed()
        assert trio.current_time() - idle_since == pytest.approx(7)


async def test_a_head_that_begins_must_end_in_time(serving_known, autojump_clock):
    async with serving_known(idle_timeout_s=70, head_timeout_s=3) as (client, _):
        await client.ask(KNOWN)
        await trio.sleep(50)
        began_at = trio.current_time()
        await client.send(OTHER[:20])
        assert (await client.answer()).status == 408
        assert trio.current_time() - began_at == pytest.approx(3)


async def test_draining_closes_an_idle_connection_at_once(serving_known, autojump_clock):
    async with serving_known() as (client, connection):
        await client.ask(KNOWN)
        await trio.testing.wait_all_tasks_blocked()
        connection.drain()
        assert await client.is_closed()
    assert trio.current_time() < 1


async def test_draining_while_an_answer_goes_out_takes_no_other_request(serving_known, autojump_clock):
    def drain(_client, data):
        connection.drain()
        return fast_path(_client, data)

    async with serving_known(drain) as (client, connection):
        await client.send(KNOWN)
        assert await client.read_to_end() == ANSWER
    assert trio.current_time() < 1


async def test_an_answer_that_the_client_takes_slowly(serving_known):
    async with serving_known(huge) as (client, _):
        for _ in range(3):
            assert (await client.ask(KNOWN)).body == bytes(HUGE_BYTES)
        assert (await client.ask(OTHER)).headers["x-saw"] == "GET /other"


class Held:
    """Answers with a body in lent memory, and counts bodies that are not given back."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.lent = 0

    def __call__(self, _client, data):
        if data != KNOWN:
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
async def test_an_answer_in_memory_on_loan(serving_known, size):
    held = Held(os.urandom(size))
    async with serving_known(held) as (client, _):
        for _ in range(3):
            assert (await client.ask(KNOWN)).body == held.body
            assert (await client.ask(OTHER)).headers["x-saw"] == "GET /other"
            assert held.lent == 0


async def test_a_loan_ends_with_its_connection():
    held = Held(bytes(HUGE_BYTES))
    async with serving_a_socket(echo, fast_path=held) as (client, _):
        await client.send(KNOWN)
        await trio.testing.wait_all_tasks_blocked()
        assert held.lent == 1
        await client.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert held.lent == 0


async def test_a_loan_ends_with_its_server():
    held = Held(bytes(HUGE_BYTES))
    async with serving_a_socket(echo, fast_path=held) as (client, _):
        await client.send(KNOWN)
        await trio.testing.wait_all_tasks_blocked()
        assert held.lent == 1
    assert held.lent == 0


async def test_a_loan_of_an_answer_that_ends_its_own_sleep():
    held = Held(bytes(HUGE_BYTES))
    with closing(IdlePoller()) as poller:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        theirs.send(KNOWN)
        with trio.CancelScope() as scope:

            def answer(data):
                scope.cancel()
                return held(Listener.ADMIN, data)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(poller.run)
                await IdleConnection(poller, ours, answer).sleep()
        assert scope.cancelled_caught
        assert held.lent == 0
        ours.close()
        theirs.close()


@asynccontextmanager
async def ready_connections(count, answer, prepare=lambda _ours: None):
    """(ours, theirs) of idle connections. Each has a waiting request when the poller begins to run. `answer(number,
    data)` answers connection `number`; `prepare(ours)` gets each connection before it becomes idle.
    """
    with closing(IdlePoller()) as poller, ExitStack() as open_sockets:
        pairs = [socket.socketpair() for _ in range(count)]
        async with trio.open_nursery() as nursery:
            for number, (ours, theirs) in enumerate(pairs):
                open_sockets.enter_context(ours)
                open_sockets.enter_context(theirs)
                ours.setblocking(False)
                prepare(ours)
                theirs.send(b"request")
                nursery.start_soon(IdleConnection(poller, ours, partial(answer, number)).sleep)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(poller.run)
            yield pairs
            nursery.cancel_scope.cancel()


async def counts_seen(answered, count):
    """How many of `count` connections were `answered` at each turn of another task, up to all of them."""
    seen = []
    while len(answered) < count:
        seen.append(len(answered))
        await trio.lowlevel.checkpoint()
    return [*seen, len(answered)]


async def test_large_answers_in_a_row_leave_the_others_their_turn(monkeypatch):
    monkeypatch.setattr(idle_poller, "BYTES_IN_A_ROW", 1000)
    answered = []

    def answer(_number, data):
        answered.append(data)
        return HeldAnswer(b"head", memoryview(bytes(1000)), list)

    async with ready_connections(8, answer) as pairs:
        seen = await counts_seen(answered, len(pairs))
        # One at a time. A task may get its turn early in one round and late in the next.
        assert max(after - before for before, after in pairwise(seen)) <= 2
        for _, theirs in pairs:
            assert len(theirs.recv(2000)) == 1004


async def test_no_connection_is_answered_more_often_than_the_others(monkeypatch):
    """All connections always have a waiting request, and there are more answers than fit one turn."""
    monkeypatch.setattr(idle_poller, "BYTES_IN_A_ROW", 2500)
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
    # New connections come after the connections that were answered. They may stay one or two answers behind, not more.
    assert max(counts) - min(counts) <= 3


async def test_what_slow_clients_leave_counts_as_answered(monkeypatch):
    """Reading a large needle costs its time, however little of it is sent."""
    monkeypatch.setattr(idle_poller, "BYTES_IN_A_ROW", 1000)
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


async def test_a_bug_in_an_answer_ends_the_connection_and_is_seen(serving_known):
    def broken(_listener, _data):
        raise ZeroDivisionError

    with pytest.RaisesGroup(pytest.RaisesExc(ZeroDivisionError), flatten_subgroups=True):
        async with serving_known(broken) as (client, _):
            await client.send(KNOWN)
            await client.read_to_end()


async def test_a_stream_whose_client_does_not_take_its_answer_is_cut(autojump_clock):
    ours, theirs = lockstep_stream_pair()
    timeouts = ConnectionTimeouts(limits(idle_timeout_s=7).timeouts)
    connection = HttpConnection(
        StreamTransport(ours, timeouts), Client("10.0.0.1", 1, Listener.ADMIN), echo, limits(), fast_path
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.send_all, KNOWN)
        await connection.serve()
    assert trio.current_time() == pytest.approx(7)


async def test_a_socket_whose_client_does_not_take_its_answer_is_cut(autojump_clock):
    async with serving_a_socket(echo, limits(idle_timeout_s=7), fast_path=huge) as (client, _):
        await client.send(KNOWN)
        await trio.sleep(8)
        received = b""
        with suppress(trio.BrokenResourceError):
            received = await client.read_to_end()
        assert len(received) < len(HUGE)


@pytest.mark.parametrize(("kind", "version"), [("known", b"1.1"), ("parsed", b"1.1"), ("parsed", b"1.0")])
@pytest.mark.slow
async def test_a_client_that_does_not_take_its_answer_still_gets_what_was_sent(autojump_clock, kind, version):
    """As upstream's clients get it, on either path. Where the end of the connection is the end of the answer, a torn
    answer would look whole, so that client gets a reset. Slow: waits until the client is given up.
    """

    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    ours, _ = listener.accept()
    ours.setblocking(False)
    for end in (ours, client):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
    body = bytes(64 * HUGE_BYTES)

    def more(_client, data):
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body if kind == "known" else None

    async def pieces():
        yield body

    async def parsed(_request):
        return Response(200, body=StreamBody(pieces()) if version == b"1.0" else body)

    with closing(listener), closing(client), closing(IdlePoller()) as poller:
        transport = SocketTransport(ours, ConnectionTimeouts(limits(idle_timeout_s=7).timeouts), poller)
        connection = HttpConnection(transport, Client("10.0.0.1", 1, Listener.ADMIN), parsed, limits(), more)
        client.send(KNOWN.replace(b"1.1", version))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.run)
            await connection.serve()
            nursery.cancel_scope.cancel()
        client.settimeout(5)
        with pytest.raises(ConnectionResetError) if version == b"1.0" else nullcontext():
            received = sum(map(len, iter(partial(client.recv, 1 << 20), b"")))
            assert transport.sent_bytes == received < len(body)


async def test_a_reset_ends_the_connection_without_a_word(caplog):
    async with trio.open_nursery() as nursery:
        listener = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
        ours.setblocking(False)
        with closing(listener), closing(IdlePoller()) as poller, caplog.at_level(logging.INFO):
            nursery.start_soon(poller.run)
            connection = IdleConnection(poller, ours, lambda _: None)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            with pytest.raises(ConnectionResetError) as raised:
                await connection.sleep()
            assert raised.value.errno == errno.ECONNRESET
            nursery.cancel_scope.cancel()
        ours.close()
    assert not caplog.records


async def test_one_answer_may_end_the_sleep_of_others():
    """For example when a request makes the server drain: all connections are ready, and none is answered twice."""
    with closing(IdlePoller()) as poller:
        scopes, answered, pairs = [], [], [socket.socketpair() for _ in range(5)]

        def answer(data):
            answered.append(data)
            for scope in scopes:
                scope.cancel()
            return b"answer"

        async def sleep(sock):
            with trio.CancelScope() as scope:
                scopes.append(scope)
                await IdleConnection(poller, sock, answer).sleep()

        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as idle:
                for ours, _ in pairs:
                    ours.setblocking(False)
                    idle.start_soon(sleep, ours)
                await trio.testing.wait_all_tasks_blocked()
                for _, theirs in pairs:
                    theirs.send(b"request")
                outer.start_soon(poller.run)
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
    with closing(IdlePoller()) as poller:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        before = open_descriptors()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.run)
            connection = IdleConnection(poller, ours, lambda data: data.upper() if data.islower() else None)
            for _ in range(3):
                with trio.move_on_after(0):
                    await connection.sleep()
            theirs.send(b"UNKNOWN")
            assert (await connection.sleep()).data == b"UNKNOWN"
            nursery.cancel_scope.cancel()
        assert not poller.sleeping_count
        assert not open_descriptors() - before
        ours.close()
        theirs.close()


@asynccontextmanager
async def sleeping(count, answer, urgent=()):
    """`count` idle connections. Yields (their clients, the woken connections, the scope of all)."""
    woken = []

    async def sleep(ours):
        woken.append((await IdleConnection(poller, ours, answer).sleep()).data)

    with ExitStack() as stack:
        poller = stack.enter_context(closing(IdlePoller(urgent)))
        pairs = [socket.socketpair() for _ in range(count)]
        for ours, theirs in pairs:
            stack.enter_context(ours).setblocking(False)
            stack.enter_context(theirs)
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(poller.run)
                for ours, _ in pairs:
                    nursery.start_soon(sleep, ours)
                await trio.testing.wait_all_tasks_blocked()
                yield [theirs for _, theirs in pairs], woken, nursery.cancel_scope
                nursery.cancel_scope.cancel()


async def test_a_request_among_many_connections_that_end_does_not_wait_for_all_of_their_tasks():
    woken_before = []

    def answer(data):
        if data != KNOWN:
            return None
        woken_before.append(len(woken))
        return ANSWER

    async with sleeping(400, answer) as (clients, woken, _):
        clients[-1].send(KNOWN)
        await trio.testing.wait_all_tasks_blocked()
        for client in clients[:-1]:
            client.send(b"x")
        clients[-1].send(KNOWN)
        await trio.testing.wait_all_tasks_blocked()
        assert woken_before == [0, 0]
        assert len(woken) == 399


async def test_who_got_short_answers_is_answered_before_newcomers():
    answered = []

    def answer(data):
        answered.append(data)
        return ANSWER

    async with sleeping(400, answer) as (clients, _, _):
        clients[-1].send(b"before")
        await trio.testing.wait_all_tasks_blocked()
        for client in clients[:-1]:
            client.send(b"newcomer")
        clients[-1].send(b"regular")
        await trio.testing.wait_all_tasks_blocked()
    assert answered == [b"before", b"regular"] + [b"newcomer"] * 399


async def test_who_got_a_large_answer_waits_as_newcomers_do():
    answered = []

    def answer(data):
        answered.append(data)
        return bytes(idle_poller.SHORT_BYTES + 1) if data == b"large" else ANSWER

    async with sleeping(3, answer) as (clients, _, _):
        for client, before in zip(clients, (b"large", b"short", b"short"), strict=True):
            client.send(before)
            await trio.testing.wait_all_tasks_blocked()
        del answered[:]
        for client, data in zip(clients, (b"first", b"second", b"third"), strict=True):
            client.send(data)
        await trio.testing.wait_all_tasks_blocked()
    assert answered == [b"second", b"third", b"first"]


async def test_an_urgent_request_of_a_newcomer_does_not_wait_for_the_others():
    async with sleeping(400, lambda _: None, urgent=(b"health",)) as (clients, woken, _):
        for client in clients[:-1]:
            client.send(b"x")
        clients[-1].send(b"health check")
        await trio.testing.wait_all_tasks_blocked()
    assert b"health check" in woken[:64]
    assert len(woken) == 400


async def test_urgent_requests_in_thousands_leave_the_others_their_turn():
    async with sleeping(400, lambda _: None, urgent=(b"health",)) as (clients, woken, _):
        clients[0].send(b"x")
        for client in clients[1:]:
            client.send(b"health check")
        await trio.testing.wait_all_tasks_blocked()
    assert b"x" in woken[:64]
    assert len(woken) == 400


def test_fewer_are_woken_in_one_turn_while_turns_take_long():
    size = idle_poller.TurnSize()
    counts = [size.count]
    for turn_s in (1, 1, 1, 1, 1, 0, 0, 0, 0, 0):
        size.note(turn_s)
        counts.append(size.count)
    assert counts == [32, 16, 8, 4, 2, 2, 4, 8, 16, 32, 32]


async def test_who_has_something_gets_it_though_all_is_cancelled_before_its_turn():
    async with sleeping(400, lambda _: None) as (clients, woken, scope):
        for client in clients:
            client.send(b"x")
        while not woken:  # noqa: ASYNC110  the first ones have had their turn, the others are in the row
            await trio.lowlevel.checkpoint()
        assert len(woken) < 400
        scope.cancel()
    assert woken == [b"x"] * 400


@pytest.mark.parametrize(("beginning", "more_bytes"), [(b"PUT ", 500), (b"GET ", 0)])
def test_more_is_received_at_once_of_requests_that_may_be_long(beginning, more_bytes):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.sendall(beginning.ljust(FAST_PATH_BYTES + 1000, b"x"))
        received = receive_request(ours, LongRequests((b"PUT ", b"POST "), 500))
        assert received == beginning.ljust(FAST_PATH_BYTES + more_bytes, b"x")
