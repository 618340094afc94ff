"""The client's end of an HTTP/1 connection, without I/O: events in, bytes out; bytes in, events out."""

from __future__ import annotations

import h11

from native_handlers.http_model.headers import Headers
from supervisor.wire.errors import LocalProtocolError, RemoteProtocolError
from supervisor.wire.http1_body import BodyWriter, Framing
from supervisor.wire.http1_events import Data, EndOfMessage, RequestHead, ResponseHead
from supervisor.wire.http1_head import declared_length, encode_request_head, keeps_alive, split_response_head
from supervisor.wire.http1_receiver import (
    NO_BODY,
    BodyReader,
    ChunkedReader,
    LengthReader,
    Receiver,
    UntilCloseReader,
    WireLimits,
    read_head,
)

_BODYLESS_STATUSES = frozenset({204, 304})
_WHOLE = BodyWriter(Framing.LENGTH, is_over=True)
"""The writer for every body that is sent together with its head."""
_METHODS_THAT_DECLARE_NOTHING = frozenset({"GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


class ClientConnection(Receiver):
    """This program's end of a connection to a server. One exchange at a time, any number in a row."""

    __slots__ = ("_keep_alive", "_method", "_writer")

    def __init__(self, limits: WireLimits | None = None) -> None:
        super().__init__(limits or WireLimits())
        self._method = ""
        self._writer: BodyWriter | None = None
        self._keep_alive = True

    def send(self, event: RequestHead | Data | EndOfMessage) -> bytes:
        """The bytes to send for `event`. A request head starts an exchange.

        Raises:
            LocalProtocolError: the event is out of turn, or does not agree with the head.
        """
        match event:
            case RequestHead():
                return self._send_head(event, is_whole=False)
            case Data(data) if self._writer is not None:
                return self._writer.data(data)
            case EndOfMessage(trailers) if self._writer is not None:
                return self._writer.end(trailers)
        raise LocalProtocolError("the body comes after the head")

    def send_whole(self, head: RequestHead) -> bytes:
        """The bytes of a head. The caller sends the whole body, of `body_length_bytes`, right after them.

        The request is complete then: neither Data nor EndOfMessage may follow. Raises as `send`.
        """
        return self._send_head(head, is_whole=True)

    def sent_out_of_band(self, count: int) -> None:
        """Notes `count` body bytes that were sent without `send`."""
        if self._writer is None:
            raise LocalProtocolError("the body comes after the head")
        self._writer.passed(count)

    @property
    def can_reuse(self) -> bool:
        """Whether another request may follow: both messages are over, both sides allow it, no further byte has come."""
        return self.is_exchange_over and self._keep_alive and not self._incoming and not self.is_eof

    @property
    def is_exchange_over(self) -> bool:
        """Whether both messages of the last exchange are complete."""
        return self._is_done and self._writer is not None and self._writer.is_over

    def _send_head(self, head: RequestHead, *, is_whole: bool) -> bytes:
        if self._writer is not None:
            if not self.can_reuse:
                raise LocalProtocolError("the last exchange is not over, or was this connection's last")
            self._is_done = False
            self._body = None
        length = head.body_length_bytes
        fields = head.headers.encoded()
        lines = ""
        if length is None:
            lines = "Transfer-Encoding: chunked\r\n"
        elif fields.content_length is None and (length or head.method not in _METHODS_THAT_DECLARE_NOTHING):
            lines = f"Content-Length: {length}\r\n"
        self._method = head.method
        if is_whole:
            self._writer = _WHOLE
        else:
            self._writer = BodyWriter(Framing.CHUNKED) if length is None else BodyWriter(Framing.LENGTH, length)
        return encode_request_head(head.method, head.target, head.headers, fields, lines)

    def _take_head(self, raw: bytes) -> ResponseHead:
        status, reason, version, fields = split_response_head(raw.decode("latin-1"), self._limits.head)
        if status == 101 or self._writer is None:
            raise RemoteProtocolError(502, f"status {status} was not asked for")
        headers = Headers(fields)
        if status < 200:
            return ResponseHead(status, headers, reason, 0)
        length = self._length_of(status, version, headers)
        body, is_delimited = self._reader_of(raw, length, headers)
        keeps = version == "1.1" if "connection" not in headers.lower_names else keeps_alive(version, headers)
        self._keep_alive = keeps and is_delimited and self._method != "CONNECT"
        self._body = body
        return ResponseHead(status, headers, reason, length, self._keep_alive)

    def _length_of(self, status: int, version: str, headers: Headers) -> int | None:
        length = declared_length(headers.get_all("Content-Length")) if "content-length" in headers.lower_names else None
        if "transfer-encoding" in headers.lower_names and (length is not None or version != "1.1"):
            raise RemoteProtocolError(502, "a Transfer-Encoding with a Content-Length, or in HTTP/1.0")
        return 0 if status in _BODYLESS_STATUSES or self._method == "HEAD" else length

    def _reader_of(self, raw: bytes, length: int | None, headers: Headers) -> tuple[BodyReader, bool]:
        if length is not None:
            return LengthReader(length) if length else NO_BODY, True
        if "transfer-encoding" not in headers.lower_names:
            return UntilCloseReader(), False
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=2 * self._limits.head.max_bytes)
        parser.send(h11.Request(method="GET", target="/", headers=[("Host", "")]))
        parser.send(h11.EndOfMessage())
        read_head(parser, raw)  # h11 checks the Transfer-Encoding
        return ChunkedReader(self._limits.head, None), True
