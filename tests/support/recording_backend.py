"""A backend behind a front on real sockets: it records each request as it came, and answers with what a test says."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from native_handlers.http.context import HttpContext
from native_handlers.http.settings import HttpSettings
from supervisor.fast_path.fast_path import FastPath
from supervisor.fast_path.forwards import FastPathForwards
from supervisor.fast_path.long_requests import LONG_REQUESTS
from supervisor.gateway.guard import Guard
from supervisor.gateway.http import HttpGateway
from supervisor.net.http_client import Address, HttpPool, PoolLimits
from supervisor.net.http_forward import Forwarder
from supervisor.routing.live import LiveTable
from supervisor.routing.table import table_forwarding_all
from support.http_serving import read_exactly, read_head, serving_on
from support.security import security
from support.waiting import LIMIT_S

SETTINGS = HttpSettings(version="30GB 4.44", self_url="127.0.0.1:8080", file_size_limit_bytes=1 << 20)
WARM = b"GET /3,01637037d6 HTTP/1.1\r\nHost: warm\r\n\r\n"
PLAIN_ANSWER = b"HTTP/1.1 200 OK\r\nDate: then\r\nContent-Length: 4\r\n\r\nwarm"
CLOSE = b"<close>"
"""At the end of a scripted answer: the backend closes the connection after it."""
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_CHUNKED = re.compile(rb"(?i)\r\ntransfer-encoding: *chunked")


@dataclass
class Recorded:
    """What a backend got, and what it answers, in order; `PLAIN_ANSWER` when the script has ended."""

    answers: list[bytes] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0

    async def serve(self, stream) -> None:
        """Serves one connection."""
        self.connections += 1
        async with stream:
            try:
                while await self.serve_one(stream):
                    pass
            except trio.BrokenResourceError:
                return  # the front has closed the connection, as it may

    async def serve_one(self, stream) -> bool:
        """Serves one request. Returns whether the connection stays open."""
        head, rest = await read_head(stream)
        if not head:
            return False
        body = await _read_body(stream, head, rest)
        self.requests.append(head + body)
        answer = self.answers.pop(0) if self.answers else PLAIN_ANSWER
        await stream.send_all(answer.removesuffix(CLOSE))
        return not answer.endswith(CLOSE)


async def _read_body(stream, head: bytes, rest: bytes) -> bytes:
    if b"100-continue" in head:
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
    if _CHUNKED.search(head):
        while not rest.endswith(b"0\r\n\r\n"):
            rest += await read_exactly(stream, 1)
        return rest
    length = _LENGTH.search(head)
    return await read_exactly(stream, int(length[1]), rest) if length else rest


@dataclass
class Front:
    """A front that forwards everything: its port, its parts, how many exchanges the fast path has begun, and the scope
    of its accepting.
    """

    port: int
    gateway: HttpGateway
    pool: HttpPool
    begun: int = 0
    accepting: trio.CancelScope | None = None


@asynccontextmanager
async def front_of(backend, *, is_fast, reads=True, rules=None, authority=None, table=None, **changes):
    """A front before `backend` (its `serve` gets each connection), with the fast path or without.

    `reads`: the fast path of reads is there too, as where a table makes any route native.
    """
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, backend.serve, [listener])
        pool = HttpPool(PoolLimits())
        address = Address("127.0.0.1", listener.socket.getsockname()[1])
        forwarder = Forwarder(pool, lambda _: address)
        context = HttpContext(settings=SETTINGS, node=None)
        gateway = HttpGateway(
            table or LiveTable(table_forwarding_all()),
            {},
            context,
            forwarder,
            rules or Guard(security()),
            authority=authority,
        )
        front = Front(0, gateway, pool)
        forwards = FastPathForwards(gateway, forwarder, authority)

        def begin(client, data):
            forwarding = forwards.begin(client, data)
            front.begun += forwarding is not None
            return forwarding

        fast_path = FastPath(context, gateway).answer if reads else None
        with trio.fail_after(LIMIT_S):
            async with serving_on(
                gateway.handle,
                fast_path=fast_path,
                forward=begin if is_fast else None,
                long_requests=LONG_REQUESTS,
                **changes,
            ) as (front.port, front.accepting):
                try:
                    yield front
                finally:
                    await pool.drop_idle()
        nursery.cancel_scope.cancel()
