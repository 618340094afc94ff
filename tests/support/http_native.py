"""Requests without a network, and fakes of what handlers are given."""

from __future__ import annotations

from dataclasses import dataclass, field

from native_handlers.http.context import HttpContext, HttpSettings, NodeDetails
from native_handlers.http.handlers import HTTP_HANDLERS
from native_handlers.http.headers import Headers
from native_handlers.http.message import BodyError, FileBody, FileSlice, Listener, Request, StreamBody
from supervisor.net.http_send import release

SETTINGS = HttpSettings(version="30GB 4.44", self_url="127.0.0.1:8080", file_size_limit_bytes=1 << 20)
REQUEST_ID = "18EA8ACC380FBF5585995737"


class MemoryBody:
    """A request body from memory, in chunks; `breaks` makes the peer vanish after the last of them."""

    def __init__(self, *chunks: bytes, is_chunked: bool = False, breaks: bool = False) -> None:
        self._chunks = [chunk for chunk in chunks if chunk]
        self._length = None if is_chunked else sum(map(len, chunks))
        self._breaks = breaks

    @property
    def length_bytes(self) -> int | None:
        return self._length

    @property
    def left_bytes(self) -> int:
        return sum(map(len, self._chunks))

    async def receive_some(self) -> bytes:
        if self._chunks:
            return self._chunks.pop(0)
        if self._breaks:
            raise BodyError("peer went away")
        return b""

    async def receive_into(self, buffer):
        piece = await self.receive_some()
        count = min(len(piece), len(buffer))
        buffer[:count] = piece[:count]
        if piece[count:]:
            self._chunks.insert(0, piece[count:])
        return count


def make_request(method="GET", target="/", headers=(), body=b"", listener=Listener.ADMIN):
    pairs = headers.items() if isinstance(headers, dict) else headers
    if isinstance(body, bytes):
        body = MemoryBody(body)
    return Request(
        method=method,
        target=target,
        headers=Headers(pairs),
        body=body,
        listener=listener,
        peer_host="127.0.0.1",
        peer_port=40000,
        request_id=REQUEST_ID,
    )


@dataclass
class FakeNode:
    volume_rows: list = field(default_factory=list)
    disk_rows: list = field(default_factory=list)
    finding_rows: list = field(default_factory=list)
    node_details: NodeDetails = field(default_factory=lambda: NodeDetails(started_at_s=0))
    is_stopping: bool = False
    is_heartbeating: bool = True

    async def volumes(self):
        return self.volume_rows

    async def disk_statuses(self):
        return self.disk_rows

    async def findings(self):
        return self.finding_rows

    async def details(self):
        return self.node_details


def make_context(**changes):
    return HttpContext(**{"settings": SETTINGS, "node": FakeNode(), **changes})


@dataclass
class Answer:
    status: int
    headers: Headers
    body: bytes
    breaks_off: bool = False


async def fetch(route, context=None, **request):
    """Calls the handler of `route` and reads its answer to the end, as a connection driver does."""
    response = await HTTP_HANDLERS[route](context or make_context(), make_request(**request))
    body, breaks_off = b"", False
    try:
        if isinstance(response.body, StreamBody):
            try:
                async for chunk in response.body.chunks:
                    body += chunk
            except Exception:  # noqa: BLE001  whatever ends the stream, the client sees it break off
                breaks_off = True
        elif isinstance(response.body, FileBody):
            body = b"".join([await _read_part(part) for part in response.body.parts])
        else:
            body = bytes(response.body)
    finally:
        await release(response)
    return Answer(response.status, response.headers, body, breaks_off)


async def _read_part(part):
    return await part.read(part.length_bytes, 0) if isinstance(part, FileSlice) else bytes(part)
