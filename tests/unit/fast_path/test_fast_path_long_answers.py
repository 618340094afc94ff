"""Forwarded answers that are passed on while they come: what the poller does alone, and what it leaves to a task."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import nullcontext

import pytest
import trio
from support.descriptors import open_descriptors
from support.http_serving import connected, read_head
from support.played_engine import PlayedEngine
from support.recording_backend import PLAIN_ANSWER, WARM, Recorded, front_of
from support.waiting import until

from supervisor.authority.authority import Authority
from supervisor.gateway.http import HttpGateway
from supervisor.gateway.http_authority import HttpAuthority
from supervisor.net import splice
from supervisor.net.delivery import RESET_ON_CLOSE
from supervisor.net.polled_exchange import MAX_ANSWER_BYTES
from supervisor.net.rest_of_answer import RestOfAnswer
from supervisor.net.splice import PipePool
from supervisor.routing.decision import Engine
from supervisor.routing.registry import AccessKind

LONG_BYTES = 400_000
HUGE_BYTES = 16 << 20
"""More than the kernel takes for a client that reads nothing."""


LONG = WARM.replace(b"Host: warm", b"Host: long")


class Parted(Recorded):
    """Answers LONG with `body`. Its parts end at `ends`; those after the first wait until `go_on` is set."""

    def __init__(self, body: bytes, *ends: int, closes: bool = False) -> None:
        super().__init__()
        self.body, self.ends, self.closes = body, ends, closes
        self.sent_bytes = 0
        self.go_on = trio.Event()

    async def serve_one(self, stream) -> bool:
        head, _ = await read_head(stream)
        if not head:
            return False
        self.requests.append(head)
        if head == WARM:
            await stream.send_all(PLAIN_ANSWER)
            return True
        await stream.send_all(b"HTTP/1.1 200 OK\r\nDate: then\r\nContent-Length: %d\r\n\r\n" % len(self.body))
        self.sent_bytes = 0
        for end in (*self.ends, len(self.body)):
            if self.sent_bytes:
                await self.go_on.wait()
                if self.closes:
                    return False
            await stream.send_all(self.body[self.sent_bytes : end])
            self.sent_bytes = end
        return True


async def body_of(client, size: int) -> bytes:
    """The body of the next answer, which has `size` bytes. Takes less time than h11 for a long one."""
    received = bytearray()
    while (start := received.find(b"\r\n\r\n") + 4) < 4 or len(received) < start + size:
        data = await client.stream.receive_some()
        assert data, "the connection was closed within the answer"
        received += data
    assert len(received) == start + size
    return bytes(received[start:])


async def warmed(client) -> None:
    """Leaves a kept connection to the backend."""
    assert (await client.ask(WARM)).body == b"warm"


@pytest.fixture
def left(monkeypatch):
    """The work that was left to tasks: "rest" of an answer, or a "request"."""
    seen = []
    finish, resume = RestOfAnswer.finish, HttpGateway.resume

    async def note_rest(self, client):
        seen.append("rest")
        await finish(self, client)

    async def note_request(self, *arguments):
        seen.append("request")
        return await resume(self, *arguments)

    monkeypatch.setattr(RestOfAnswer, "finish", note_rest)
    monkeypatch.setattr(HttpGateway, "resume", note_request)
    return seen


@pytest.mark.parametrize("size", [MAX_ANSWER_BYTES, 100_000, LONG_BYTES])
async def test_a_long_answer_needs_no_task(left, size):
    body = os.urandom(size)
    backend = Parted(body)
    async with front_of(backend, is_fast=True) as front, connected(front.port) as client:
        await warmed(client)
        for _ in range(3):
            assert (await client.ask(LONG)).body == body
        assert not left
        assert front.begun == 3
        assert backend.connections == 1
        assert front.pool.idle_count == 1


async def test_a_client_that_sends_its_next_request_meanwhile_gets_both_answers(left):
    backend = Parted(os.urandom(LONG_BYTES), 100_000)
    async with front_of(backend, is_fast=True) as front, connected(front.port) as client:
        await warmed(client)
        await client.send(LONG)
        await until(lambda: backend.sent_bytes)
        await client.send(LONG)
        backend.go_on.set()
        for _ in range(2):
            assert (await client.answer()).body == backend.body
        assert left in ([], ["rest"])


@pytest.mark.slow
@pytest.mark.parametrize("is_newcomer", [True, False])
@pytest.mark.parametrize("has_pipe", [True, False])
async def test_a_client_that_reads_slowly_is_served_by_a_task(left, monkeypatch, is_newcomer, has_pipe):
    """Slow: passes on more than the kernel takes for a client that reads nothing."""
    if not has_pipe:
        monkeypatch.setattr(PipePool, "borrowed", lambda _: nullcontext())
    backend = Parted(os.urandom(HUGE_BYTES))
    async with (
        front_of(backend, is_fast=True) as front,
        connected(front.port) as first,
        connected(front.port) as client,
    ):
        await warmed(first)
        if not is_newcomer:
            await warmed(client)
        begun = front.begun
        for number in range(1, 3):
            await client.send(LONG)
            await until(lambda number=number: left == ["rest"] * number, "the task passes the rest on")
            assert await body_of(client, HUGE_BYTES) == backend.body
        assert front.begun == begun + 2
        assert backend.connections == 1


@pytest.mark.slow
async def test_a_server_that_pauses_is_waited_for_by_a_task(left):
    """Slow: waits as long as the poller waits for the next piece."""
    backend = Parted(os.urandom(LONG_BYTES), 100_000, 130_000)
    async with front_of(backend, is_fast=True) as front, connected(front.port) as client:
        await warmed(client)
        await client.send(LONG)
        await until(lambda: left == ["rest"])
        backend.go_on.set()
        assert (await client.answer()).body == backend.body
        assert (await client.ask(LONG)).body == backend.body
        assert backend.connections == 1
        assert front.pool.idle_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("waits", [False, True])
async def test_an_answer_that_breaks_off_resets_the_client(left, caplog, waits):
    """Slow: waits as long as the poller waits for the next piece."""
    backend = Parted(os.urandom(LONG_BYTES), 100_000, closes=True)
    async with front_of(backend, is_fast=True) as front, connected(front.port) as client:
        await warmed(client)
        await client.send(LONG)
        if waits:
            await until(lambda: left == ["rest"])
        else:
            await until(lambda: backend.sent_bytes)
        backend.go_on.set()
        with pytest.raises(trio.BrokenResourceError):
            await client.read_to_end()
        assert "broke off" in caplog.text
        assert front.pool.idle_count == 0
        async with connected(front.port) as other:
            assert (await other.ask(WARM)).body == b"warm"


async def test_a_client_that_goes_ends_the_exchange():
    backend = Parted(bytes(HUGE_BYTES))
    before = open_descriptors()
    async with front_of(backend, is_fast=True) as front:
        async with connected(front.port) as client:
            await warmed(client)
            await client.send(LONG)
            await client.stream.receive_some(1000)
            client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        async with connected(front.port) as other:
            assert (await other.ask(WARM)).body == b"warm"
    assert open_descriptors() == before


async def test_stopping_completes_what_is_passed_on_and_closes(left):
    backend = Parted(os.urandom(LONG_BYTES), 100_000)
    async with front_of(backend, is_fast=True) as front, connected(front.port) as client:
        await warmed(client)
        await client.send(LONG)
        await until(lambda: backend.sent_bytes)
        front.accepting.cancel()
        await until(lambda: left == ["rest"])
        backend.go_on.set()
        assert (await client.answer()).body == backend.body
        assert await client.is_closed()


async def test_cutting_everything_leaves_no_descriptor():
    before = open_descriptors()
    backend = Parted(bytes(HUGE_BYTES))
    async with front_of(backend, is_fast=True) as front:
        with trio.CancelScope() as scope:
            async with connected(front.port) as client:
                await warmed(client)
                await client.send(LONG)
                await client.stream.receive_some(1000)
                scope.cancel()
    assert open_descriptors() == before


async def test_without_a_pipe_the_ordinary_way_passes_the_answer_on(left, monkeypatch):
    def refuse(_flags):
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr(splice.os, "pipe2", refuse)
    backend = Parted(os.urandom(LONG_BYTES))
    async with front_of(backend, is_fast=True) as front, connected(front.port) as client:
        await warmed(client)
        assert (await client.ask(LONG)).body == backend.body
        assert left == ["request"]


async def test_a_volume_stays_with_the_backend_until_the_answer_is_passed_on():
    backend = Parted(os.urandom(LONG_BYTES), 100_000)
    native, child = PlayedEngine([], "native"), PlayedEngine([], "backend", {3})
    holders = {Engine.NATIVE: native, Engine.BACKEND: child}
    authority = Authority(holders, lambda _: nullcontext(lambda: None), lambda: True)
    async with (
        front_of(backend, is_fast=True, authority=HttpAuthority(authority, lambda _: False)) as front,
        connected(front.port) as client,
        trio.open_nursery() as nursery,
    ):
        await warmed(client)
        await client.send(LONG)
        await until(lambda: backend.sent_bytes)
        may_change = trio.Event()

        async def change():
            async with authority.access(3, Engine.NATIVE, AccessKind.VOLUME_EXCLUSIVE):
                assert may_change.is_set()

        nursery.start_soon(change)
        await client.stream.receive_some(1000)
        assert authority.owner_of(3) is Engine.BACKEND
        may_change.set()
        backend.go_on.set()
        left_bytes = LONG_BYTES
        while left_bytes > 1000:
            left_bytes -= len(await client.stream.receive_some())
        await until(lambda: authority.owner_of(3) is Engine.NATIVE)
    authority.close()
