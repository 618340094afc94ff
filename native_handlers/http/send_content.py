"""Sends content: whole, one range, or several as multipart/byteranges; from memory, from a file, or from chunks.

Source: weed/server/volume_server_handlers_read.go writeResponseContent, common.go ProcessRangeRequest.
"""

from __future__ import annotations

import secrets
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from native_handlers.content.mime_types import mime_of_extension
from native_handlers.content.sniff import SNIFF_BYTES, sniff
from native_handlers.http.reply import text_error
from native_handlers.http_model.errors import BadRange
from native_handlers.http_model.go_numbers import parse_bool
from native_handlers.http_model.media_type import format_media_type
from native_handlers.http_model.message import FileBody, FileSlice, Response, StreamBody
from native_handlers.http_model.ranges import ByteRange, parse_ranges
from native_handlers.http_model.target import extension
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from native_handlers.http_model.headers import HeaderMap
    from native_handlers.http_model.message import Body, Request
    from native_handlers.http_model.query import Query

Piece = bytes | ByteRange
"""A piece of a body: literal bytes, or a range of the content."""


_JOINED_BYTES = 256 * 1024
"""A body of several parts up to this length is joined. Copying a longer one would keep other requests waiting."""
_OVERRIDES = {
    "response-cache-control": "Cache-Control",
    "response-content-disposition": "Content-Disposition",
    "response-content-encoding": "Content-Encoding",
    "response-content-language": "Content-Language",
    "response-content-type": "Content-Type",
    "response-expires": "Expires",
}
"""Response headers that a query may set by name, as in S3. Source: weed/server/common.go AdjustPassthroughHeaders."""
_OCTETS = b"application/octet-stream"
_CACHED_CHARS = 256
"""The longest file name whose Content-Disposition is cached. No stored name is longer, but names in paths and manifests
are."""


@dataclass(frozen=True, slots=True)
class OpenedBody:
    """A body ready to be sent. `head` is its first bytes, at most 512."""

    head: bytes
    body: Body


class Content(Protocol):
    """Content that can be sent in pieces."""

    @property
    def size_bytes(self) -> int: ...

    async def open(self, pieces: Sequence[Piece]) -> OpenedBody:
        """The body made of `pieces`.

        Raises:
            Exception: one of `failures.STORE_FAILURES` where a disk has to be read for the first bytes.
        """
        ...


@dataclass(frozen=True, slots=True)
class MemoryContent:
    """Content in memory."""

    data: bytes | memoryview

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    async def open(self, pieces: Sequence[Piece]) -> OpenedBody:
        parts = [self._part(piece) for piece in pieces]
        length = sum(map(len, parts))
        if len(parts) > 1 and length > _JOINED_BYTES:
            return OpenedBody(bytes(parts[0][:SNIFF_BYTES]), StreamBody(_gathered(parts), length))
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        return OpenedBody(bytes(body[:SNIFF_BYTES]), body)

    def _part(self, piece: Piece) -> bytes | memoryview:
        if isinstance(piece, bytes):
            return piece
        if piece.length == len(self.data):
            return self.data
        data = memoryview(self.data) if piece.length > _JOINED_BYTES else self.data
        return data[piece.start : piece.start + piece.length]


@dataclass(frozen=True, slots=True)
class FileContent:
    """Content in a file that stays open until the response is closed."""

    whole: FileSlice

    @property
    def size_bytes(self) -> int:
        return self.whole.length_bytes

    async def open(self, pieces: Sequence[Piece]) -> OpenedBody:
        parts = [self._part(piece) for piece in pieces]
        return OpenedBody(await _head_of(parts[0]), FileBody(parts))

    def _part(self, piece: Piece) -> bytes | FileSlice:
        if isinstance(piece, bytes):
            return piece
        return FileSlice(self.whole.source, self.whole.offset_bytes + piece.start, piece.length)


@dataclass(frozen=True, slots=True)
class Labels:
    """Name and type of content. Both are wire text and may be ""; an empty type is deduced."""

    filename: str
    mime: str

    @property
    def deduced_type(self) -> str:
        """The type that the name's extension implies, "" where it implies none."""
        return mime_of_extension(extension(self.filename))


def labels_of(filename: str, name: bytes, mime: bytes) -> Labels:
    """The labels of a needle with `name` and `mime`. `filename` is the name in the request, "" for none.

    The type application/octet-stream says nothing and counts as none.
    """
    shown = "" if mime.startswith(_OCTETS) else mime.decode("latin-1")
    return Labels(filename or name.decode("latin-1"), shown)


