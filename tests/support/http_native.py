"""Requests without a network, and fakes for handlers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from native_handlers.http.context import HttpContext, LookupFailed, NodeDetails
from native_handlers.http.settings import HttpSettings
from native_handlers.http_model.go_json import EncodedList, encode_item
from native_handlers.http_model.headers import Headers
from native_handlers.http_model.message import (
    BodyError,
    FileBody,
    FileSlice,
    Listener,
    Request,
    RequestBody,
    StreamBody,
)
from native_handlers.http_model.volume_servers import VolumeServerResponse
from supervisor.net.http_send import release
from supervisor.routing.native import NATIVE_HTTP

SETTINGS = HttpSettings(version="30GB 4.44", self_url="127.0.0.1:8080", file_size_limit_bytes=1 << 20)
REQUEST_ID = "18EA8ACC380FBF5585995737"


class MemoryBody(RequestBody):
    """A request body from memory, in chunks; with `breaks` the client vanishes after the last chunk."""

    def __init__(self, *chunks: bytes, is_chunked: bool = False, breaks: bool = False) -> None:
        self._chunks = [chunk for chunk in chunks if chunk]
        self.length_bytes = None if is_chunked else sum(map(len, chunks))
        self._breaks = breaks

    @property
    def left_bytes(self) -> int:
        return sum(map(len, self._chunks))

    async def receive_some(self) -> bytes:
        if self._chunks:
            return self._chunks.pop(0)
        if self._breaks:
            raise BodyError("the client went away")
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
        client_host="127.0.0.1",
        client_port=40000,
        request_id=REQUEST_ID,
    )


@dataclass
class FakeNode:
    statuses: list = field(default_factory=list)
    disk_rows: list = field(default_factory=list)
    finding_rows: list = field(default_factory=list)
    node_details: NodeDetails = field(default_factory=lambda: NodeDetails(started_at_s=0))
    is_stopping: bool = False
    is_heartbeating: bool = True

    async def volumes(self):
        return self.statuses

    async def volume_rows(self, *, is_pretty):
        rows = [(row["Id"], encode_item(row, is_pretty=is_pretty)) for row in self.statuses]
        return sorted(rows, key=lambda pair: pair[0])

    async def volume_list(self, *, is_pretty):
        rows = await self.volume_rows(is_pretty=is_pretty)
        return EncodedList.of([text for _, text in rows], is_pretty=is_pretty)

    async def aside(self, work):
        return work()

    async def disk_statuses(self):
        return self.disk_rows

    async def findings(self):
        return self.finding_rows

    async def details(self):
        return self.node_details


def make_context(**changes):
    return HttpContext(**{"settings": SETTINGS, "node": FakeNode(), **changes})


@dataclass
class FetchedAnswer:
    status: int
    headers: Headers
    body: bytes
    breaks_off: bool = False


async def fetch(route, context=None, **request):
    """Calls the handler of `route` and reads its answer to the end, as a connection driver does."""
    response = await NATIVE_HTTP[route](context or make_context(), make_request(**request))
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
    return FetchedAnswer(response.status, response.headers, body, breaks_off)


async def _read_part(part):
    return await part.read(part.length_bytes, 0) if isinstance(part, FileSlice) else bytes(part)


@dataclass
class FakeLookup:
    """Holders by volume id; `fresh` replaces them on a refresh."""

    holders: dict = field(default_factory=dict)
    fresh: dict = field(default_factory=dict)
    refreshes: int = 0

    async def locations(self, vid, *, refresh=False):
        self.refreshes += refresh
        if refresh:
            self.holders = {**self.holders, **self.fresh}
        if vid not in self.holders:
            raise LookupFailed(vid, f"volume {vid} not found")
        return list(self.holders[vid])


@dataclass
class FakeVolumeServers:
    """Answers by function; keeps the requests."""

    answer: object
    requests: list = field(default_factory=list)
    closed: int = 0

    async def request(self, method, url_host_port, target, headers, body):
        self.requests.append((method, url_host_port, target, headers, body))
        status, fields, body = await self.answer(method, url_host_port, target, headers, body)
        return VolumeServerResponse(status, Headers(fields), self._chunks(body))

    async def _chunks(self, body):
        try:
            for piece in body if isinstance(body, list) else [body]:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            self.closed += 1


def manifest_of(*chunks, **fields):
    entries = [{"fid": fid, "offset": offset, "size": size} for fid, offset, size in chunks]
    return json.dumps({"name": "big.txt", "mime": "text/x-big", "size": 0, "chunks": entries, **fields}).encode()


def multipart(*parts, boundary="x"):
    """A multipart body; the parts are given as (header lines, content)."""
    body = b""
    for lines, content in parts:
        body += b"--" + boundary.encode() + b"\r\n" + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"
        body += content + b"\r\n"
    return body + b"--" + boundary.encode() + b"--\r\n"


def file_part(content, name="h.txt", *lines):
    """A part of `multipart` that holds a file."""
    return ((f'Content-Disposition: form-data; name="file"; filename="{name}"', *lines), content)


async def post(context, target, *parts, headers=()):
    """An upload as a form of these parts."""
    headers = {"Content-Type": "multipart/form-data; boundary=x", **dict(headers)}
    return await fetch("http.write", context, method="POST", target=target, headers=headers, body=multipart(*parts))


async def put(context, target, body, headers=()):
    return await fetch("http.write", context, method="PUT", target=target, headers=headers, body=body)


async def get(context, target, headers=(), method="GET"):
    return await fetch("http.read", context, method=method, target=target, headers=headers)


async def delete(context, target):
    return await fetch("http.delete", context, method="DELETE", target=target)


def always(status, body=b"{}", fields=()):
    """An answer of `FakeVolumeServers` that is always the same."""

    async def answer(*_):
        return status, fields, body

    return answer
