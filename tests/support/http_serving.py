"""Shared by the HTTP tests: a server connection over memory streams, h11 as the client, a scripted backend."""

from __future__ import annotations

import os
import socket
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from functools import partial

import h11
import trio
from trio.testing import memory_stream_pair

from native_handlers.http_model.headers import Headers
from native_handlers.http_model.message import Listener, Request, Response
from supervisor.net.http_client import HttpPool, PoolLimits
from supervisor.net.http_connection import Client, HttpConnection
from supervisor.net.http_limits import HttpLimits
from supervisor.net.http_server import serve_http
from supervisor.net.idle_poller import NO_LONG_REQUESTS, IdlePoller
from supervisor.net.listeners import open_listener
from supervisor.net.timeouts import ConnectionTimeouts, TimeoutLimits
from supervisor.net.transport import SocketTransport, StreamTransport
from support.waiting import LIMIT_S

LIMITS = HttpLimits()
SOCKET_BUFFER_BYTES = 16 * 1024
PAGE_BYTES = 4096


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    trailers: dict[str, str] = field(default_factory=dict)
    interim: list[int] = field(default_factory=list)


class PagedSource:
    """A file on a disk of which memory holds some pages. Reading brings pages into memory, unless `forgets`."""

    def __init__(self, data: bytes, cached_pages=(), *, forgets: bool = False, sends: bool = False) -> None:
        self.data = data
        self.sends = sends
        self.sent_straight = 0
        self.cached_pages = set(cached_pages)
        self.reads: list[tuple[int, int]] = []
        """(offset, length) of each read that waits for the disk."""
        self._forgets = forgets

    @staticmethod
    def pages(offset_bytes: int, length_bytes: int) -> range:
        return range(offset_bytes // PAGE_BYTES, (offset_bytes + length_bytes - 1) // PAGE_BYTES + 1)

    def read_cached_into(self, buffer: memoryview, offset_bytes: int) -> bool:
        if not self.cached_pages.issuperset(self.pages(offset_bytes, len(buffer))):
            buffer[:] = bytes(len(buffer))
            return False
        some = self.data[offset_bytes : offset_bytes + len(buffer)]
        buffer[: len(some)] = some
        return len(some) == len(buffer)

    def send_cached(self, socket_fd: int, length_bytes: int, offset_bytes: int) -> int | None:
        """Sends a part, as a kernel may."""
        if not self.sends or not self.cached_pages.issuperset(self.pages(offset_bytes, length_bytes)):
            return None
        self.sent_straight += 1
        return os.write(socket_fd, self.data[offset_bytes : offset_bytes + min(length_bytes, 50_000)])

    async def read(self, length_bytes: int, offset_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        self.reads.append((offset_bytes, length_bytes))
        if not self._forgets:
            self.cached_pages.update(self.pages(offset_bytes, length_bytes))
        return self.data[offset_bytes : offset_bytes + length_bytes]


class RawClient:
    """A client on the raw stream; reads answers through h11."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._left = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def ask(self, raw: bytes) -> Answer:
        await self.send(raw)
        return await self.answer(raw.split(b" ")[0])

    async def answer(self, method: bytes = b"GET") -> Answer:
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        parser.send(h11.EndOfMessage())
        if self._left:
            parser.receive_data(self._left)
        answer = Answer(0, {}, b"")
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(await self.stream.receive_some())
            elif isinstance(event, h11.InformationalResponse):
                answer.interim.append(event.status_code)
            elif isinstance(event, h11.Response):
                answer.status = event.status_code
                answer.headers = {n.decode(): v.decode("latin-1") for n, v in event.headers}
            elif isinstance(event, h11.Data):
                answer.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                answer.trailers = {n.decode(): v.decode() for n, v in event.headers}
                self._left = parser.trailing_data[0]
                return answer
            else:
                raise AssertionError(f"no answer but {event}")

    async def read_to_end(self) -> bytes:
        """Everything up to the server's close."""
        pieces = [self._left]
        self._left = b""
        while data := await self.stream.receive_some():
            pieces.append(bytes(data))
        return b"".join(pieces)

    async def is_closed(self) -> bool:
        return await self.read_to_end() == b""


@asynccontextmanager
async def serving(handle, limits: HttpLimits = LIMITS, listener: Listener = Listener.ADMIN, fast_path=None):
    """A client's connection to `handle`; the server's side is closed at the end. Yields (client, connection)."""
    ours, theirs = memory_stream_pair()
    transport = StreamTransport(ours, ConnectionTimeouts(limits.timeouts))
    connection = HttpConnection(transport, Client("10.0.0.1", 1234, listener), handle, limits, fast_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.serve)
        yield RawClient(theirs), connection
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving_a_socket(handle, limits: HttpLimits = LIMITS, listener: Listener = Listener.ADMIN, fast_path=None):
    """The same over a real socket, whose buffers hold little."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    with closing(IdlePoller()) as poller:
        transport = SocketTransport(ours, ConnectionTimeouts(limits.timeouts), poller)
        connection = HttpConnection(transport, Client("10.0.0.1", 1234, listener), handle, limits, fast_path)
        async with trio.open_nursery() as nursery, trio.SocketStream(trio.socket.from_stdlib_socket(theirs)) as stream:
            nursery.start_soon(poller.run)
            nursery.start_soon(connection.serve)
            yield RawClient(stream), connection
            nursery.cancel_scope.cancel()


def limits(**changes) -> HttpLimits:
    return replace(LIMITS, **changes)


async def echo(request: Request) -> Response:
    """Answers with method, target and body."""
    body = b""
    while data := await request.body.receive_some():
        body += data
    return Response(200, Headers([("X-Saw", f"{request.method} {request.target}")]), body)


class Backend:
    """A server behind the forwarder, scripted: each connection runs `script(stream)`. Counts connections."""

    def __init__(self, nursery: trio.Nursery, script) -> None:
        self._nursery = nursery
        self._script = script
        self.connections = 0
        self.is_refusing = False

    async def connect(self, address):
        from supervisor.net.http_client import CannotConnect  # noqa: PLC0415

        if self.is_refusing:
            raise CannotConnect("connection refused", is_refused=True)
        self.connections += 1
        ours, theirs = memory_stream_pair()
        self._nursery.start_soon(self._script, theirs)
        return StreamTransport(ours, ConnectionTimeouts(TimeoutLimits()))

    def pool(self, **changes) -> HttpPool:
        return HttpPool(replace(PoolLimits(), **changes), connect=self.connect)


async def read_head(stream) -> tuple[bytes, bytes]:
    """A request head as raw bytes, and the bytes behind it; b"" for both when the client closed instead."""
    data = b""
    while b"\r\n\r\n" not in data:
        some = await stream.receive_some()
        if not some:
            assert not data, f"closed after {data!r}"
            return b"", b""
        data += some
    head, _, rest = data.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", rest


async def read_exactly(stream, count: int, data: bytes = b"") -> bytes:
    while len(data) < count:
        some = await stream.receive_some()
        assert some, f"closed after {len(data)} of {count} bytes"
        data += some
    return data


@asynccontextmanager
async def serving_on(  # noqa: PLR0913  the seams of `serve_http`
    handle,
    *,
    tls=None,
    seats=None,
    turn_away=None,
    fast_path=None,
    forward=None,
    long_requests=NO_LONG_REQUESTS,
    **changes,
):
    """A server on a free loopback port. Yields (port, accept scope)."""
    listener = open_listener("127.0.0.1", 0, tls=tls)
    seams = {"seats": seats, "turn_away": turn_away, "fast_path": fast_path, "forward": forward}
    serve = partial(serve_http, limits=limits(**changes), long_requests=long_requests, **seams)
    async with trio.open_nursery() as nursery:
        scope = await nursery.start(serve, [listener], handle)
        with trio.fail_after(LIMIT_S):
            yield listener.port, scope
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(port, context=None):
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    if context is not None:
        stream = trio.SSLStream(stream, context, server_hostname="127.0.0.1", https_compatible=True)
    async with stream:
        yield RawClient(stream)


async def ordinary_answer(handle, raw: bytes) -> bytes:
    """All that a client gets for the bytes `raw` on a connection without fast paths."""
    ours, theirs = memory_stream_pair()
    transport = StreamTransport(ours, ConnectionTimeouts(LIMITS.timeouts))
    connection = HttpConnection(transport, Client("10.0.0.1", 1, Listener.ADMIN), handle, LIMITS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.serve)
        await theirs.send_all(raw)
        await theirs.send_eof()
        pieces = []
        while data := await theirs.receive_some():
            pieces.append(bytes(data))
        return b"".join(pieces)
