"""Many tiny chunks or requests of one client: chunks are joined, and other tasks get turns in between."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio
from support.http_serving import connected, serving, serving_on
from support.waiting import until
from trio.testing import memory_stream_pair

from native_handlers.http_model.headers import Headers
from native_handlers.http_model.message import Response
from supervisor.net.http_body import HttpChannel, ServerBody
from supervisor.net.http_client_connection import ClientHttpConnection, HttpConnectionBroken
from supervisor.net.http_limits import HttpLimits
from supervisor.net.timeouts import ConnectionTimeouts
from supervisor.net.transport import RECEIVE_BYTES, StreamTransport
from supervisor.wire.http1 import ClientConnection, ServerConnection
from supervisor.wire.http1_chunks import MAX_CHUNKS_AT_ONCE
from supervisor.wire.http1_events import RequestHead

CHUNK = b"1\r\na\r\n"
CHUNKS = RECEIVE_BYTES // len(CHUNK) // MAX_CHUNKS_AT_ONCE * MAX_CHUNKS_AT_ONCE
"""The number of chunks in one receive."""
PIECES = CHUNKS // MAX_CHUNKS_AT_ONCE
END = b"0\r\n\r\n"
REQUEST = b"PUT /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Turns:
    """Counts how often another task runs."""

    def __init__(self) -> None:
        self.count = 0

    async def run(self) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            self.count += 1


@asynccontextmanager
async def another_task():
    turns = Turns()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        yield turns
        nursery.cancel_scope.cancel()


async def read_all(receive) -> list[bytes]:
    pieces = []
    while piece := await receive():
        pieces.append(piece)
    return pieces


def check(pieces: list[bytes], turns: Turns) -> None:
    assert b"".join(pieces) == b"a" * CHUNKS
    assert len(pieces) == PIECES
    # One turn between two pieces; the order of two tasks within a turn of the loop is random.
    assert turns.count >= PIECES - 2


async def test_a_request_lets_other_tasks_run_between_the_pieces_of_one_receive():
    codec = ServerConnection()
    codec.receive_data(REQUEST)
    head = codec.next_event()
    assert isinstance(head, RequestHead)
    codec.receive_data(CHUNK * CHUNKS + END)
    ours, _ = memory_stream_pair()
    body = ServerBody(HttpChannel(codec, StreamTransport(ours, ConnectionTimeouts(HttpLimits().timeouts))), head)
    async with another_task() as turns:
        check(await read_all(body.receive_some), turns)


async def test_an_answer_lets_other_tasks_run_between_the_pieces_of_one_receive():
    ours, theirs = memory_stream_pair()
    connection = ClientHttpConnection(
        StreamTransport(ours, ConnectionTimeouts(HttpLimits().timeouts)), ClientConnection()
    )
    await connection.send_request(RequestHead("GET", "/", Headers([("Host", "x")])), b"")
    await theirs.send_all(ANSWER)
    assert (await connection.receive_head()).status == 200
    await theirs.send_all(CHUNK * CHUNKS + END)
    async with another_task() as turns:
        check(await read_all(connection.receive_data), turns)


async def test_a_turn_that_is_cancelled_loses_nothing():
    codec = ServerConnection()
    codec.receive_data(REQUEST + CHUNK * CHUNKS + END)
    head = codec.next_event()
    assert isinstance(head, RequestHead)
    ours, _ = memory_stream_pair()
    body = ServerBody(HttpChannel(codec, StreamTransport(ours, ConnectionTimeouts(HttpLimits().timeouts))), head)
    content = await body.receive_some()
    with trio.CancelScope() as scope:
        scope.cancel()
        await body.receive_some()
    assert scope.cancelled_caught
    content += b"".join(await read_all(body.receive_some))
    assert content == b"a" * CHUNKS


async def count(request):
    return Response(200, body=str(len(b"".join(await read_all(request.body.receive_some)))).encode())


async def test_the_next_request_is_not_taken_for_the_body():
    async with serving(count) as (client, _), trio.open_nursery() as nursery:
        nursery.start_soon(client.send, (REQUEST + CHUNK * CHUNKS + END) * 2)
        for _ in range(2):
            assert (await client.answer(b"PUT")).body == str(CHUNKS).encode()


async def test_framing_in_excess_is_400():
    async with serving(count) as (client, _), trio.open_nursery() as nursery:
        nursery.start_soon(client.send, REQUEST + (b"1;" + b"x" * 200 + b"\r\na\r\n") * 200)
        answer = await client.answer(b"PUT")
        assert answer.status == 400
        assert b"too much framing" in answer.body


async def test_an_answer_with_framing_in_excess_is_broken():
    ours, theirs = memory_stream_pair()
    connection = ClientHttpConnection(
        StreamTransport(ours, ConnectionTimeouts(HttpLimits().timeouts)), ClientConnection()
    )
    await connection.send_request(RequestHead("GET", "/", Headers([("Host", "x")])), b"")
    await theirs.send_all(ANSWER + (b"1;" + b"x" * 200 + b"\r\na\r\n") * 200)
    await connection.receive_head()
    with pytest.raises(HttpConnectionBroken, match="too much framing"):
        await read_all(connection.receive_data)


async def test_other_tasks_run_between_requests_that_are_sent_at_once():
    requests, seen = 100, []

    async with another_task() as turns:

        async def handle(_request):
            seen.append(turns.count)
            return Response(200, body=b"a")

        async with serving_on(handle) as (port, _), connected(port) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * requests)
            await until(lambda: len(seen) == requests)
    # One turn between two requests; the first request may arrive alone.
    assert seen[-1] - seen[1] >= requests - 4
