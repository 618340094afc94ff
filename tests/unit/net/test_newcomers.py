"""Connections without a whole request: served without a task, and ended in time."""

from __future__ import annotations

import socket
from contextlib import ExitStack, asynccontextmanager
from functools import partial

import pytest
import trio
from support.http_serving import RawClient, echo, limits
from support.waiting import LIMIT_S, until

from supervisor.net.http_server import serve_http
from supervisor.net.listeners import open_listener
from supervisor.net.seats import Seats

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
KNOWN = b"GET /known HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nknown"
MANY = 200


class Tasks(trio.abc.Instrument):
    """How many connections have had a task so far."""

    def __init__(self) -> None:
        self.begun = 0

    def task_spawned(self, task):
        self.begun += task.name.endswith("_serve_newcomer")


@pytest.fixture
async def tasks():
    counted = Tasks()
    trio.lowlevel.add_instrument(counted)
    yield counted
    trio.lowlevel.remove_instrument(counted)


@asynccontextmanager
async def serving_on(*, seats=None, **changes):
    """A server on a free loopback port. Yields (port, accept scope)."""
    listener = open_listener("127.0.0.1", 0)
    fast_path = lambda _client, data: ANSWER if data == KNOWN else None  # noqa: E731
    serve = partial(serve_http, limits=limits(**changes), seats=seats, fast_path=fast_path)
    async with trio.open_nursery() as nursery:
        scope = await nursery.start(serve, [listener], echo)
        with trio.fail_after(LIMIT_S):
            yield listener.port, scope
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(port):
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        yield RawClient(stream)


async def test_half_a_request_gets_no_task(tasks):
    async with serving_on() as (port, _):
        with ExitStack() as stack:
            for _ in range(MANY):
                stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(GET[:20])
            async with connected(port) as client:
                assert (await client.ask(GET)).status == 200
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert tasks.begun == 1


async def test_what_is_answered_at_once_gets_no_task_however_often(tasks):
    async with serving_on() as (port, _), connected(port) as client:
        for _ in range(3):
            assert (await client.ask(KNOWN)).body == b"known"
        assert tasks.begun == 0
        assert (await client.ask(GET)).status == 200
        assert (await client.ask(KNOWN)).body == b"known"
    assert tasks.begun == 1


@pytest.mark.parametrize("request_", [GET, KNOWN], ids=["task", "known"])
async def test_a_head_in_pieces_is_read_as_one(request_):
    async with serving_on() as (port, _), connected(port) as client:
        for byte in request_[:-1]:
            await client.send(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        await client.send(request_[-1:])
        assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"\x16\x03\x01", 400), (b"GET / HTTP/1.1\nHost", 400), (b"GET /" + b"x" * 100_000, 431)],
    ids=["TLS", "bare LF", "too long"],
)
async def test_what_cannot_become_a_request_is_refused_at_once(sent, status):
    async with serving_on(head_timeout_s=600, idle_timeout_s=600) as (port, _), connected(port) as client:
        await client.send(sent)
        assert (await client.answer()).status == status


async def test_a_head_that_takes_too_long_is_408():
    async with serving_on(head_timeout_s=0.05) as (port, _), connected(port) as client:
        await client.send(GET[:20])
        assert (await client.answer()).status == 408


async def test_the_time_for_a_head_is_over_with_the_head(mock_clock):
    """After the head the connection waits for its next request as long as any other."""
    async with serving_on(head_timeout_s=1) as (port, _), connected(port) as client:
        await client.send(KNOWN[:20])
        await trio.testing.wait_all_tasks_blocked()
        await client.send(KNOWN[20:])
        assert (await client.answer()).body == b"known"
        mock_clock.jump(1.5)
        await trio.testing.wait_all_tasks_blocked()
        assert (await client.ask(KNOWN)).body == b"known"


@pytest.mark.parametrize("sent", [b"", GET[:20], KNOWN], ids=["nothing", "half", "whole"])
async def test_silence_ends_it_without_a_word(sent, mock_clock):
    async def let_time_pass():
        while True:
            mock_clock.jump(0.1)
            await trio.testing.wait_all_tasks_blocked(0.01)

    async with serving_on(idle_timeout_s=0.3) as (port, _), connected(port) as client:
        await client.send(sent)
        if sent == KNOWN:
            assert (await client.answer()).body == b"known"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_time_pass)
            assert await client.is_closed()
            nursery.cancel_scope.cancel()


async def test_one_that_moves_stays(mock_clock):
    async with serving_on(idle_timeout_s=1) as (port, _), connected(port) as client:
        for _ in range(6):
            assert (await client.ask(KNOWN)).body == b"known"
            mock_clock.jump(0.9)
            await trio.testing.wait_all_tasks_blocked()


async def test_the_end_of_the_stream_frees_the_seat():
    seats = Seats("HTTP", lambda: 10)
    async with serving_on(seats=seats) as (port, _):
        async with connected(port), connected(port) as second:
            await second.send(GET[:20])
            await until(lambda: seats.open_count == 2)
        await until(lambda: not seats.open_count)


async def test_one_is_given_up_for_the_next():
    one = Seats("HTTP", lambda: 1)
    async with serving_on(seats=one) as (port, _), connected(port) as first, connected(port) as second:
        assert await first.is_closed()
        assert (await second.ask(GET)).status == 200


async def test_a_drain_ends_those_that_wait_and_answers_those_that_have_asked():
    async with (
        serving_on() as (port, scope),
        connected(port) as silent,
        connected(port) as half,
        connected(port) as asked,
    ):
        await half.send(GET[:20])
        await trio.testing.wait_all_tasks_blocked(0.01)
        await asked.send(GET)
        scope.cancel()
        assert await silent.is_closed()
        assert await half.is_closed()
        # Whether the request or the drain came first is open. Half an answer is wrong in both cases.
        said = await asked.read_to_end()
        assert not said or said.startswith(b"HTTP/1.1 200")


async def test_a_cut_leaves_no_socket_open():
    async with serving_on() as (port, _):
        clients = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(5)]
        await clients[0].send_all(GET[:20])
        await trio.testing.wait_all_tasks_blocked(0.01)
    for client in clients:
        assert await client.receive_some() == b""
        await client.aclose()


async def test_without_a_newcomer_nobody_makes_room_for_one(monkeypatch):
    """`accept` reports missing descriptors also when no connection waits."""
    asked = []
    listener = open_listener("127.0.0.1", 0)

    class NoDescriptor:
        def __init__(self, sock):
            self._sock = sock

        def accept(self):
            raise OSError(24, "Too many open files")

        def fileno(self):
            return self._sock.fileno()

    from supervisor.net import listeners  # noqa: PLC0415  beside what it replaces

    broken = listeners.BoundListener(NoDescriptor(listener.sock))

    def make_room():
        asked.append(1)
        return True

    with trio.move_on_after(0.05):
        await listeners.accept(broken, make_room)
    assert not asked
    with socket.create_connection(("127.0.0.1", listener.port)), trio.move_on_after(0.05):
        await listeners.accept(broken, make_room)
    assert asked
    listener.close()
