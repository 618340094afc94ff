"""Requests and responses as native handlers and the forwarder see them.

A request head is complete and validated when it gets here; its body is read on demand. A response says how its
body is to be sent, and the connection driver sends it: handlers never see a socket.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

from native_handlers.http.headers import Headers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence


class Listener(Enum):
    """Which public socket a request came in on."""

    ADMIN = "admin"
    PUBLIC = "public"


class RequestBody(Protocol):
    """The body of a request, read at the handler's pace."""

    @property
    def length_bytes(self) -> int | None:
        """The declared Content-Length, 0 when there is no body, None when the body is chunked."""
        ...

    async def receive_some(self) -> bytes:
        """The next piece, never empty before the end; b"" at the end and ever after.

        Raises:
            BodyError: the peer broke off, went silent past the deadline, or sent bad framing. The connection
                will be closed after the response.
        """
        ...

    async def receive_into(self, buffer: memoryview) -> int:
        """Puts the next piece at the front of `buffer`, which has room, and returns its length; 0 at the end.

        Raises:
            BodyError: as `receive_some`.
        """
        ...


class BodyError(Exception):
    """The request body cannot be read to its end; the fault is the client's or the network's."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. `target` is the request target as sent; `peer_host` is the TCP peer, never a header."""

    method: str
    target: str
    headers: Headers
    body: RequestBody
    listener: Listener
    peer_host: str
    peer_port: int
    request_id: str
    is_tls: bool = False
    http_version: str = "1.1"

    @property
    def raw_path(self) -> str:
        """The target's path as sent, percent escapes kept."""
        return self.target.partition("?")[0]

    @property
    def path(self) -> str:
        """The target's path with percent escapes decoded once (undecodable UTF-8 as surrogate escapes)."""
        return unquote_to_bytes(self.raw_path).decode("utf-8", "surrogateescape")

    @property
    def raw_query(self) -> str:
        """What follows the first `?`, undecoded; empty when there is none."""
        return self.target.partition("?")[2]


class FileSource(Protocol):
    """What lies on a disk and is sent piece by piece. It can be read until the response's `close`."""

    def read_cached_into(self, buffer: memoryview, offset_bytes: int) -> bool:
        """Fills `buffer` from `offset_bytes` on without waiting for the disk; whether memory held all of that."""
        ...

    def send_cached(self, socket_fd: int, length_bytes: int, offset_bytes: int) -> int | None:
        """How much of a range went straight from memory to a socket (sendfile); None where memory lacks some of it.

        Raises:
            BlockingIOError, ConnectionError: from the socket.
            Exception: the disk failed all the same; the source has counted it.
        """
        ...

    async def read(self, length_bytes: int, offset_bytes: int) -> bytes:
        """The bytes at `offset_bytes`, fewer only at the end. Waits as long as the disk does, others meanwhile run.

        Raises:
            Exception: the disk failed or is out of service; the source has counted it.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileSlice:
    """`length_bytes` of a source from `offset_bytes` on. Methods count from the start of the slice."""

    source: FileSource
    offset_bytes: int
    length_bytes: int

    def read_cached_into(self, buffer: memoryview, start_bytes: int) -> bool:
        """As `FileSource.read_cached_into`."""
        return self.source.read_cached_into(buffer, self.offset_bytes + start_bytes)

    def send_cached(self, socket_fd: int, length_bytes: int, start_bytes: int) -> int | None:
        """As `FileSource.send_cached`."""
        return self.source.send_cached(socket_fd, length_bytes, self.offset_bytes + start_bytes)

    async def read(self, length_bytes: int, start_bytes: int) -> bytes:
        """As `FileSource.read`."""
        return await self.source.read(length_bytes, self.offset_bytes + start_bytes)


@dataclass(frozen=True, slots=True)
class FileBody:
    """A body made of pieces, in order: bytes from memory and slices of files."""

    parts: Sequence[bytes | FileSlice]

    @property
    def length_bytes(self) -> int:
        return sum(part.length_bytes if isinstance(part, FileSlice) else len(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class StreamBody:
    """A body produced on the go. With `length_bytes` None it is sent chunked. Closed by the driver in every case."""

    chunks: AsyncIterator[bytes]
    length_bytes: int | None = None


Body = bytes | memoryview | FileBody | StreamBody
"""What a response is made of. The memory under a view stays as it is until the response's `close`."""


class HeldAnswer(NamedTuple):
    """A whole answer as it goes over the wire, whose body stays as it is until `release`, to be called once."""

    head: bytes
    body: memoryview
    release: Callable[[], None]


Answer = bytes | HeldAnswer
"""A whole answer as it goes over the wire, given without waiting."""


@dataclass(slots=True)
class Response:
    """An answer. Framing headers: the driver adds Content-Length for a known length unless a handler set one (HEAD).

    Args:
        close: called once after the last byte was sent or the attempt was given up; releases what the body holds.
        close_connection: no further request is read from this connection.
    """

    status: int
    headers: Headers = field(default_factory=Headers)
    body: Body = b""
    reason: str | None = None
    close: Callable[[], None] | None = None
    close_connection: bool = False

    @property
    def length_bytes(self) -> int | None:
        """The body's length, None where only its end will tell."""
        return self.body.length_bytes if isinstance(self.body, (FileBody, StreamBody)) else len(self.body)
