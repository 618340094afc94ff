"""The receiving half of an HTTP/1 connection, which both ends share, and the calls of h11.

h11 parses heads after `http1_head` has checked them: of requests, the fields that frame the body. A head without any
field about a body does not go through h11, because `http1_head` has parsed it whole. Bodies do not go through h11
either: a body of a declared length needs counting only, and `http1_chunks` decodes chunked bodies, many chunks to one
event. Tests hold both ways to the same answers.
"""

from __future__ import annotations

from dataclasses import field
from typing import Protocol

import h11

from native_handlers.http_model.headers import Headers
from native_handlers.records import dataclass
from supervisor.wire.errors import RemoteProtocolError
from supervisor.wire.http1_chunks import ChunkDecoder
from supervisor.wire.http1_events import Data, EndOfMessage, Event, Signal
from supervisor.wire.http1_head import HeadLimits, find_head

BodyEvent = Data | EndOfMessage | Signal
_NO_TRAILERS = EndOfMessage()


@dataclass(frozen=True, slots=True)
class WireLimits:
    """Bounds on one message. With `max_body_bytes` None a body may have any length."""

    head: HeadLimits = field(default_factory=HeadLimits)
    max_body_bytes: int | None = None


class BodyReader(Protocol):
    def next_event(self, data: bytes, *, is_eof: bool) -> tuple[BodyEvent, bytes]:
        """The next event in `data`, and the rest of `data`.

        Raises:
            RemoteProtocolError: bad framing, or the other end closed in the middle of the body.
        """
        ...


class LengthReader:
    """A body of a known number of bytes. Pieces are passed on without a copy where they fit."""

    __slots__ = ("_left",)

    def __init__(self, length_bytes: int) -> None:
        self._left = length_bytes

    @property
    def left_bytes(self) -> int:
        return self._left

    def passed(self, count: int) -> None:
        """Notes `count` bytes, at most those that are left, which were received without passing through here."""
        assert count <= self._left, "more than the body was received"
        self._left -= count

    def next_event(self, data: bytes, *, is_eof: bool) -> tuple[BodyEvent, bytes]:
        if self._left == 0:
            return _NO_TRAILERS, data
        if not data:
            if is_eof:
                raise RemoteProtocolError(400, f"the connection was closed with {self._left} bytes of the body missing")
            return Signal.NEED_DATA, data
        piece, rest = (data, b"") if len(data) <= self._left else (data[: self._left], data[self._left :])
        self._left -= len(piece)
        return Data(piece), rest


NO_BODY = LengthReader(0)
"""The reader for every message without a body."""


class UntilCloseReader:
    """A response body that ends with the connection."""

    __slots__ = ()

    def next_event(self, data: bytes, *, is_eof: bool) -> tuple[BodyEvent, bytes]:
        if data:
            return Data(data), b""
        return (_NO_TRAILERS if is_eof else Signal.NEED_DATA), b""


class ChunkedReader:
    """A chunked body. One event has the content of many chunks; see `ChunkDecoder`.

    Args:
        limits: bounds on the trailers.
        max_bytes: the longest body that is accepted; None for no bound.
    """

    __slots__ = ("_decoder", "_max_bytes", "_read_bytes")

    def __init__(self, limits: HeadLimits, max_bytes: int | None) -> None:
        self._decoder = ChunkDecoder(limits)
        self._max_bytes = max_bytes
        self._read_bytes = 0

    def next_event(self, data: bytes, *, is_eof: bool) -> tuple[BodyEvent, bytes]:
        content, rest = self._decoder.feed(data)
        if content:
            self._read_bytes += len(content)
            if self._max_bytes is not None and self._read_bytes > self._max_bytes:
                raise RemoteProtocolError(413, f"the body is longer than {self._max_bytes} bytes")
            return Data(content), rest
        if self._decoder.is_done:
            trailers = self._decoder.trailers
            return EndOfMessage(Headers(trailers)) if trailers else _NO_TRAILERS, rest
        if is_eof:
            raise RemoteProtocolError(400, "the connection was closed in the middle of a chunked body")
        return Signal.NEED_DATA, rest


