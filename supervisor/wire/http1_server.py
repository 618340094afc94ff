"""The server's end of an HTTP/1 connection, without I/O: bytes in, events out; events in, bytes out."""

from __future__ import annotations

import re

import h11

from native_handlers.http_model.headers import Headers
from supervisor.wire.errors import LocalProtocolError, RemoteProtocolError
from supervisor.wire.http1_body import BodyWriter, Framing
from supervisor.wire.http1_events import REASONS, Data, EndOfMessage, RequestHead, ResponseHead, reason_of
from supervisor.wire.http1_head import (
    Fields,
    HeadLimits,
    declared_length,
    encode_response_head,
    keeps_alive,
    normalised_target,
    split_request_head,
)
from supervisor.wire.http1_receiver import (
    NO_BODY,
    BodyReader,
    ChunkedReader,
    LengthReader,
    Receiver,
    WireLimits,
    read_head,
)

_NEEDS_H11 = re.compile(r"\r\n(?:content-length|transfer-encoding|expect|upgrade):", re.IGNORECASE)
_FRAMING = frozenset({"host", "content-length", "transfer-encoding", "expect"})
_BODYLESS_STATUSES = frozenset({204, 304})
_WHOLE = BodyWriter(Framing.LENGTH, is_over=True)
"""The writer for every body that is sent together with its head."""


class ServerConnection(Receiver):
    """This program's end of a client's connection. One request at a time; `start_next_cycle` turns to the next one."""

    __slots__ = ("_keep_alive", "_request", "_writer")

    def __init__(self, limits: WireLimits | None = None) -> None:
        super().__init__(limits or WireLimits())
        self._keep_alive = True
        self._request: RequestHead | None = None
        self._writer: BodyWriter | None = None

    def _take_head(self, raw: bytes) -> RequestHead:
        text = raw.decode("latin-1")
        method, target, version, fields = split_request_head(text, self._limits.head)
        authority = None
        if not target.startswith("/") or not target.isascii():
            target, authority = normalised_target(method, target)
        if _NEEDS_H11.search(text) or version != "1.1" or authority is not None:
            fields = _parse_with_h11(method, target, version, fields, self._limits.head)
            request = _request_head(method, target, version, fields, authority)
            self._body = self._body_reader(request)
        else:
            # A head without any field about a body gives the same result in fewer steps.
            headers = Headers(fields)
            if headers.lower_names.count("host") != 1:
                raise _bad_host()
            keep_alive = "connection" not in headers.lower_names or keeps_alive("1.1", headers)
            request = RequestHead(method, target, headers, "1.1", 0, False, keep_alive)
            self._body = NO_BODY
        self._request = request
        return request

    def _body_reader(self, request: RequestHead) -> BodyReader:
        length, most = request.body_length_bytes, self._limits.max_body_bytes
        if length is None:
            return ChunkedReader(self._limits.head, most)
        if most is not None and length > most:
            raise RemoteProtocolError(413, f"the body is longer than {most} bytes")
        return LengthReader(length) if length else NO_BODY

    def send(self, event: ResponseHead | Data | EndOfMessage) -> bytes:
        """The bytes to send for `event`.

        `body_length_bytes` of a ResponseHead frames the body. None means chunked, or until close for HTTP/1.0.
        `keep_alive` becomes the Connection header. The answer to a HEAD, a 204 and a 304 take no Data.

        Raises:
            LocalProtocolError: the event is out of turn, or does not agree with the head.
        """
        match event:
            case ResponseHead():
                return self._send_head(event, is_whole=False)
            case Data(data):
                return self._current_writer().data(data)
            case EndOfMessage(trailers):
                return self._current_writer().end(trailers)

    def send_whole(self, head: ResponseHead) -> bytes:
        """The bytes of a head. The caller sends the whole body, if there is one, right after them.

        The answer is complete then: neither Data nor EndOfMessage may follow. Raises as `send`.
        """
        return self._send_head(head, is_whole=True)

    def sent_out_of_band(self, count: int) -> None:
        """Notes `count` body bytes that were sent without `send`."""
        self._current_writer().passed(count)

    @property
    def can_continue(self) -> bool:
        """Whether both messages are over and the connection stays open, so that the next request may be read."""
        return self._is_done and self._keep_alive and self._writer is not None and self._writer.is_over

    @property
    def ends_by_closing(self) -> bool:
        """Whether only the end of the connection ends the current answer, so that a torn answer looks whole."""
        return self._writer is not None and self._writer.framing is Framing.CLOSE

    def start_next_cycle(self) -> bool:
        """Turns to the next request. Returns whether bytes of it have arrived. Call this only after `can_continue`."""
        if not self.can_continue:
            raise LocalProtocolError("the next request is due only after both messages are over")
        self._is_done = False
        self._body = None
        self._request = None
        self._writer = None
        return bool(self._incoming)

    def _current_writer(self) -> BodyWriter:
        if self._writer is None:
            raise LocalProtocolError("the body comes after the head")
        return self._writer

    def _send_head(self, head: ResponseHead, *, is_whole: bool) -> bytes:
        status = head.status
        reason = head.reason or REASONS.get(status) or reason_of(status)
        if self._writer is not None:
            raise LocalProtocolError("the head was sent before")
        fields = head.headers.encoded()
        if status < 200:
            return encode_response_head("1.1", status, reason, head.headers, fields, "")
        version = self._request.http_version if self._request else "1.1"
        framing, lines = self._framing_of(head, fields.content_length, version)
        self._keep_alive = head.keep_alive and framing is not Framing.CLOSE
        if not self._keep_alive:
            lines += "Connection: close\r\n"
        elif version == "1.0":
            lines += "Connection: keep-alive\r\n"
        if is_whole:
            self._writer = _WHOLE
        else:
            self._writer = BodyWriter(framing, head.body_length_bytes or 0 if framing is Framing.LENGTH else 0)
        return encode_response_head(version, status, reason, head.headers, fields, lines)

    def _framing_of(self, head: ResponseHead, declared: str | None, version: str) -> tuple[Framing, str]:
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


def _bad_host() -> RemoteProtocolError:
    return RemoteProtocolError(400, "there must be one Host header")


def _request_head(method: str, target: str, version: str, fields: Fields, authority: str | None) -> RequestHead:
    headers = Headers(fields)
    hosts = headers.lower_names.count("host")
    if hosts > 1 or (not hosts and version == "1.1"):
        raise _bad_host()
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


def _parse_with_h11(method: str, target: str, version: str, fields: Fields, limits: HeadLimits) -> Fields:
    """The fields of a head that `http1_head` has checked, with those that frame the body as h11 reads them.

    h11 gets the normalised target, because h11 refuses bytes outside ASCII in a target. It gets the fields that frame
    the body alone: a long value of many words takes h11 milliseconds. Of equal lengths h11 keeps the first.
    """
    block = "".join([f"{name}: {value}\r\n" for name, value in fields if name.lower() in _FRAMING])
    raw = f"{method} {target} HTTP/{version}\r\n{block}\r\n".encode("latin-1")
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=2 * limits.max_bytes)
    event = read_head(parser, raw)
    framing = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers.raw_items()]
    framing.reverse()
    read: Fields = []
    for name, value in fields:
        if name.lower() not in _FRAMING:
            read.append((name, value))
        elif framing and framing[-1][0].lower() == name.lower():
            read.append(framing.pop())
    return read
