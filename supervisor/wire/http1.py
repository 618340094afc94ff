"""HTTP/1 connections without I/O: bytes in, events out; events in, bytes out.

h11 is the parser of record behind the gate of `http1_head`. Two kinds of message are not worth its time and go without:
requests that cannot have a body, whose heads the gate has parsed whole anyway, and bodies of a declared length,
which need counting, not parsing. A test holds both parsers to the same answers.

An object that has raised is poisoned: it raises again for whatever is asked of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import h11

from native_handlers.http.headers import Headers
from supervisor.wire.errors import LocalProtocolError, RemoteProtocolError
from supervisor.wire.http1_body import BodyReader, BodyWriter, ChunkedReader, Framing, LengthReader, UntilCloseReader
from supervisor.wire.http1_events import Data, EndOfMessage, Event, RequestHead, ResponseHead, Signal, reason_of
from supervisor.wire.http1_head import (
    Fields,
    HeadLimits,
    declared_length,
    find_head,
    split_request_head,
    split_response_head,
)
from supervisor.wire.http1_target import normalised_target
from supervisor.wire.http1_write import encode_request_head, encode_response_head

_NEEDS_H11 = re.compile(r"\r\n(?:content-length|transfer-encoding|expect|upgrade):", re.IGNORECASE)
_BODYLESS_STATUSES = frozenset({204, 304})
_METHODS_THAT_DECLARE_NOTHING = frozenset({"GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


@dataclass(frozen=True, slots=True)
class WireLimits:
    """Bounds on what one message may be. `max_body_bytes` None takes bodies of any length."""

    head: HeadLimits = field(default_factory=HeadLimits)
    max_body_bytes: int | None = None


class _Receiver:
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


class ServerConnection(_Receiver):
    """Our end of a client's connection. One request at a time: `start_next_cycle` goes on to the next."""

    __slots__ = ("_keep_alive", "_request", "_writer")

    def __init__(self, limits: WireLimits | None = None) -> None:
        super().__init__(limits or WireLimits())
        self._keep_alive = True
        self._request: RequestHead | None = None
        self._writer: BodyWriter | None = None

    def _take_head(self, raw: bytes) -> RequestHead:
        text = raw.decode("latin-1")
        method, target, version, fields = split_request_head(text, self._limits.head)
        target, authority = normalised_target(method, target)
        parser = None
        if _NEEDS_H11.search(text) or version != "1.1" or authority is not None:
            parser, fields = _parse_with_h11(method, target, version, fields, self._limits.head)
            request = _request_head(method, target, version, fields, authority)
        else:
            request = _bodiless_request_head(method, target, fields)
        self._body = self._body_reader(request, parser)
        self._request = request
        return request

    def _body_reader(self, request: RequestHead, parser: h11.Connection | None) -> BodyReader:
        length, most = request.body_length_bytes, self._limits.max_body_bytes
        if length is None:
            assert parser is not None, "only h11 finds a chunked body"
            return ChunkedReader(parser, self._limits.head, most)
        if most is not None and length > most:
            raise RemoteProtocolError(413, f"the body is longer than {most} bytes")
        return LengthReader(length)

    def send(self, event: ResponseHead | Data | EndOfMessage) -> bytes:
        """The bytes to send for `event`.

        A ResponseHead's `body_length_bytes` frames the body (None: chunked, or until close for HTTP/1.0), its
        `keep_alive` becomes the Connection header. The answer to a HEAD, a 204 and a 304 take no Data.

        Raises:
            LocalProtocolError: out of turn, or not what the head promised.
        """
        match event:
            case ResponseHead():
                return self._send_head(event)
            case Data(data):
                return self._current_writer().data(data)
            case EndOfMessage(trailers):
                return self._current_writer().end(trailers)

    def sent_out_of_band(self, count: int) -> None:
        """Notes `count` body bytes that were sent by other means than `send`, as by sendfile."""
        self._current_writer().passed(count)

    @property
    def can_continue(self) -> bool:
        """Whether both messages are over and the connection outlives them, so that the next request may be read."""
        return self._is_done and self._keep_alive and self._writer is not None and self._writer.is_over

    def start_next_cycle(self) -> None:
        """Turns to the next request. Only after `can_continue`."""
        if not self.can_continue:
            raise LocalProtocolError("the next request is due only after both messages are over")
        self._restart()
        self._request = None
        self._writer = None

    def _current_writer(self) -> BodyWriter:
        if self._writer is None:
            raise LocalProtocolError("the body comes after the head")
        return self._writer

    def _send_head(self, head: ResponseHead) -> bytes:
        reason = head.reason or reason_of(head.status)
        if self._writer is not None:
            raise LocalProtocolError("the head was sent before")
        if head.is_interim:
            return encode_response_head("1.1", head.status, reason, head.headers, "")
        version = self._request.http_version if self._request else "1.1"
        framing, lines = self._framing_of(head, version)
        self._keep_alive = head.keep_alive and framing is not Framing.CLOSE
        if not self._keep_alive:
            lines += "Connection: close\r\n"
        elif version == "1.0":
            lines += "Connection: keep-alive\r\n"
        self._writer = BodyWriter(framing, head.body_length_bytes or 0 if framing is Framing.LENGTH else 0)
        return encode_response_head(version, head.status, reason, head.headers, lines)

    def _framing_of(self, head: ResponseHead, version: str) -> tuple[Framing, str]:
        declared = head.headers.get("Content-Length")
        length = head.body_length_bytes
        is_head = self._request is not None and self._request.method == "HEAD"
        if head.status in _BODYLESS_STATUSES or is_head:
            adds_length = is_head and declared is None and length is not None and head.status not in _BODYLESS_STATUSES
            return Framing.NONE, f"Content-Length: {length}\r\n" if adds_length else ""
        if length is not None:
            if declared is None:
                return Framing.LENGTH, f"Content-Length: {length}\r\n"
            if declared != str(length):
                raise LocalProtocolError(f"a body of {length} bytes does not go with Content-Length {declared}")
            return Framing.LENGTH, ""
        if declared is not None:
            raise LocalProtocolError("a body of unknown length does not go with a Content-Length")
        if version == "1.0":
            return Framing.CLOSE, ""
        return Framing.CHUNKED, "Transfer-Encoding: chunked\r\n"


