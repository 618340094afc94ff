"""Sending content: whole, one range, or several as multipart/byteranges, from memory, from a file, or from chunks.

Source: weed/server/volume_server_handlers_read.go writeResponseContent, common.go ProcessRangeRequest.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from native_handlers.http.disposition import apply_overrides, set_disposition
from native_handlers.http.errors import BadRange
from native_handlers.http.message import FileBody, FileSlice, Response
from native_handlers.http.mime_types import mime_of_extension
from native_handlers.http.paths import extension
from native_handlers.http.ranges import ByteRange, parse_ranges
from native_handlers.http.reply import text_error
from native_handlers.http.sniff import SNIFF_BYTES, sniff

if TYPE_CHECKING:
    from collections.abc import Sequence

    from native_handlers.http.header_map import HeaderMap
    from native_handlers.http.message import Body, Request
    from native_handlers.http.query import Query

Piece = bytes | ByteRange
"""A piece of a body to be: literal bytes, or a range of the content."""


_OCTETS = b"application/octet-stream"


@dataclass(frozen=True, slots=True)
class OpenedBody:
    """A body ready to be sent. `head` is how it begins, at most 512 bytes."""

    head: bytes
    body: Body


class Content(Protocol):
    """Something to be sent in pieces."""

    @property
    def size_bytes(self) -> int: ...

    async def open(self, pieces: Sequence[Piece]) -> OpenedBody:
        """The body made of `pieces`.

        Raises:
            Exception: one of `failures.STORE_FAILURES` where a disk has to be read for its head.
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
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        return OpenedBody(bytes(body[:SNIFF_BYTES]), body)

    def _part(self, piece: Piece) -> bytes | memoryview:
        if isinstance(piece, bytes):
            return piece
        if piece.length == len(self.data):
            return self.data
        return self.data[piece.start : piece.start + piece.length]


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
    """What content is called. Both are wire text and may be ""; a type of "" is found out."""

    filename: str
    mime: str

    @property
    def content_type(self) -> str:
        """The type that these say, "" when the content has to be looked at."""
        return self.mime or mime_of_extension(extension(self.filename))


def labels_of(filename: str, name: bytes, mime: bytes) -> Labels:
    """What a needle with `name` and `mime` is called; `filename` is what the request calls it, "" for nothing.

    The one type that says nothing counts as none.
    """
    shown = "" if mime.startswith(_OCTETS) else mime.decode("latin-1")
    return Labels(filename or name.decode("latin-1"), shown)


async def send_content(
    request: Request, query: Query, headers: HeaderMap, content: Content, labels: Labels
) -> Response:
    """The answer to a GET or HEAD of `content`; `headers` so far are kept, those of the content are added."""
    mime = labels.content_type
    if mime:
        headers.set("Content-Type", mime)
    headers.set("Accept-Ranges", "bytes")
    apply_overrides(headers, query)
    set_disposition(headers, query, labels.filename)
    size = content.size_bytes
    if request.method == "HEAD":
        headers.set("Content-Length", str(size))
        return Response(200, headers.to_headers())
    wanted = request.headers.get("Range")
    if not wanted:
        return await _send(headers, content, 200, [ByteRange(0, size)])
    try:
        ranges = parse_ranges(wanted, size)
    except BadRange as failure:
        return text_error(416, str(failure), headers.to_headers())
    if ranges is None:
        return Response(200, headers.to_headers())
    if len(ranges) == 1:
        headers.set("Content-Range", ranges[0].content_range(size))
        return await _send(headers, content, 206, ranges)
    return await _send(headers, content, 206, _byteranges(headers, ranges, mime, size))


async def _send(headers: HeaderMap, content: Content, status: int, pieces: Sequence[Piece]) -> Response:
    length = sum(len(piece) if isinstance(piece, bytes) else piece.length for piece in pieces)
    headers.set("Content-Length", str(length))
    opened = await content.open(pieces)
    # An encoded body is not looked into: its type would be that of the encoding.
    if opened.head and "Content-Type" not in headers and not headers.get("Content-Encoding"):
        headers.set("Content-Type", sniff(opened.head))
    return Response(status, headers.to_headers(), opened.body)


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


async def _head_of(part: bytes | FileSlice) -> bytes:
    if isinstance(part, bytes):
        return part[:SNIFF_BYTES]
    length = min(SNIFF_BYTES, part.length_bytes)
    head = bytearray(length)
    if part.read_cached_into(memoryview(head), 0):
        return bytes(head)
    return await part.read(length, 0)
