"""The client's side of a connection: h11's server reads the sent requests, and every way in which an answer can end."""

from __future__ import annotations

import h11
import pytest

from native_handlers.http_model.headers import Headers
from supervisor.wire.errors import LocalProtocolError, RemoteProtocolError
from supervisor.wire.http1 import ClientConnection
from supervisor.wire.http1_events import NO_HEADERS, Data, EndOfMessage, RequestHead, ResponseHead, Signal

OK = b"HTTP/1.1 200 OK\r\n"


def started(method: str = "GET", length: int | None = 0) -> tuple[ClientConnection, bytes]:
    connection = ClientConnection()
    return connection, connection.send(RequestHead(method, "/a", Headers([("host", "x")]), body_length_bytes=length))


def test_a_value_makes_no_header_of_its_own():
    fields = Headers([("Host", "x"), ("Authorization", "Bearer a\r\nEvil: 1")])
    sent = ClientConnection().send(RequestHead("GET", "/a", fields, body_length_bytes=0))
    assert sent == b"GET /a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a  Evil: 1\r\n\r\n"


def exchange(raw: bytes, method: str = "GET", step: int = 100_000, *, is_closed: bool = False):
    connection, _ = started(method)
    connection.send(EndOfMessage())
    events, body = [], b""
    pieces = [raw[at : at + step] for at in range(0, len(raw), step)] + ([b""] if is_closed else [])
    for piece in pieces:
        connection.receive_data(piece)
        while not isinstance(event := connection.next_event(), Signal):
            if isinstance(event, Data):
                body += event.data
            else:
                events.append(event)
    return connection, events, body


def read_to_end(connection: ClientConnection) -> None:
    while not isinstance(connection.next_event(), EndOfMessage):
        pass


# The answer, its method, whether the server closes, status, length, body, whether the connection can be used again.
ANSWERS = [
    (OK + b"Content-Length: 5\r\n\r\nhello", "GET", False, 200, 5, b"hello", True),
    (OK + b"Content-Length: 0\r\n\r\n", "GET", False, 200, 0, b"", True),
    (OK + b"Content-Length: 5\r\nConnection: close\r\n\r\nhello", "GET", False, 200, 5, b"hello", False),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "GET", False, 200, None, b"hello", True),
    (OK + b"\r\nhello", "GET", True, 200, None, b"hello", False),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", "GET", False, 200, 5, b"hello", False),
    (OK + b"Content-Length: 5\r\n\r\n", "HEAD", False, 200, 0, b"", True),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n", "HEAD", False, 200, 0, b"", True),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET", False, 304, 0, b"", True),
    (b"HTTP/1.1 204 No Content\r\n\r\n", "DELETE", False, 204, 0, b"", True),
    (OK + b"Content-Length: 0\r\n\r\n", "CONNECT", False, 200, 0, b"", False),
    (OK + b"Content-Length: 5\r\n\r\nhelloX", "GET", False, 200, 5, b"hello", False),
]


@pytest.mark.parametrize("row", ANSWERS)
@pytest.mark.parametrize("step", [1, 2, 100_000])
def test_an_answer_is_read(row, step):
    raw, method, is_closed, status, length, body, can_reuse = row
    connection, events, got = exchange(raw, method, step, is_closed=is_closed)
    assert isinstance(events[0], ResponseHead)
    assert (events[0].status, events[0].body_length_bytes, got) == (status, length, body)
    assert events[-1] == EndOfMessage()
    assert connection.can_reuse is can_reuse


def test_interim_answers_come_first_and_trailers_last():
    raw = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nL: 1\r\n\r\n" + OK
    raw += b"Transfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n1\r\nx\r\n0\r\nSum: 9\r\n\r\n"
    _, events, body = exchange(raw)
    assert [event.status for event in events[:-1]] == [100, 103, 200]
    assert body == b"x"
    assert events[-1] == EndOfMessage(Headers([("Sum", "9")]))


