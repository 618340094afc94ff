"""Requests and responses as native handlers and the forwarder use them.

The head of a `Request` is complete and validated; the body is read on demand. A `Response` says how its body is to be
sent, and the connection driver sends it: handlers never use a socket.
"""

from __future__ import annotations

from dataclasses import field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from native_handlers.http_model.headers import HeaderMap, Headers
from native_handlers.http_model.target import RequestTarget
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from native_handlers.http_model.headers import HeaderFields


REQUEST_ID_HEADER = "X-Amz-Request-Id"


class Listener(Enum):
    """The public socket that a request came in on."""

    ADMIN = "admin"
    PUBLIC = "public"


class RequestBody:
    """The body of a request, read at the handler's pace, and the state of the client that sends it. Base of all bodies.

    Attributes:
        length_bytes: the declared Content-Length, 0 when there is no body, None when the body is chunked.
        is_over: whether the end has been read. From then on the client can be watched.
        awaits_continue: whether the client waits for a 100 before it sends the body. The first receive sends the 100.
        trailers: the fields behind a chunked body; complete when the end has been read.
    """

    __slots__ = ()

    length_bytes: int | None
    is_over: bool = False
    awaits_continue: bool = False
    trailers: Headers = Headers()

    async def receive_some(self) -> bytes:
        """Returns the next piece of the body. No piece is empty before the end; at the end and after it the result is
        b"".

        Raises:
            BodyError: the client broke off, was silent past the deadline, or sent bad framing. The connection closes
                after the response.
        """
        raise NotImplementedError

    async def receive_into(self, buffer: memoryview) -> int:
        """Writes the next piece to the front of `buffer`, which is not empty, and returns the piece's length; 0 at the
        end.

        Raises:
            BodyError: as `receive_some`.
        """
        raise NotImplementedError

    async def pass_rest_to(self, _sink: object, /) -> int:
        """Moves the rest of a large body to `_sink`, the transport of another connection, without receiving the bytes.

        Returns: how many bytes were moved: the whole rest; 0 where that is not possible, as for most bodies.

        Raises:
            BodyError: as `receive_some`.
        """
        return 0

    async def send_interim(self, status: int, headers: HeaderFields, reason: str = "") -> None:
        """Sends a 1xx head ahead of the answer. A body without a connection sends nothing.

        Raises:
            Exception: the client is gone.
        """

    async def wait_end(self) -> None:
        """Returns when the client has closed its sending side. The client may still wait for the answer.

        Call it between the end of the body and the answer. Cancelling the wait is safe.

        Raises:
            Exception: the client is gone for good.
        """
        raise NotImplementedError

    async def wait_gone(self) -> None:
        """As `wait_end`, but also returns when the client is gone for good."""
        raise NotImplementedError


class PassedOnBody(RequestBody):
    """The body `sent`, of the same client. A subclass changes what it has to; all else is as in `sent`."""

    __slots__ = ("_sent", "awaits_continue", "is_over", "length_bytes", "trailers")

    def __init__(self, sent: RequestBody) -> None:
        self._sent = sent
        self.length_bytes = sent.length_bytes
        self._follow()

    def _follow(self) -> None:
        """Takes over what a call to `sent` may have changed."""
        sent = self._sent
        self.is_over, self.awaits_continue, self.trailers = sent.is_over, sent.awaits_continue, sent.trailers

    async def receive_some(self) -> bytes:
        piece = await self._sent.receive_some()
        self._follow()
        return piece

    async def receive_into(self, buffer: memoryview) -> int:
        count = await self._sent.receive_into(buffer)
        self._follow()
        return count

    async def pass_rest_to(self, sink: object, /) -> int:
        count = await self._sent.pass_rest_to(sink)
        self._follow()
        return count

    async def send_interim(self, status: int, headers: HeaderFields, reason: str = "") -> None:
        await self._sent.send_interim(status, headers, reason)
        self._follow()

    async def wait_end(self) -> None:
        await self._sent.wait_end()

    async def wait_gone(self) -> None:
        await self._sent.wait_gone()


