"""Forwarded requests on the fast path: what goes over it, what the ordinary way takes over, and what is freed."""

from __future__ import annotations

import os
import socket
from contextlib import nullcontext, suppress

import pytest
import trio
from support.descriptors import open_descriptors
from support.http_serving import connected, read_head
from support.played_engine import PlayedEngine
from support.recording_backend import PLAIN_ANSWER, WARM, Recorded, front_of
from support.security import security
from support.waiting import until

from supervisor.authority.authority import Authority
from supervisor.gateway.guard import Guard
from supervisor.gateway.http_authority import HttpAuthority
from supervisor.net.delivery import RESET_ON_CLOSE
from supervisor.net.polled_exchange import MAX_ANSWER_BYTES
from supervisor.routing.decision import Engine
from supervisor.routing.live import LiveTable
from supervisor.routing.registry import AccessKind
from supervisor.routing.table import table_forwarding_all, table_native

POST = b"POST /3,01637037d6 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
DELETE = b"DELETE /3,01637037d6 HTTP/1.1\r\nHost: x\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nDate: then\r\nContent-Length: 0\r\n\r\n"


def answer_of(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nDate: then\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class Held(Recorded):
    """Answers when `may_answer` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = trio.Event()

    async def serve_one(self, stream) -> bool:
        head, _ = await read_head(stream)
        if not head:
            return False
        self.requests.append(head)
        if len(self.requests) > 1:
            await self.may_answer.wait()
        await stream.send_all(PLAIN_ANSWER)
        return True


async def warmed(client) -> None:
    """Leaves a kept connection to the backend."""
    assert (await client.ask(WARM)).body == b"warm"


async def refuses(port: int) -> None:
    """Returns when the front has begun to stop."""
    while True:
        try:
            async with connected(port):
                await trio.lowlevel.checkpoint()
        except OSError:
            return


@pytest.mark.parametrize("reads", [True, False])
async def test_after_the_first_one_requests_go_over_kept_connections(reads):
    """The first request finds no kept connection, and goes the ordinary way. The client's next ones do not."""
    backend = Recorded()
    async with front_of(backend, is_fast=True, reads=reads) as front, connected(front.port) as client:
        await warmed(client)
        for raw in (WARM, POST, WARM, DELETE):
            assert (await client.ask(raw)).body == b"warm"
        assert front.begun == 4
        assert backend.connections == 1
        assert backend.requests == [WARM, WARM, POST, WARM, DELETE]
        assert front.gateway.counts.total() == 5
        assert front.pool.idle_count == 1


@pytest.mark.slow
async def test_many_clients_at_once_get_their_own_answers():
    """Slow: forty clients ask twenty times each."""
    backend = Recorded()

    async def ask_often(port, number):
        async with connected(port) as client:
            for _ in range(20):
                path = f"/{number},01637037d6"
                await client.ask(f"GET {path} HTTP/1.1\r\nHost: {number}\r\n\r\n".encode())

    async with front_of(backend, is_fast=True) as front:
        async with trio.open_nursery() as nursery:
            for number in range(1, 41):
                nursery.start_soon(ask_often, front.port, number)
        assert front.begun > 400
        assert len(backend.requests) == 800
        assert front.gateway.counts.total() == 800


@pytest.mark.parametrize("size", [0, 3000, MAX_ANSWER_BYTES - 100, MAX_ANSWER_BYTES, 1 << 20])
async def test_answers_of_any_length_arrive_whole(size):
    body = os.urandom(size)
    backend = Recorded([PLAIN_ANSWER, answer_of(body), PLAIN_ANSWER])
    async with front_of(backend, is_fast=True) as front, connected(front.port) as client:
        await warmed(client)
        assert (await client.ask(WARM)).body == body
        assert (await client.ask(WARM)).body == b"warm"
        assert front.begun == 2
        assert backend.connections == 1


@pytest.mark.parametrize("is_fast", [True, False])
async def test_a_large_upload_arrives_whole(is_fast):
    body = os.urandom(3 << 20)
    backend = Recorded()
    async with front_of(backend, is_fast=is_fast) as front, connected(front.port) as client:
        await warmed(client)
        raw = b"PUT /3,01637037d6 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        assert (await client.ask(raw)).status == 200
        assert backend.requests[1] == raw
        assert (await client.ask(WARM)).body == b"warm"


@pytest.mark.parametrize("is_fast", [True, False])
async def test_a_chunked_upload_arrives_whole(is_fast):
    backend = Recorded()
    async with front_of(backend, is_fast=is_fast) as front, connected(front.port) as client:
        await warmed(client)
        head = b"PUT /3,01637037d6 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        body = b"%x\r\n%b\r\n" % (300_000, bytes(300_000)) + b"0\r\n\r\n"
        assert (await client.ask(head + body)).status == 200
        assert backend.requests[1].count(b"\0") == 300_000
        assert (await client.ask(WARM)).body == b"warm"


@pytest.mark.slow
async def test_a_late_answer_is_left_to_the_task_which_watches_the_client():
    """Slow: waits as long as the fast path waits for an answer."""

    class Late(Recorded):
        async def serve_one(self, stream) -> bool:
            if self.requests:
                head, _ = await read_head(stream)
                assert head == WARM
                # The ordinary way passes the end of the client's side on while it waits for the answer.
                assert await stream.receive_some() == b""
                await stream.send_all(answer_of(b"late"))
                return False
            return await super().serve_one(stream)

    async with front_of(Late(), is_fast=True) as front, connected(front.port) as client:
        await warmed(client)
        await client.send(WARM)
        await client.stream.send_eof()
        assert (await client.answer()).body == b"late"
        assert front.begun == 1
        assert await client.is_closed()


@pytest.mark.slow
async def test_a_client_that_gives_up_ends_the_exchange():
    """Slow: waits as long as the fast path waits for an answer."""
    ended = trio.Event()

    class Waiting(Recorded):
        async def serve_one(self, stream) -> bool:
            if not self.requests:
                return await super().serve_one(stream)
            await read_head(stream)
            self.requests.append(b"second")
            with suppress(trio.BrokenResourceError):
                assert await stream.receive_some() == b""
            ended.set()
            return False

    backend = Waiting()
    async with front_of(backend, is_fast=True) as front:
        async with connected(front.port) as client:
            await warmed(client)
            await client.send(WARM)
            await until(lambda: len(backend.requests) == 2)
            client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        await ended.wait()
        assert front.begun == 1


async def test_requests_behind_one_that_is_forwarded_are_answered_in_order():
    backend = Held()
    async with front_of(backend, is_fast=True) as front, connected(front.port) as client:
        await warmed(client)
        await client.send(WARM)
        await until(lambda: len(backend.requests) == 2)
        await client.send(POST.replace(b"Content-Length: 3\r\n\r\nabc", b"Content-Length: 0\r\n\r\n"))
        backend.may_answer.set()
        for _ in range(2):
            assert (await client.answer()).body == b"warm"
        assert [raw.split()[0] for raw in backend.requests] == [b"GET", b"GET", b"POST"]


async def test_stopping_answers_what_runs_and_closes():
    backend = Held()
    async with front_of(backend, is_fast=True) as front, connected(front.port) as client:
        await warmed(client)
        await client.send(WARM)
        await until(lambda: len(backend.requests) == 2)
        front.accepting.cancel()
        await refuses(front.port)
        backend.may_answer.set()
        answer = await client.answer()
        assert answer.body == b"warm"
        assert answer.headers["connection"] == "close"
        assert await client.is_closed()


async def test_cutting_everything_leaves_no_descriptor():
    before = open_descriptors()
    backend = Held()
    async with front_of(backend, is_fast=True) as front, trio.open_nursery() as nursery:
        async with connected(front.port) as client:
            await warmed(client)
            await client.send(WARM)
            await until(lambda: len(backend.requests) == 2)
        nursery.cancel_scope.cancel()
    assert open_descriptors() == before


async def test_the_white_list_holds_on_the_fast_path():
    backend, guard = Recorded(), Guard(security(white_list=["10.0.0.1"]))
    async with front_of(backend, is_fast=True, rules=guard) as front, connected(front.port) as client:
        await warmed(client)
        assert (await client.ask(POST)).status == 401
        assert front.begun == 0
        assert (await client.ask(WARM)).body == b"warm"
        guard.update(security(white_list=["127.0.0.1"]))
        assert (await client.ask(POST)).status == 200
        assert front.begun == 2
        assert backend.requests == [WARM, WARM, POST]


async def test_a_table_that_says_native_ends_the_forwarding():
    backend, table = Recorded(), LiveTable(table_forwarding_all())
    async with front_of(backend, is_fast=True, table=table) as front, connected(front.port) as client:
        await warmed(client)
        table.table = table_native([])
        assert (await client.ask(WARM)).status == 501
        assert front.begun == 0


async def test_other_holders_are_asked_for_a_needle_that_the_backend_does_not_delete():
    backend = Recorded([PLAIN_ANSWER, NOT_FOUND, NOT_FOUND])
    async with front_of(backend, is_fast=True) as front, connected(front.port) as client:
        await warmed(client)
        assert (await client.ask(DELETE)).status == 404
        assert (await client.ask(WARM)).status == 404
        assert front.begun == 2


class Shared:
    """An authority over volume 3, which the backend has."""

    def __init__(self) -> None:
        self.native, self.child = PlayedEngine([], "native"), PlayedEngine([], "backend", {3})
        holders = {Engine.NATIVE: self.native, Engine.BACKEND: self.child}
        self.authority = Authority(holders, lambda _: nullcontext(lambda: None), lambda: True)
        self.http = HttpAuthority(self.authority, lambda _: False)


async def test_a_volume_stays_with_the_backend_while_it_answers():
    backend, shared = Held(), Shared()
    async with (
        front_of(backend, is_fast=True, authority=shared.http) as front,
        connected(front.port) as client,
        trio.open_nursery() as nursery,
    ):
        await warmed(client)
        await client.send(WARM)
        await until(lambda: len(backend.requests) == 2)
        assert front.begun == 1

        async def change():
            async with shared.authority.access(3, Engine.NATIVE, AccessKind.VOLUME_EXCLUSIVE):
                assert answered.is_set()

        answered = trio.Event()
        nursery.start_soon(change)
        await trio.testing.wait_all_tasks_blocked()
        assert shared.authority.owner_of(3) is Engine.BACKEND
        backend.may_answer.set()
        answered.set()
        assert (await client.answer()).body == b"warm"
        await until(lambda: shared.authority.owner_of(3) is Engine.NATIVE)
        # Now the native engine has it: the fast path leaves the request to the ordinary way, which takes it back.
        assert (await client.ask(WARM)).body == b"warm"
        assert front.begun == 1
        assert shared.authority.owner_of(3) is Engine.BACKEND
    shared.authority.close()
