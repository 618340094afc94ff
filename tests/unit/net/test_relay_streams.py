"""The chunks of small calls, which one task of the byte relay passes for all connections."""

from __future__ import annotations

import os
import socket
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from support.descriptors import open_descriptors
from support.waiting import LIMIT_S, until

from supervisor.net.relay_streams import CHUNK_BYTES, RelayStreams, SmallChunks

RESET = b"\x01\0\0\0\0\0\0\0"


@pytest.fixture(autouse=True)
async def deadline():
    with trio.fail_after(LIMIT_S):
        yield


@asynccontextmanager
async def ends(kind=socket.SOCK_STREAM):
    """A socket of the test, and the stream of the relay at its other end."""
    near, far = socket.socketpair(socket.AF_UNIX, kind)
    near.setblocking(False)
    far.setblocking(False)
    with near:
        async with trio.SocketStream(trio.socket.from_stdlib_socket(far)) as stream:
            yield near, stream


class Passing:
    """One direction that the relay passes on, with all that the test may look at."""

    def __init__(self, sender, source, sink, receiver, streams):
        self.sender, self.source, self.sink, self.receiver = sender, source, sink, receiver
        self.streams = streams
        self.counted = []
        self.results = []

    async def run(self, scope):
        self.results.append(await self.streams.pass_one_way(self.source, self.sink, self.counted.append, scope))


@asynccontextmanager
async def passing(*, stops=False):
    """A direction that is passed on; the poller's scope besides, where the test `stops` it."""
    streams = RelayStreams()
    async with ends() as (sender, source), ends() as (receiver, sink), trio.open_nursery() as nursery:
        polling = trio.CancelScope()

        async def poll(task_status):
            with polling:
                await streams.run(task_status=task_status)

        await nursery.start(poll)
        direction = Passing(sender, source, sink, receiver, streams)
        nursery.start_soon(direction.run, nursery.cancel_scope)
        await trio.testing.wait_all_tasks_blocked()
        yield (direction, polling) if stops else direction
        nursery.cancel_scope.cancel()


async def received(sock, length):
    """`length` bytes from a socket of the test."""
    got = b""
    while len(got) < length:
        await trio.lowlevel.wait_readable(sock)
        got += sock.recv(length - len(got))
    return got


@pytest.fixture
def no_turns(monkeypatch):
    """Fails where a connection's own task reads or writes."""

    async def fail(*_args):
        raise AssertionError("a task passes on")

    monkeypatch.setattr(trio.SocketStream, "receive_some", fail)
    monkeypatch.setattr(trio.SocketStream, "send_all", fail)


async def test_small_chunks_are_passed_without_the_task_of_the_connection(no_turns):
    async with passing() as direction:
        for number in range(20):
            call = b"call %02d" % number
            direction.sender.send(call)
            assert await received(direction.receiver, len(call)) == call
        direction.sender.send(b"x" * (CHUNK_BYTES - 1))
        assert await received(direction.receiver, CHUNK_BYTES - 1) == b"x" * (CHUNK_BYTES - 1)
        assert direction.counted == [7] * 20 + [CHUNK_BYTES - 1]


async def test_what_a_full_sink_does_not_take_follows_in_order():
    async with passing() as direction:
        direction.sink.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        content = os.urandom(50_000)
        async with trio.open_nursery() as nursery:

            async def send():
                for start in range(0, len(content), 5000):
                    await trio.lowlevel.wait_writable(direction.sender)
                    direction.sender.send(content[start : start + 5000])

            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            assert await received(direction.receiver, len(content)) == content
        direction.sender.send(b"small again")
        assert await received(direction.receiver, 11) == b"small again"
        await until(lambda: sum(direction.counted) == len(content) + 11)


async def test_the_end_of_the_source_ends_the_direction_and_no_other():
    async with passing() as direction:
        direction.sender.send(b"last")
        direction.sender.shutdown(socket.SHUT_WR)
        await until(lambda: direction.results)
        assert direction.results == [True]
        assert await received(direction.receiver, 4) == b"last"
        await direction.source.send_all(b"answer")
        assert await received(direction.sender, 6) == b"answer"


async def test_a_sink_that_is_gone_cancels_the_connection():
    async with passing() as direction:
        direction.receiver.close()
        direction.sender.send(b"to nobody")
        await until(lambda: direction.results)
        assert direction.results == [False]


async def test_a_source_that_is_reset_cancels_the_connection():
    streams = RelayStreams()
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as near:
        far, _ = listener.accept()
        far.setblocking(False)
        source = trio.SocketStream(trio.socket.from_stdlib_socket(far))
        async with source, ends() as (receiver, sink), trio.open_nursery() as polling:
            await polling.start(streams.run)
            async with trio.open_nursery() as nursery:
                direction = Passing(near, source, sink, receiver, streams)
                nursery.start_soon(direction.run, nursery.cancel_scope)
                await trio.testing.wait_all_tasks_blocked()
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                near.close()
            assert direction.results == [False]
            polling.cancel_scope.cancel()


async def test_after_the_poller_ends_the_task_goes_on():
    async with passing(stops=True) as (direction, polling):
        direction.sender.send(b"before")
        assert await received(direction.receiver, 6) == b"before"
        polling.cancel()
        await trio.testing.wait_all_tasks_blocked()
        direction.sender.send(b"after")
        assert await received(direction.receiver, 5) == b"after"
        await until(lambda: direction.counted == [6, 5])


async def test_a_cancelled_direction_leaves_nothing_behind():
    before = open_descriptors()
    async with passing() as direction:
        direction.sender.send(b"x")
        assert await received(direction.receiver, 1) == b"x"
    assert not open_descriptors() - before


async def test_a_descriptor_that_is_used_again_belongs_to_the_new_connection():
    """A connection may be closed while its task still sleeps, and its number may be given to the next one."""
    small = SmallChunks()
    old_task = trio.CancelScope()
    async with ends() as (receiver, sink), trio.open_nursery() as nursery:
        await nursery.start(small.run)

        async def pass_on(scope, source):
            with scope:
                await small.pass_on(source, sink, lambda _count: None)

        near, far = socket.socketpair()
        sender, next_far = socket.socketpair()
        old = trio.SocketStream(trio.socket.from_stdlib_socket(far))
        nursery.start_soon(pass_on, old_task, old)
        await trio.testing.wait_all_tasks_blocked()
        number = old.socket.fileno()
        old.socket.close()
        near.close()
        os.dup2(next_far.fileno(), number)
        next_far.close()
        async with trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=number))) as new:
            nursery.start_soon(pass_on, trio.CancelScope(), new)
            await trio.testing.wait_all_tasks_blocked()
            old_task.cancel()
            await trio.testing.wait_all_tasks_blocked()
            with sender:
                sender.send(b"to the new one")
                assert await received(receiver, 14) == b"to the new one"
            nursery.cancel_scope.cancel()


async def test_a_closed_source_is_refused():
    small = SmallChunks()
    async with ends() as (_, source), ends() as (_, sink), trio.open_nursery() as polling:
        await polling.start(small.run)
        await source.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await small.pass_on(source, sink, lambda _count: None)
        polling.cancel_scope.cancel()
