"""Many connections that begin, or end, at once: bounded work in each turn of the event loop, and no rest."""

from __future__ import annotations

import gc
import socket
from collections import Counter
from contextlib import ExitStack, asynccontextmanager, closing
from functools import partial
from itertools import pairwise

import pytest
import trio
from support.http_serving import echo, limits
from support.waiting import LIMIT_S, until

from native_handlers.http_model.message import Response
from supervisor.net import http_server, idle_poller
from supervisor.net.http_server import serve_http
from supervisor.net.listeners import accept_ready, open_listener

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
MANY = 300


class Turns(trio.abc.Instrument):
    """How many connection tasks began in each turn of the event poller."""

    def __init__(self) -> None:
        self.begun = [0]

    def after_io_wait(self, timeout):
        self.begun.append(0)

    def task_spawned(self, task):
        if task.name.endswith("_serve_newcomer"):
            self.begun[-1] += 1


class Steps(trio.abc.Instrument):
    """How many steps of connection tasks ran in each turn of the event poller."""

    def __init__(self) -> None:
        self.counts = [0]

    def after_io_wait(self, timeout):
        self.counts.append(0)

    def after_task_step(self, task):
        if task.name.endswith("_serve_newcomer"):
            self.counts[-1] += 1


@asynccontextmanager
async def serving_at(handle=echo, **changes):
    listener = open_listener("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_http, limits=limits(**changes)), [listener], handle)
        with trio.fail_after(LIMIT_S):
            yield listener.port
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_bounded_number_of_newcomers_begins_in_each_turn():
    """Slow: hundreds of connections."""
    turns = Turns()
    async with serving_at() as port:
        with ExitStack() as stack:
            trio.lowlevel.add_instrument(turns)
            try:
                for _ in range(MANY):
                    stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(GET)
                await until(lambda: sum(turns.begun) == MANY)
            finally:
                trio.lowlevel.remove_instrument(turns)
    assert max(turns.begun) <= http_server.ACCEPTED_IN_A_ROW
    assert sum(turns.begun) == MANY


@pytest.mark.slow
async def test_a_client_is_answered_between_newcomers():
    """Slow: hundreds of connections."""
    turns = Turns()
    async with serving_at() as port:
        with ExitStack() as stack:
            reader = await trio.open_tcp_stream("127.0.0.1", port)
            stack.enter_context(reader.socket)
            trio.lowlevel.add_instrument(turns)
            try:
                for _ in range(MANY):
                    stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(GET)
                begun = []
                while sum(turns.begun) < MANY:
                    await reader.send_all(GET)
                    await reader.receive_some()
                    begun.append(sum(turns.begun))
            finally:
                trio.lowlevel.remove_instrument(turns)
    # The reader is a task too, so each of its reads takes some turns. Answers still arrive long before all connections
    # are accepted.
    assert begun[0] < MANY
    assert len(begun) > 1


@pytest.mark.slow
async def test_few_that_can_send_on_are_woken_in_one_turn(monkeypatch):
    """Slow: many clients that are sent 8 MiB each."""
    monkeypatch.setattr(idle_poller, "CROWD", 0)
    begun, sent = [], []
    body = bytes(8 << 20)

    async def handle(_request):
        begun.append(1)
        return Response(200, body=body, close=lambda: sent.append(1))

    steps = Steps()
    async with serving_at(handle) as port:
        with ExitStack() as stack:
            clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(MANY // 3)]
            for client in clients:
                client.sendall(GET)
            await until(lambda: len(begun) == len(clients))
            await trio.testing.wait_all_tasks_blocked(0.05)
            trio.lowlevel.add_instrument(steps)
            try:
                for client in clients:
                    client.close()
                await until(lambda: len(sent) == len(clients))
            finally:
                trio.lowlevel.remove_instrument(steps)
    # A task takes more than one step to its end. All of these may run in one turn with steps of the next tasks.
    assert max(steps.counts) <= 2 * 32
    assert sum(steps.counts) >= len(clients)


async def test_what_stands_at_the_door_is_taken_in_portions():
    listener = open_listener("127.0.0.1", 0)
    with ExitStack() as stack:
        stack.callback(listener.close)
        assert accept_ready(listener, 4) == []
        for _ in range(5):
            stack.enter_context(socket.create_connection(("127.0.0.1", listener.port)))
        for expected in (3, 2, 0):
            taken = [stack.enter_context(sock) for sock in accept_ready(listener, 3)]
            assert len(taken) == expected
            assert all(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for sock in taken)
            assert not any(sock.getblocking() for sock in taken)


@pytest.mark.parametrize("said", [b"", GET[:12], GET, b"nonsense\r\n\r\n"], ids=["nothing", "half", "whole", "bad"])
@pytest.mark.slow
async def test_a_connection_leaves_nothing_to_the_collector_of_cycles(said):
    """Objects that survive collections are frozen and not scanned again: see `supervisor.assembly.collector`. Slow:
    hundreds of connections, and the collector scans everything.
    """
    async with serving_at() as port:
        for is_first in (True, False):
            if not is_first:
                gc.collect()
                gc.disable()
            for _ in range(20):
                async with await trio.open_tcp_stream("127.0.0.1", port) as client:
                    await client.send_all(said or b"")
                    await trio.testing.wait_all_tasks_blocked(0.001)
            await trio.testing.wait_all_tasks_blocked(0.01)
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            gc.collect()
            left = Counter(type(one).__name__ for one in gc.garbage)
        finally:
            gc.set_debug(0)
            gc.enable()
            gc.garbage.clear()
    ours = {
        "HttpConnection",
        "SocketTransport",
        "IdleConnection",
        "Newcomer",
        "Seat",
        "ConnectionTimeouts",
        "ServerConnection",
        "HttpChannel",
        "Task",
    }
    assert not ours & set(left), left


async def test_few_are_woken_while_newcomers_crowd_at_a_port():
    with closing(idle_poller.IdlePoller()) as poller, ExitStack() as stack:
        woken, seen = [], []

        async def sleep(ours):
            woken.append((await idle_poller.IdleConnection(poller, ours, lambda _: None).sleep()).data)

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                ours, theirs = (stack.enter_context(one) for one in socket.socketpair())
                ours.setblocking(False)
                nursery.start_soon(sleep, ours)
                theirs.send(b"x")
            await trio.testing.wait_all_tasks_blocked()
            poller.crowded_ports.add(1)
            nursery.start_soon(poller.run)
            with trio.fail_after(LIMIT_S):
                while len(woken) < 40:  # noqa: ASYNC110  the loop's turns are what is counted
                    seen.append(len(woken))
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        # This task may have its turn first in one turn of the loop and last in the next.
        assert max(after - before for before, after in pairwise(seen)) <= 2 * idle_poller.WOKEN_BESIDE_A_CROWD