class ClientConnection(_Receiver):
    """Our end of a connection to a server. One exchange at a time, several in a row."""

    __slots__ = ("_keep_alive", "_method", "_writer")

    def __init__(self, limits: WireLimits | None = None) -> None:
        super().__init__(limits or WireLimits())
        self._method = ""
        self._writer: BodyWriter | None = None
        self._keep_alive = True

    def send(self, event: RequestHead | Data | EndOfMessage) -> bytes:
        """The bytes to send for `event`. The first request head starts the first exchange.

        Raises:
            LocalProtocolError: out of turn, or not what the head promised.
        """
        match event:
            case RequestHead():
                return self._send_head(event)
            case Data(data) if self._writer is not None:
                return self._writer.data(data)
            case EndOfMessage(trailers) if self._writer is not None:
                return self._writer.end(trailers)
        raise LocalProtocolError("the body comes after the head")

    @property
    def can_reuse(self) -> bool:
        """Whether another request may follow: both messages over, both sides willing, nothing unasked received."""
        return self.is_exchange_over and self._keep_alive and not self._incoming and not self._is_eof

    @property
    def is_exchange_over(self) -> bool:
        """Whether both messages of the last exchange are complete."""
        return self._is_done and self._writer is not None and self._writer.is_over

    def _send_head(self, head: RequestHead) -> bytes:
        if self._writer is not None:
            if not self.can_reuse:
                raise LocalProtocolError("the last exchange is not over, or was this connection's last")
            self._restart()
        length = head.body_length_bytes
        lines = ""
        if length is None:
            lines = "Transfer-Encoding: chunked\r\n"
        elif "Content-Length" not in head.headers and (length or head.method not in _METHODS_THAT_DECLARE_NOTHING):
            lines = f"Content-Length: {length}\r\n"
        self._method = head.method
        self._writer = BodyWriter(Framing.CHUNKED) if length is None else BodyWriter(Framing.LENGTH, length)
        return encode_request_head(head.method, head.target, head.headers, lines)

    def _take_head(self, raw: bytes) -> ResponseHead:
        status, reason, version, fields = split_response_head(raw.decode("latin-1"), self._limits.head)
        if status == 101 or self._writer is None:
            raise RemoteProtocolError(502, f"status {status} was not asked for")
        headers = Headers(fields)
        if status < 200:
            return ResponseHead(status, headers, reason, 0)
        length = self._length_of(status, version, headers)
        body, is_delimited = self._reader_of(raw, length, headers)
        self._keep_alive = _keeps_alive(version, headers) and is_delimited and self._method != "CONNECT"
        self._body = body
        return ResponseHead(status, headers, reason, length, self._keep_alive)

    def _length_of(self, status: int, version: str, headers: Headers) -> int | None:
        length = declared_length(headers.get_all("Content-Length")) if "Content-Length" in headers else None
        if "Transfer-Encoding" in headers and (length is not None or version != "1.1"):
            raise RemoteProtocolError(502, "a Transfer-Encoding with a Content-Length, or in HTTP/1.0")
        return 0 if status in _BODYLESS_STATUSES or self._method == "HEAD" else length

    def _reader_of(self, raw: bytes, length: int | None, headers: Headers) -> tuple[BodyReader, bool]:
        if length is not None:
            return LengthReader(length), True
        if "Transfer-Encoding" not in headers:
            return UntilCloseReader(), False
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=2 * self._limits.head.max_bytes)
        parser.send(h11.Request(method="GET", target="/", headers=[("Host", "")]))
        parser.send(h11.EndOfMessage())
        _head_event(parser, raw)
        return ChunkedReader(parser, self._limits.head, None), True


