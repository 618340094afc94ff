"""The client's end of a HTTP/1 connection, without I/O: events in, bytes out; bytes in, events out."""

from __future__ import annotations

import h11

from native_handlers.http.headers import Headers
from supervisor.wire.errors import LocalProtocolError, RemoteProtocolError
from supervisor.wire.http1_body import BodyReader, BodyWriter, ChunkedReader, Framing, LengthReader, UntilCloseReader
from supervisor.wire.http1_events import Data, EndOfMessage, RequestHead, ResponseHead
from supervisor.wire.http1_head import declared_length, split_response_head
from supervisor.wire.http1_receiver import Receiver, WireLimits, keeps_alive, read_head
from supervisor.wire.http1_write import encode_request_head

_BODYLESS_STATUSES = frozenset({204, 304})
_METHODS_THAT_DECLARE_NOTHING = frozenset({"GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


class ClientConnection(Receiver):
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
        self._keep_alive = keeps_alive(version, headers) and is_delimited and self._method != "CONNECT"
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
        read_head(parser, raw)
        return ChunkedReader(parser, self._limits.head, None), True
