"""Readers and writers of message bodies, one of each for each kind of framing. No trio, no sockets.

A reader is asked for the next event out of the bytes that are there; `rest` is what it has not consumed.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Protocol

import h11

from native_handlers.http.headers import Headers
from supervisor.wire.errors import LocalProtocolError, RemoteProtocolError
from supervisor.wire.http1_chunks import ChunkGate, encode_chunk
from supervisor.wire.http1_events import Data, EndOfMessage, Signal

if TYPE_CHECKING:
    from supervisor.wire.http1_head import HeadLimits

BodyEvent = Data | EndOfMessage | Signal
_NO_TRAILERS = EndOfMessage()


class BodyReader(Protocol):
    def next_event(self, data: bytes, *, is_eof: bool) -> tuple[BodyEvent, bytes]:
        """The next event out of `data`, and what of it is left.

        Raises:
            RemoteProtocolError: bad framing, or the peer closed in the middle of the body.
        """
        ...


class LengthReader:
    """A body of a known number of bytes; pieces are handed on without a copy where they fit."""

    __slots__ = ("_left",)

    def __init__(self, length_bytes: int) -> None:
        self._left = length_bytes

    @property
    def left_bytes(self) -> int:
        return self._left

    def passed(self, count: int) -> None:
        """Notes `count` bytes, no more than are left, that were received without coming by here."""
        assert count <= self._left, "more than the body was received"
        self._left -= count

    def next_event(self, data: bytes, *, is_eof: bool) -> tuple[BodyEvent, bytes]:
        if self._left == 0:
            return _NO_TRAILERS, data
        if not data:
            if is_eof:
                raise RemoteProtocolError(400, f"the peer closed with {self._left} bytes of the body missing")
            return Signal.NEED_DATA, data
        piece, rest = (data, b"") if len(data) <= self._left else (data[: self._left], data[self._left :])
        self._left -= len(piece)
        return Data(piece), rest


class UntilCloseReader:
    """A response body that ends where the connection does."""

    __slots__ = ()

    def next_event(self, data: bytes, *, is_eof: bool) -> tuple[BodyEvent, bytes]:
        if data:
            return Data(data), b""
        return (_NO_TRAILERS if is_eof else Signal.NEED_DATA), b""


class ChunkedReader:
    """A chunked body: the gate checks the bytes, h11 parses them.

    Args:
        parser: an h11 connection that has just read the head of this message.
        max_bytes: the largest body that is taken; None for no bound.
    """

    __slots__ = ("_gate", "_max_bytes", "_parser", "_read_bytes")

    def __init__(self, parser: h11.Connection, limits: HeadLimits, max_bytes: int | None) -> None:
        self._parser = parser
        self._gate = ChunkGate(limits)
        self._max_bytes = max_bytes
        self._read_bytes = 0

    def next_event(self, data: bytes, *, is_eof: bool) -> tuple[BodyEvent, bytes]:
        if data and not self._gate.is_done:
            passed, data = self._gate.feed(data)
            if passed:
                self._parser.receive_data(passed)
        event = self._parse()
        if event is Signal.NEED_DATA and is_eof:
            raise RemoteProtocolError(400, "the peer closed in the middle of a chunked body")
        return event, data

    def _parse(self) -> BodyEvent:
        try:
            event = self._parser.next_event()
        except h11.RemoteProtocolError as error:
            raise RemoteProtocolError(400, f"bad chunked body: {error}") from error
        if isinstance(event, h11.Data):
            self._read_bytes += len(event.data)
            if self._max_bytes is not None and self._read_bytes > self._max_bytes:
                raise RemoteProtocolError(413, f"the body is longer than {self._max_bytes} bytes")
            return Data(bytes(event.data))
        if isinstance(event, h11.EndOfMessage):
            pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers.raw_items()]
            return EndOfMessage(Headers(pairs)) if pairs else _NO_TRAILERS
        return Signal.NEED_DATA


class Framing(Enum):
    """How the end of a body that we send is told."""

    NONE = "no body"
    LENGTH = "by its length"
    CHUNKED = "by its last chunk"
    CLOSE = "by the end of the connection"


class BodyWriter:
    """Encodes one body and holds it to what the head has promised."""

    __slots__ = ("_framing", "_is_over", "_left")

    def __init__(self, framing: Framing, length_bytes: int = 0) -> None:
        self._framing = framing
        self._left = length_bytes
        self._is_over = False

    def data(self, data: bytes) -> bytes:
        """The bytes to send for `data`; the same object where nothing is added."""
        if self._framing is Framing.CHUNKED:
            return encode_chunk(data)
        self.passed(len(data))
        return data

    def passed(self, count: int) -> None:
        """Notes `count` bytes that go out without coming by here.

        Raises:
            LocalProtocolError: more than was promised, or the framing does not allow it.
        """
        if self._framing is Framing.CLOSE:
            return
        if self._framing is Framing.CHUNKED or count > self._left:
            raise LocalProtocolError(f"{count} bytes do not fit a body framed {self._framing.value}, {self._left} left")
        self._left -= count

    def end(self, trailers: Headers) -> bytes:
        """The bytes that end the body.

        Raises:
            LocalProtocolError: less was sent than was promised.
        """
        if self._left or self._is_over:
            raise LocalProtocolError(f"the body ends with {self._left} bytes of its promised length missing")
        self._is_over = True
        if self._framing is not Framing.CHUNKED:
            return b""
        block = "".join([f"{name}: {value}\r\n" for name, value in trailers])
        return b"0\r\n" + block.encode("latin-1") + b"\r\n"

    @property
    def is_over(self) -> bool:
        return self._is_over
