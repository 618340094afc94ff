"""The server's end of a HTTP/1 connection, without I/O: bytes in, events out; events in, bytes out."""

from __future__ import annotations

import re

import h11

from native_handlers.http.headers import Headers
from supervisor.wire.errors import LocalProtocolError, RemoteProtocolError
from supervisor.wire.http1_body import BodyReader, BodyWriter, ChunkedReader, Framing, LengthReader
from supervisor.wire.http1_events import Data, EndOfMessage, RequestHead, ResponseHead, reason_of
from supervisor.wire.http1_head import Fields, HeadLimits, declared_length, split_request_head
from supervisor.wire.http1_receiver import Receiver, WireLimits, keeps_alive, read_head
from supervisor.wire.http1_target import normalised_target
from supervisor.wire.http1_write import encode_response_head

_NEEDS_H11 = re.compile(r"\r\n(?:content-length|transfer-encoding|expect|upgrade):", re.IGNORECASE)
_BODYLESS_STATUSES = frozenset({204, 304})


class ServerConnection(Receiver):
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

    @property
    def uncopied_body_bytes(self) -> int:
        """How much of a body of a declared length may now be received without `receive_data`; 0 if none may."""
        body = self._body
        return body.left_bytes if isinstance(body, LengthReader) and not self._incoming else 0

    def received_out_of_band(self, count: int) -> None:
        """Notes `count` body bytes that were received by other means than `receive_data`; 0 is the end of the stream.

        Raises:
            RemoteProtocolError: the stream ended within the body.
        """
        assert isinstance(self._body, LengthReader), "only a body of a declared length is received this way"
        if count:
            self._body.passed(count)
            return
        self.receive_data(b"")
        self.next_event()

    def sent_out_of_band(self, count: int) -> None:
        """Notes `count` body bytes that were sent by other means than `send`."""
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


def _bodiless_request_head(method: str, target: str, fields: Fields) -> RequestHead:
    """The same for a head that has nothing about a body, in fewer steps."""
    headers = Headers(fields)
    _check_host(headers, "1.1")
    return RequestHead(method, target, headers, "1.1", 0, False, keeps_alive("1.1", headers))


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
    return RequestHead(method, target, headers, version, length, expects, keeps_alive(version, headers))


def _parse_with_h11(
    method: str, target: str, version: str, fields: Fields, limits: HeadLimits
) -> tuple[h11.Connection, Fields]:
    """h11's reading of a head that the gate has passed: a parser that stands at the body, and the fields.

    h11 gets the normalised target, for it knows no bytes outside ASCII there.
    """
    block = "".join([f"{name}: {value}\r\n" for name, value in fields])
    raw = f"{method} {target} HTTP/{version}\r\n{block}\r\n".encode("latin-1")
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=2 * limits.max_bytes)
    event = read_head(parser, raw)
    return parser, [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers.raw_items()]