def disposition_of(filename: str, *, is_download: bool) -> str:
    """The Content-Disposition for a file name (wire text): inline, or attachment for a download."""
    kind = "attachment" if is_download else "inline"
    return _cached_disposition(filename, kind) if len(filename) <= _CACHED_CHARS else _disposition(filename, kind)


def _disposition(filename: str, kind: str) -> str:
    return format_media_type(kind, {"filename": filename})


_cached_disposition = lru_cache(maxsize=1024)(_disposition)


def _apply_overrides(headers: HeaderMap, query: Query) -> None:
    """Sets each header that the query names (without regard to case; the first value of each)."""
    seen: set[str] = set()
    for key, value in query.pairs:
        name = _OVERRIDES.get(key.lower())
        if name is not None and key not in seen:
            seen.add(key)
            headers.set(name, value)


async def send_content(
    request: Request, query: Query, headers: HeaderMap, content: Content, labels: Labels
) -> Response:
    """The answer to a GET or HEAD of `content`. Keeps `headers` and adds those of the content."""
    fields, mime = headers.fields, labels.mime or labels.deduced_type
    if mime:
        headers.set("Content-Type", mime)
    fields["Accept-Ranges"] = "bytes"
    if query.pairs:
        _apply_overrides(headers, query)
    if labels.filename and not fields.get("Content-Disposition"):
        is_download = bool(query.pairs) and parse_bool(query.get("dl"))
        fields["Content-Disposition"] = disposition_of(labels.filename, is_download=is_download)
    size = content.size_bytes
    if request.method == "HEAD":
        fields["Content-Length"] = str(size)
        return Response(200, headers)
    wanted = request.headers.get("Range") if "range" in request.headers.lower_names else None
    if not wanted:
        return await _send(headers, content, 200, [ByteRange(0, size)])
    try:
        ranges = parse_ranges(wanted, size)
    except BadRange as failure:
        return text_error(416, str(failure), headers)
    if ranges is None:
        return Response(200, headers)
    if len(ranges) == 1:
        fields["Content-Range"] = ranges[0].content_range(size)
        return await _send(headers, content, 206, ranges)
    return await _send(headers, content, 206, _byteranges(headers, ranges, mime, size))


async def _send(headers: HeaderMap, content: Content, status: int, pieces: Sequence[Piece]) -> Response:
    fields = headers.fields
    fields["Content-Length"] = str(sum([len(piece) if isinstance(piece, bytes) else piece.length for piece in pieces]))
    opened = await content.open(pieces)
    # The type of an encoded body is not guessed: the result would be the type of the encoding.
    if opened.head and "Content-Type" not in fields and not fields.get("Content-Encoding"):
        fields["Content-Type"] = sniff(opened.head)
    return Response(status, headers, opened.body)


def _byteranges(headers: HeaderMap, ranges: Sequence[ByteRange], mime: str, size_bytes: int) -> list[Piece]:
    boundary = secrets.token_hex(30)
    headers.set("Content-Type", f"multipart/byteranges; boundary={boundary}")
    pieces: list[Piece] = []
    for one in ranges:
        line_end = "\r\n" if pieces else ""
        head = (
            f"{line_end}--{boundary}\r\nContent-Range: {one.content_range(size_bytes)}\r\nContent-Type: {mime}\r\n\r\n"
        )
        pieces += [head.encode("latin-1"), one]
    pieces.append(f"\r\n--{boundary}--\r\n".encode())
    return pieces


async def _gathered(parts: Sequence[bytes | memoryview]) -> AsyncGenerator[bytes, None]:
    """Yields all of `parts` in pieces of about `_JOINED_BYTES`."""
    gathered = bytearray()
    for part in parts:
        for at in range(0, len(part), _JOINED_BYTES):
            gathered += part[at : at + _JOINED_BYTES]
            if len(gathered) >= _JOINED_BYTES:
                yield bytes(gathered)
                gathered.clear()
    yield bytes(gathered)


async def _head_of(part: bytes | FileSlice) -> bytes:
    if isinstance(part, bytes):
        return part[:SNIFF_BYTES]
    length = min(SNIFF_BYTES, part.length_bytes)
    head = bytearray(length)
    if part.read_cached_into(memoryview(head), 0):
        return bytes(head)
    return await part.read(length, 0)