class Receiver:
    """The receiving half of both roles: a buffer, and the reader of the current body.

    Attributes:
        is_eof: whether the end of the stream was received.
    """

    __slots__ = ("_body", "_failure", "_incoming", "_is_done", "_limits", "_searched", "is_eof")

    def __init__(self, limits: WireLimits) -> None:
        self._limits = limits
        self._incoming = b""
        self._searched = 0
        self.is_eof = False
        self._is_done = False
        self._body: BodyReader | None = None
        self._failure: tuple[int, str] | None = None  # not the error: its traceback would refer back to this object

    def receive_data(self, data: bytes) -> None:
        """Takes received bytes; b"" is the end of the stream."""
        if not data:
            self.is_eof = True
        elif self._incoming:
            self._incoming += data
        else:
            self._incoming = data

    @property
    def buffered_bytes(self) -> int:
        """How many received bytes have not been reported in an event."""
        return len(self._incoming)

    def next_event(self) -> Event | Signal:
        """The next event, or the reason why there is none.

        Raises:
            RemoteProtocolError: the other end broke the protocol, or closed in the middle of a message. Each later call
                raises the same.
        """
        if self._failure is not None:
            raise RemoteProtocolError(*self._failure)
        try:
            if self._is_done:
                return Signal.PAUSED
            return self._next_head() if self._body is None else self._next_body(self._body)
        except RemoteProtocolError as failure:
            self._failure = failure.status, failure.why
            raise

    def take_whole_body(self, length_bytes: int) -> bytes | None:
        """The whole body, if its declared length is `length_bytes` and all of it has arrived. Else None.

        Call this only right after the head's event. Where the result is None, nothing was taken.
        """
        body = self._body
        if not isinstance(body, LengthReader) or body.left_bytes != length_bytes or len(self._incoming) < length_bytes:
            return None
        data, self._incoming = self._incoming[:length_bytes], self._incoming[length_bytes:]
        body.passed(length_bytes)
        self._is_done = True
        return data

    @property
    def uncopied_body_bytes(self) -> int:
        """How many bytes of a body of a declared length may now be received without `receive_data`; 0 if none."""
        body = self._body
        return body.left_bytes if isinstance(body, LengthReader) and not self._incoming else 0

    def received_out_of_band(self, count: int) -> None:
        """Notes `count` body bytes that were received without `receive_data`; 0 is the end of the stream.

        Raises:
            RemoteProtocolError: the stream ended within the body.
        """
        assert isinstance(self._body, LengthReader), "only a body of a declared length is received this way"
        if count:
            self._body.passed(count)
            return
        self.receive_data(b"")
        self.next_event()

    def _next_body(self, body: BodyReader) -> Event | Signal:
        event, self._incoming = body.next_event(self._incoming, is_eof=self.is_eof)
        if isinstance(event, EndOfMessage):
            self._is_done = True
        return event

    def _next_head(self) -> Event | Signal:
        if not self._incoming:
            return Signal.CLOSED if self.is_eof else Signal.NEED_DATA
        length = self._incoming.find(b"\r\n\r\n", max(0, self._searched - 3)) + 4
        if not 4 <= length <= self._limits.head.max_bytes:
            length = find_head(self._incoming, self._searched, self._limits.head)
        if length < 0:
            if self.is_eof:
                raise RemoteProtocolError(400, "the connection was closed in the middle of a head")
            self._searched = len(self._incoming)
            return Signal.NEED_DATA
        raw, self._incoming = self._incoming[:length], self._incoming[length:]
        self._searched = 0
        return self._take_head(raw)

    def _take_head(self, raw: bytes) -> Event:
        raise NotImplementedError


def read_head(parser: h11.Connection, raw: bytes) -> h11.Request | h11.Response:
    """h11's reading of a complete head.

    Raises:
        RemoteProtocolError: with the status that h11 suggests.
    """
    parser.receive_data(raw)
    try:
        event = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise RemoteProtocolError(error.error_status_hint, str(error)) from error
    assert isinstance(event, h11.Request | h11.Response), "the gate passes complete heads only"
    return event