def _bodiless_request_head(method: str, target: str, fields: Fields) -> RequestHead:
    """The same for a head that has nothing about a body, in fewer steps."""
    headers = Headers(fields)
    _check_host(headers, "1.1")
    return RequestHead(method, target, headers, "1.1", 0, False, _keeps_alive("1.1", headers))


def _check_host(headers: Headers, version: str) -> None:
    hosts = headers.get_all("Host")
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise RemoteProtocolError(400, "there must be one Host header")


def _request_head(method: str, target: str, version: str, fields: Fields, authority: str | None) -> RequestHead:
    headers = Headers(fields)
    _check_host(headers, version)
    length = declared_length(headers.get_all("Content-Length")) if "Content-Length" in headers else 0
    if "Transfer-Encoding" in headers:
        if "Content-Length" in headers or version != "1.1":
            raise RemoteProtocolError(400, "Transfer-Encoding together with Content-Length or in HTTP/1.0")
        length = None
    if authority is not None:
        headers = Headers([("Host", authority), *headers.without(["Host"])])
    expects = version == "1.1" and "Expect" in headers
    if expects and (headers.get("Expect") or "").lower() != "100-continue":
        raise RemoteProtocolError(417, "the one expectation that is met here is 100-continue")
    return RequestHead(method, target, headers, version, length, expects, _keeps_alive(version, headers))


def _keeps_alive(version: str, headers: Headers) -> bool:
    if "Connection" not in headers:
        return version == "1.1"
    tokens = {token.strip().lower() for value in headers.get_all("Connection") for token in value.split(",")}
    return "close" not in tokens and (version == "1.1" or "keep-alive" in tokens)


def _parse_with_h11(
    method: str, target: str, version: str, fields: Fields, limits: HeadLimits
) -> tuple[h11.Connection, Fields]:
    """h11's reading of a head that the gate has passed: a parser that stands at the body, and the fields.

    h11 gets the normalised target, for it knows no bytes outside ASCII there.
    """
    block = "".join([f"{name}: {value}\r\n" for name, value in fields])
    raw = f"{method} {target} HTTP/{version}\r\n{block}\r\n".encode("latin-1")
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=2 * limits.max_bytes)
    event = _head_event(parser, raw)
    return parser, [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers.raw_items()]


def _head_event(parser: h11.Connection, raw: bytes) -> h11.Request | h11.Response:
    parser.receive_data(raw)
    try:
        event = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise RemoteProtocolError(error.error_status_hint, str(error)) from error
    assert isinstance(event, h11.Request | h11.Response), "the gate passes complete heads only"
    return event
