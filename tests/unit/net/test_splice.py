"""Large streams through the byte relay: splicing loses and reorders nothing, and closes and resets are as on the
ordinary path.
"""

from __future__ import annotations

import hashlib
import os
import socket
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from support.descriptors import open_descriptors
from support.waiting import LIMIT_S as DEADLINE_S
from support.waiting import until

from supervisor.net import relay_streams
from supervisor.net import splice as splice_module
from supervisor.net.relay_streams import RelayStreams
from supervisor.net.splice import PipePool, splice

BLOCK = os.urandom(1 << 20)


@pytest.fixture(autouse=True)
async def deadline():
    with trio.fail_after(DEADLINE_S):
        yield


@asynccontextmanager
async def connection():
    """Both ends of a TCP connection."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        near = await trio.open_tcp_stream(*listener.socket.getsockname())
        async with near, await listener.accept() as far:
            yield near, far


@pytest.fixture(params=["small chunks polled", "all by tasks"])
def relayed(request):
    return partial(_relayed, is_polled=request.param == "small chunks polled")


@asynccontextmanager
async def _relayed(pipes=None, *, is_polled):
    """(sender, receiver, pipes), with the relay's inner loop between them. `done` says how the loop ended."""
    streams = RelayStreams(pipes)
    async with connection() as (sender, source), connection() as (sink, receiver), trio.open_nursery() as nursery:
        done = []
        passed = []
        ended = trio.Event()

        async def run():
            done.append(await streams.pass_one_way(source, sink, passed.append, nursery.cancel_scope))
            await sink.send_eof()
            assert not done[0] or sum(passed) > 0
            ended.set()

        if is_polled:
            await nursery.start(streams.run)
        nursery.start_soon(run)
        yield sender, receiver, (done, ended)
        nursery.cancel_scope.cancel()


async def send(sender, size_mib):
    digest = hashlib.sha256()
    for number in range(size_mib):
        block = number.to_bytes(8, "big") + BLOCK[8:]
        digest.update(block)
        await sender.send_all(block)
    return digest.hexdigest()


async def receive(receiver):
    digest = hashlib.sha256()
    async for chunk in receiver:
        digest.update(chunk)
    return digest.hexdigest()


@pytest.fixture
def bulk_calls(monkeypatch):
    """The result of each call of `splice`."""
    calls = []

    async def counting(source, sink, pipes, count_passed):
        ended = await splice(source, sink, pipes, count_passed)
        calls.append(ended)
        return ended

    monkeypatch.setattr(relay_streams, "splice", counting)
    return calls


@pytest.mark.slow
async def test_a_large_stream_arrives_whole_and_its_end_does(relayed, bulk_calls):
    """Slow: sends 64 MiB."""
    async with relayed() as (sender, receiver, (done, ended)), trio.open_nursery() as nursery:
        digests = []

        async def sending():
            digests.append(await send(sender, 64))
            await sender.send_eof()

        nursery.start_soon(sending)
        assert await receive(receiver) == (await until(lambda: digests, "the sender's digest"))[0]
        await ended.wait()
        assert done == [True]
    assert bulk_calls[-1] is True, "it went through the pipe to its end"


@pytest.mark.parametrize("hindrance", ["none left", "no descriptors"])
async def test_without_a_pipe_it_goes_the_ordinary_way(relayed, bulk_calls, monkeypatch, hindrance):
    if hindrance == "no descriptors":

        def fail(_flags):
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(os, "pipe2", fail)
    pipes = PipePool(0 if hindrance == "none left" else 8)
    async with relayed(pipes) as (sender, receiver, _), trio.open_nursery() as nursery:
        digests = []

        async def sending():
            digests.append(await send(sender, 16))
            await sender.send_eof()

        nursery.start_soon(sending)
        assert await receive(receiver) == (await until(lambda: digests, "the sender's digest"))[0]
    assert not any(bulk_calls)


async def test_a_quiet_stream_gives_its_pipe_back(monkeypatch):
    monkeypatch.setattr(splice_module, "QUIET_S", 0.0)
    pipes = PipePool(1)
    before = open_descriptors()
    async with connection() as (sender, source), connection() as (sink, receiver):
        await sender.send_all(b"x" * 1000)
        passed = []
        assert await splice(source, sink, pipes, passed.append) is False
        assert sum(passed) == 1000
        assert await receiver.receive_some(2000) == b"x" * 1000
        with pipes.borrowed() as pipe:
            assert pipe is not None, "it is back"
            with pipes.borrowed() as another:
                assert another is None
    assert not open_descriptors() - before


@pytest.mark.slow
async def test_a_slow_reader_slows_the_sender(relayed):
    """Slow: the sender sends for half a second."""
    async with relayed() as (sender, receiver, _):
        sent = 0
        with trio.move_on_after(0.5) as waiting:
            while sent < 256:
                await sender.send_all(BLOCK)
                sent += 1
        assert waiting.cancelled_caught, "what nobody reads piles up nowhere"
        assert await receiver.receive_some(8) == BLOCK[:8]


@pytest.mark.parametrize("side", ["source", "sink"])
async def test_a_broken_side_breaks_the_turn(side):
    async with connection() as (sender, source), connection() as (sink, receiver):
        broken = sender if side == "source" else receiver
        await sender.send_all(b"x" * 100_000)
        if side == "source":
            await source.receive_some(1)
        broken.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        broken.socket.close()

        async def go_on():
            while True:
                await splice(source, sink, PipePool(), lambda _count: None)
                await sender.send_all(b"more")

        with pytest.raises(trio.BrokenResourceError):
            await go_on()


async def test_cancelling_gives_everything_back():
    before = open_descriptors()
    async with connection() as (sender, source), connection() as (sink, _receiver):
        await sender.send_all(b"x" * 100_000)
        with trio.move_on_after(0.05):
            await splice(source, sink, PipePool(), lambda _count: None)
    assert not open_descriptors() - before