class BodyError(Exception):
    """The request body cannot be read to its end. The fault is the client's or the network's."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. `target` is the request target as sent and `parsed` its parts. `client_host` is the address of
    the TCP client, never of a header.

    A copy with other fields (`dataclasses.replace`) keeps `parsed`, so its target must stay the same.
    """

    method: str
    target: str
    headers: Headers
    body: RequestBody
    listener: Listener
    client_host: str
    client_port: int
    request_id: str
    is_tls: bool = False
    http_version: str = "1.1"

    parsed: RequestTarget = field(default=None, repr=False, compare=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.parsed is None:
            object.__setattr__(self, "parsed", RequestTarget.parse(self.target))

    @property
    def raw_path(self) -> str:
        """The target's path as sent, percent escapes kept."""
        return self.parsed.raw_path

    @property
    def path(self) -> str:
        """The target's path with percent escapes decoded once (undecodable UTF-8 as surrogate escapes)."""
        return self.parsed.path.encode("latin-1").decode("utf-8", "surrogateescape")

    @property
    def raw_query(self) -> str:
        """The part after the first `?`, undecoded; empty when there is none."""
        return self.parsed.raw_query


class FileSource(Protocol):
    """Bytes on a disk that are sent piece by piece. They can be read until the response's `close`."""

    def read_cached_into(self, buffer: memoryview, offset_bytes: int) -> bool:
        """Fills `buffer` from `offset_bytes` on without waiting for the disk. Returns whether memory held all of those
        bytes.
        """
        ...

    def send_cached(self, socket_fd: int, length_bytes: int, offset_bytes: int) -> int | None:
        """Sends part of a range from memory to a socket (sendfile). Returns the number of bytes sent, or None where
        memory lacks some of them.

        Raises:
            BlockingIOError, ConnectionError: from the socket.
            Exception: the disk failed nevertheless; the source has counted the failure.
        """
        ...

    async def read(self, length_bytes: int, offset_bytes: int) -> bytes:
        """The bytes at `offset_bytes`; fewer only at the end of the file. The call waits for the disk; other tasks run
        meanwhile.

        Raises:
            Exception: the disk failed or is out of service; the source has counted the failure.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileSlice:
    """`length_bytes` of a source from `offset_bytes` on. The methods count positions from the start of the slice."""

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
    """A body that is produced while it is sent. With `length_bytes` None it is sent chunked. The driver closes `chunks`
    in every case.
    """

    chunks: AsyncIterator[bytes]
    length_bytes: int | None = None


Body = bytes | memoryview | FileBody | StreamBody
"""The body of a response. The memory under a view stays unchanged until the response's `close`."""


class HeldAnswer(NamedTuple):
    """A whole answer in wire form. The memory of `body` stays unchanged until the caller has called `release`, once."""

    head: bytes
    body: memoryview
    release: Callable[[], None]


Answer = bytes | HeldAnswer
"""A whole answer in wire form that was made without waiting."""


class PendingAnswer:
    """An answer that another thread is making, to the request `data`.

    The event loop collects the pending answers of one turn, and calls `try_finish` of each. Where that gives False, a
    task calls `wait`. Then `outcome` is called, once. The class is no ABC: each answer of the fast path is tested for
    being one, and that test takes long for an ABC.
    """

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def try_finish(self) -> bool:
        """Returns whether the answer is there. Waits for all answers of a turn together, some milliseconds at most."""
        raise NotImplementedError

    async def wait(self) -> None:
        """Returns when the answer is there. Cancellation: the work goes on, and nobody waits for it."""
        raise NotImplementedError

    def outcome(self) -> bytes | None:
        """The answer. None leaves the request to the ordinary way; then nothing has been done."""
        raise NotImplementedError


FastAnswer = Answer | PendingAnswer | None
"""The answer of a fast path to the bytes of a request; None leaves them to the ordinary way."""


@dataclass(slots=True)
class Response:
    """An answer. The driver adds Content-Length for a known length unless the handler has set that field (HEAD).

    Args:
        close: called once, after the last byte was sent or sending was given up; releases the memory and files of the
            body.
        close_connection: no further request is read from this connection.
        is_relayed: the backend made this answer and counted the request.
    """

    status: int
    headers: HeaderFields = field(default_factory=HeaderMap)
    body: Body = b""
    reason: str | None = None
    close: Callable[[], None] | None = None
    close_connection: bool = False
    is_relayed: bool = False

    @property
    def length_bytes(self) -> int | None:
        """The body's length, or None where only its end determines it."""
        return self.body.length_bytes if isinstance(self.body, (FileBody, StreamBody)) else len(self.body)
