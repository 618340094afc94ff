"""What both ends of a HTTP/1 connection share: the receiving half, and what they ask of h11.

h11 is the parser of record behind the gate of `http1_head`. Two kinds of message are not worth its time and go without:
heads that say nothing about a body, which the gate has parsed whole anyway, and bodies of a declared length, which need
counting, not parsing. A test holds both parsers to the same answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import h11

from supervisor.wire.errors import RemoteProtocolError
from supervisor.wire.http1_events import EndOfMessage, Event, Signal
from supervisor.wire.http1_head import HeadLimits, find_head

if TYPE_CHECKING:
    from native_handlers.http.headers import Headers
    from supervisor.wire.http1_body import BodyReader


@dataclass(frozen=True, slots=True)
class WireLimits:
    """Bounds on what one message may be. `max_body_bytes` None takes bodies of any length."""

    head: HeadLimits = field(default_factory=HeadLimits)
    max_body_bytes: int | None = None


class Receiver:
    """The half that both roles share: a buffer, and the reader of the body that is being received."""

    __slots__ = ("_body", "_failure", "_incoming", "_is_done", "_is_eof", "_limits", "_searched")

    def __init__(self, limits: WireLimits) -> None:
        self._limits = limits
        self._incoming = b""
        self._searched = 0
        self._is_eof = False
        self._is_done = False
        self._body: BodyReader | None = None
        self._failure: RemoteProtocolError | None = None

    def receive_data(self, data: bytes) -> None:
        """Takes what was received; b"" is the end of the stream."""
        if not data:
            self._is_eof = True
        elif self._incoming:
            self._incoming += data
        else:
            self._incoming = data

    @property
    def buffered_bytes(self) -> int:
        """How much has been received and not been reported."""
        return len(self._incoming)

    @property
    def is_eof(self) -> bool:
        return self._is_eof

    def next_event(self) -> Event | Signal:
        """What came next, or why there is nothing to report.

        Raises:
            RemoteProtocolError: the peer broke the protocol, or closed in the middle of a message.
        """
        if self._failure is not None:
            raise self._failure
        try:
            if self._is_done:
                return Signal.PAUSED
            return self._next_head() if self._body is None else self._next_body(self._body)
        except RemoteProtocolError as failure:
            self._failure = failure
            raise

    def _next_body(self, body: BodyReader) -> Event | Signal:
        event, self._incoming = body.next_event(self._incoming, is_eof=self._is_eof)
        if isinstance(event, EndOfMessage):
            self._is_done = True
        return event

    def _next_head(self) -> Event | Signal:
        if not self._incoming:
            return Signal.CLOSED if self._is_eof else Signal.NEED_DATA
        length = find_head(self._incoming, self._searched, self._limits.head)
        if length < 0:
            if self._is_eof:
                raise RemoteProtocolError(400, "the peer closed in the middle of a head")
            self._searched = len(self._incoming)
            return Signal.NEED_DATA
        raw, self._incoming = self._incoming[:length], self._incoming[length:]
        self._searched = 0
        return self._take_head(raw)

    def _take_head(self, raw: bytes) -> Event:
        raise NotImplementedError

    def _restart(self) -> None:
        self._is_done = False
        self._body = None


def keeps_alive(version: str, headers: Headers) -> bool:
    """Whether a message of `version` with these headers leaves the connection open."""
    if "Connection" not in headers:
        return version == "1.1"
    tokens = {token.strip().lower() for value in headers.get_all("Connection") for token in value.split(",")}
    return "close" not in tokens and (version == "1.1" or "keep-alive" in tokens)


def read_head(parser: h11.Connection, raw: bytes) -> h11.Request | h11.Response:
    """What h11 makes of a complete head.

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