@pytest.mark.parametrize(
    "raw",
    [
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"Transfer-Encoding: gzip\r\n\r\n",
        OK + b"A : b\r\n\r\n",
        OK + b"A: b\r\n c\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\nA: b\n\n",
        b"<html>",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\nhello",
    ],
)
def test_a_malformed_answer_is_refused(raw):
    with pytest.raises(RemoteProtocolError):
        exchange(raw, is_closed=True)


@pytest.mark.parametrize("raw", [row[0] for row in ANSWERS if row[6]])
def test_an_answer_that_is_cut_short_is_an_error(raw):
    for cut in range(1, len(raw)):
        connection, _ = started()
        connection.receive_data(raw[:cut])
        connection.receive_data(b"")
        with pytest.raises(RemoteProtocolError):
            read_to_end(connection)


def as_h11_reads(raw: bytes) -> list:
    server = h11.Connection(h11.SERVER)
    server.receive_data(raw)
    events = []
    while (event := server.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        events.append(event)
    return events


def test_order_and_case_of_the_headers_are_the_callers():
    connection = ClientConnection()
    sent = connection.send(RequestHead("GET", "/", Headers([("b-B", "1"), ("HOST", "x"), ("A-a", "2")])))
    assert sent == b"GET / HTTP/1.1\r\nb-B: 1\r\nHOST: x\r\nA-a: 2\r\n\r\n"


@pytest.mark.parametrize(
    ("method", "length", "expected"),
    [("POST", 0, b"Content-Length: 0"), ("POST", 2, b"Content-Length: 2"), ("GET", 2, b"Content-Length: 2"),
     ("POST", None, b"Transfer-Encoding: chunked")],
)  # fmt: skip
def test_a_body_is_framed(method, length, expected):
    connection, raw = started(method, length)
    assert expected in raw
    if length != 0:
        raw += connection.send(Data(b"hi"))
    raw += connection.send(EndOfMessage())
    events = as_h11_reads(raw)
    assert b"".join(bytes(event.data) for event in events if isinstance(event, h11.Data)) == (
        b"hi" if length != 0 else b""
    )
    assert not connection.is_exchange_over


def test_trailers_of_a_request_are_sent():
    connection, raw = started("POST", None)
    raw += connection.send(Data(b"hi")) + connection.send(EndOfMessage(Headers([("Sum", "1")])))
    assert as_h11_reads(raw)[-1].headers == [(b"sum", b"1")]


def test_one_connection_serves_many_exchanges():
    connection, _ = started()
    for _ in range(3):
        connection.send(EndOfMessage())
        connection.receive_data(OK + b"Content-Length: 1\r\n\r\nx")
        assert isinstance(connection.next_event(), ResponseHead)
        assert connection.next_event() == Data(b"x")
        assert connection.next_event() == EndOfMessage()
        assert connection.next_event() is Signal.PAUSED
        connection.send(RequestHead("GET", "/b", NO_HEADERS))


@pytest.mark.parametrize("target", ["/a b", "/a\r\nX: y", "", "/\x00", "/é"])
def test_a_target_that_a_request_line_cannot_hold_is_a_bug_of_ours(target):
    with pytest.raises(LocalProtocolError):
        ClientConnection().send(RequestHead("GET", target, NO_HEADERS))


@pytest.mark.parametrize("event", [Data(b"x"), EndOfMessage()])
def test_a_body_before_its_head_is_a_bug_of_ours(event):
    with pytest.raises(LocalProtocolError):
        ClientConnection().send(event)


def test_a_second_request_before_the_first_answer_is_a_bug_of_ours():
    connection, _ = started()
    with pytest.raises(LocalProtocolError):
        connection.send(RequestHead("GET", "/", NO_HEADERS))


def test_an_answer_before_any_request_is_refused():
    connection = ClientConnection()
    connection.receive_data(OK + b"\r\n")
    with pytest.raises(RemoteProtocolError, match="not asked for"):
        connection.next_event()
